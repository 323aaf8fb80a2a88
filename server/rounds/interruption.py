"""Ctrl-C, SIGTERM and SIGHUP as one interruption, which waits where something would be left half done."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """As a context it turns the signals that ask for an end into KeyboardInterrupt, but for those ignored before."""

    def __init__(self) -> None:
        self._held = self._asked = False

    def _take(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        if not self._held:
            raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Iterator[None]:
        """Finish this block first; an interruption that came meanwhile is raised at its end."""
        self._held, before = True, self._asked
        try:
            yield
        finally:
            self._held = False
        if self._asked and not before:
            raise KeyboardInterrupt

    def __enter__(self) -> Interruption:
        """Take the signals."""
        self._old = {one: signal.getsignal(one) for one in _SIGNALS}
        for one, handler in self._old.items():
            if handler != signal.SIG_IGN:
                signal.signal(one, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        """Give them back."""
        for one, handler in self._old.items():
            signal.signal(one, handler)
