"""Time that passes where somebody waits, and nowhere else: a minute is over at once, on the slowest machine too."""

from __future__ import annotations

import time

START = time.time()


class Clock:
    """Stands in for the module `time` in what sleeps and looks at the clock in one thread."""

    def __init__(self) -> None:
        self._slept = 0.0

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self._slept += seconds

    def monotonic(self) -> float:
        """Return the seconds that were slept."""
        return self._slept

    def time(self) -> float:
        """Return Unix time: that of the real start of the tests, and what was slept since."""
        return START + self._slept
