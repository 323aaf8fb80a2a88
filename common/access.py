"""Files of somebody else: whether one is there, whose it is, and as whom to come back."""

from __future__ import annotations

import os
import pwd
from contextlib import suppress
from pathlib import Path

from common.errors import Code, FedReasonError


def is_there(path: Path) -> bool:
    """Whether there is such a file.

    Raises
    ------
    FedReasonError
        FILE_FORBIDDEN where this user may not look.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError as error:
        raise forbidden(error) from None
    return True


def forbidden(error: PermissionError) -> FedReasonError:
    """Return the refusal for a file that another user's folder, or the file's own mode, keeps from this user."""
    path, own = Path(error.filename), os.geteuid()
    place, owner = _nearest(path)
    found = f"{path} may not be reached by {user_name(own)}"
    if owner == own:
        return FedReasonError(Code.FILE_FORBIDDEN, f"{found}.", "Correct the permissions of it and its folders.")
    return FedReasonError(
        Code.FILE_FORBIDDEN,
        f"{found}: {place} belongs to {user_name(owner)}.",
        f"Repeat the command as that user: sudo -u {user_name(owner)} and the command.",
    )


def _nearest(path: Path) -> tuple[Path, int]:
    """Return the path itself, or else the first folder above it that can be looked at, and the number of its owner."""
    for place in (path, *path.parents):
        with suppress(OSError):
            return place, place.stat().st_uid
    return path, os.geteuid()


def user_name(number: int) -> str:
    """Return a user's name; the number itself where this machine knows none."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
