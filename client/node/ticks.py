"""When the answer to a message leaves: in a private run at a public time, whoever's records it is of.

How long an answer took depends on records, and so does whether there was one when the work was ended: by the end of the
run, a pause, the hours of site.toml or the end of the program.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from client.node.computing import Computing, Stopped, is_of_records
from client.node.running import Running
from client.node.status import Status
from client.node.worker import RunEnded
from client.training.states import Silent
from common.cli import is_disk_full
from common.messages.kinds import Reply

_LOOK_SECONDS = 0.5


class Ticks:
    """Holds back what was computed of records, and that nothing was.

    Parameters
    ----------
    stop
        Set where the site is being stopped.
    """

    def __init__(self, stop: threading.Event, status: Status, running: Running, computing: Computing) -> None:
        self._stop, self._status, self._running, self._computing = stop, status, running, computing

    def held(self, taken: float, every: float, compute: Callable[[], Reply]) -> Reply:
        """Return what is computed once it may leave.

        Parameters
        ----------
        taken
            When the message was taken in hand.
        every
            Seconds, a multiple of which must have passed since; 0 for at once.

        Raises
        ------
        Silent, RunEnded
            At that time: nothing may leave, or the run is over.
        OSError
            At that time too, where there is no room for what was computed of records.
        Stopped, FedReasonError
            At once; `Stopped` is silent where something was held back.
        """
        try:
            reply = compute()
        except (Silent, RunEnded):
            self._hold(taken, every)
            raise
        except OSError as error:
            if is_disk_full(error) and self._computing.hides:
                self._hold(taken, every)
            raise
        if is_of_records(reply):
            self._hold(taken, every)
        return reply

    def _hold(self, taken: float, every: float) -> None:
        """Wait until a multiple of `every` seconds has passed since the message was taken in hand.

        Where the work is ended meanwhile it is taken for unfinished, and what was computed is forgotten: whoever knows
        when it was ended would else see whether there was an answer then. What ended it ends it for good.
        """
        if not every:
            return
        until = taken + next_tick(time.monotonic() - taken, every)
        if (left := until - time.monotonic()) > 0:
            self._status.announce("working", f"done; what there is to send leaves in {left:.0f} s")
        ended: Silent | RunEnded | None = None
        while True:
            if ended is None and (ended := self._ended()) is not None:
                self._computing.end()
            if (left := until - time.monotonic()) <= 0:
                break
            self._stop.wait(min(left, _LOOK_SECONDS))
            if self._stop.is_set():
                self._computing.end()
                raise Stopped(silent=True) from None
        if ended is not None:
            raise ended from None

    def _ended(self) -> Silent | RunEnded | None:
        if self._running.ended:
            return RunEnded()
        return Silent() if self._computing.hides and self._computing.held() is not None else None


def next_tick(elapsed: float, every: float) -> float:
    """Return the first multiple of `every`, and not 0, that is no earlier than `elapsed`; at once where it is 0.

    An `every` below a millisecond is one.
    """
    if not every:
        return elapsed
    every = max(every, 1e-3)
    return every * max(1, math.ceil(elapsed / every))
