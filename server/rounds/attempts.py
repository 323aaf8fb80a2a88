"""`attempt.json` of a run's folder: which attempts at its secure sums were begun. None may ever be made twice."""

from __future__ import annotations

import json
from pathlib import Path

from common.errors import Code, FedReasonError

FILE = "attempt.json"


def begun(folder: Path) -> dict[str, int]:
    """Return the last attempt of each round of which one was begun; none where no file is there.

    Raises
    ------
    FedReasonError
        RUN_CHECKPOINT where it is damaged: taken for empty, an attempt would be made twice.
    """
    path = folder / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if "round" in found:  # as versions before wrote it
            found = {str(found["round"]): found["attempt"]}
        if all(type(attempt) is int and int(number) >= 0 <= attempt for number, attempt in found.items()):
            return dict(found)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    raise FedReasonError(
        Code.RUN_CHECKPOINT,
        f"{path} is damaged.",
        "Put it back from a backup, or give the run another name: an attempt at a secure sum is never made twice.",
    )
