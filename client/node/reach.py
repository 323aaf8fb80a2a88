"""What stands between a site and its coordinator, looked at again while the site runs: for months, it may be.

A connection that fails says as little as "ConnectError", also where it is a certificate that has ended.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress

from common.errors import FedReasonError

_DAY = 86_400.0
_SILENT = 60.0
_APART = 600.0


class Reach:
    """Looks now and then.

    Parameters
    ----------
    look
        Looks at the coordinator as `check` does, and warns of a certificate that soon ends; refuses by number.
    """

    def __init__(self, look: Callable[[], object]) -> None:
        self._look, self._daily = look, time.monotonic()
        self._looked = -math.inf
        self._refusal: FedReasonError | None = None

    def answered(self) -> None:
        """Take note that the coordinator answers; look once a day, for what is to be warned of while it does."""
        self._refusal = None
        if time.monotonic() - self._daily >= _DAY:
            self._daily = time.monotonic()
            with suppress(FedReasonError):
                self._look()

    def why(self, wait: float) -> FedReasonError | None:
        """Return why nobody answers, where that is known: looked at once the wait is long, and every ten minutes."""
        if wait >= _SILENT and time.monotonic() - self._looked >= _APART:
            self._looked, self._refusal = time.monotonic(), None
            try:
                self._look()
            except FedReasonError as error:
                self._refusal = error
        return self._refusal
