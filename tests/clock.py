"""Time that passes where somebody waits, and nowhere else: a minute is over at once, on the slowest machine too."""

from __future__ import annotations

import time

START = time.time()


class Clock:
    """Stands in for the module `time` in what sleeps and looks at the clock in one thread; `now` counts the seconds."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    def monotonic(self) -> float:
        """Return the seconds that have passed."""
        return self.now

    def time(self) -> float:
        """Return Unix time: that of the real start of the tests, and what has passed since."""
        return START + self.now
