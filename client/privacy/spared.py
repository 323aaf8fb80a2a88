"""One patient's failure is that patient's zero: an exception must not tell the others apart, nor anybody outside.

What failed and where goes into the site's own log, without content. Where it was the machine that failed, and not the
patient, the next ones would fail too: then nothing is computed any more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from common.logs import logger, place_of

_Result = TypeVar("_Result")
_log = logger("site")


class Spared:
    """Runs what is computed for one patient after another; `failed` counts those that counted as nothing."""

    def __init__(self) -> None:
        self.failed = 0

    def __call__(self, compute: Callable[[], _Result], works: Callable[[], None]) -> _Result | None:
        """Return what is computed for one patient, None where that failed.

        Parameters
        ----------
        works
            Raises where the machine cannot compute any more, whoever's turn it is.
        """
        try:
            return compute()
        except Exception as error:
            self.failed += 1
            _log.warning(
                "a computation failed and counts as nothing (number %d of this step): %s", self.failed, place_of(error)
            )
        works()
        return None
