"""What a SQLite database says that cannot be used now, and is not damaged."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

from common.cli import disk_full
from common.errors import Code, FedReasonError

_BROKEN_OFF = frozenset({sqlite3.SQLITE_READONLY_ROLLBACK, sqlite3.SQLITE_READONLY_RECOVERY})
_HELD = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_KIND = 0xFF
"""Of an extended code, the part that names its kind (https://www.sqlite.org/rescode.html)."""


def passing(error: BaseException | None, path: Path) -> FedReasonError | None:
    """Return the refusal for what passes: no space, another program that writes, a write that was broken off.

    None for any other error, damage among them.
    """
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return None
    if code & _KIND == sqlite3.SQLITE_FULL:
        return disk_full(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)))
    if code in _BROKEN_OFF:
        return FedReasonError(
            Code.RUN_LOCKED,
            f"A write to {path} was broken off, and who only reads cannot undo it.",
            "Nothing is lost: start again what writes it (for a run `python -m server run`), then repeat this.",
        )
    if code & _KIND in _HELD:
        return FedReasonError(
            Code.RUN_LOCKED, f"Another program holds {path}.", "Nothing is lost: repeat this in a moment."
        )
    return None
