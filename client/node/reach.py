"""What stands between a site and its coordinator, looked at again while the site runs: for months, it may be.

A connection that fails says as little as "ConnectError", also where it is a certificate that has ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from common.errors import FedReasonError
from common.logs import logger

_DAY = 86_400.0
_SILENT = 60.0
_APART = 600.0
_log = logger("site")


class Reach:
    """Looks now and then.

    Parameters
    ----------
    look
        Looks at the coordinator as `check` does, and warns of a certificate that soon ends; refuses by number.
    """

    def __init__(self, look: Callable[[], object]) -> None:
        self._look, self._looked = look, time.monotonic()

    def daily(self) -> None:
        """Look once a day, for what is to be warned of while all is well."""
        if time.monotonic() - self._looked >= _DAY:
            self._refusal()

    def why(self, wait: float) -> FedReasonError | None:
        """Return why nobody answers, where that is known: of a wait that has grown long, once in ten minutes."""
        long = wait >= _SILENT and time.monotonic() - self._looked >= _APART
        return self._refusal() if long else None

    def _refusal(self) -> FedReasonError | None:
        self._looked = time.monotonic()
        try:
            self._look()
        except FedReasonError as error:
            _log.warning("%s", error)
            return error
        return None
