"""Whether the run of the message in hand still runs: asked at fixed times, whatever the site is doing.

The coordinator sees every such question. Asked only while there is something to compute, they would tell when that
ended; so they go on until the answer leaves. What it answers ends the work in one way alone, as the end of the run.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from client.node.worker import Lost, RunEnded
from common.errors import FedReasonError

ASK_EVERY = 5.0
"""Seconds between two questions."""


class Running:
    """Asks in a thread of its own, so that nothing else decides when.

    Parameters
    ----------
    ask
        Raises `RunEnded` where a run is over, `Lost` where that cannot be asked, `FedReasonError` where it is refused:
        a site that is known no more learns it where it sends its answer.
    heard
        Called by whoever looks, once for each time that the coordinator answered.
    """

    def __init__(self, ask: Callable[[int], None], heard: Callable[[], None], every: float = ASK_EVERY) -> None:
        self._ask, self._heard, self._every = ask, heard, every
        self._answered, self._ended = False, False

    @contextlib.contextmanager
    def watched(self, run: int) -> Iterator[None]:
        """Surround all that is done for a message of a run, until its answer may leave."""
        over = threading.Event()
        self._answered, self._ended = False, False
        threading.Thread(target=self._go_on_asking, args=(run, over), daemon=True, name="running").start()
        try:
            yield
        finally:
            over.set()

    @property
    def ended(self) -> bool:
        """Whether the run is known to be over."""
        if self._answered:
            self._answered = False
            self._heard()
        return self._ended

    def require(self) -> None:
        """Raise `RunEnded` where the run that is watched is known to be over."""
        if self.ended:
            raise RunEnded

    def _go_on_asking(self, run: int, over: threading.Event) -> None:
        while not over.wait(self._every):
            try:
                self._ask(run)
            except RunEnded:
                if not over.is_set():
                    self._ended = True
                return
            except (Lost, FedReasonError):
                continue
            except RuntimeError:
                return  # the connection was closed: the site is being stopped
            else:
                self._answered = True
