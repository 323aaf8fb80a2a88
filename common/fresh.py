"""A new folder that is there whole or not at all, whatever the program that makes it dies of."""

from __future__ import annotations

import contextlib
import errno
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from common.errors import Code, FedReasonError
from common.identity.keys import private_folder, sync_folder


@contextlib.contextmanager
def fresh_folder(target: Path, *, private: bool = True) -> Iterator[Path]:
    """Yield a new folder beside `target` that takes its name when all went well, and is removed when not.

    What a kill leaves of it begins with a dot and is in nobody's way. An empty folder of that name gives it its mode.

    Parameters
    ----------
    private
        Whether its owner alone may enter it, and the folders above that it makes.

    Raises
    ------
    FedReasonError
        KIT_EXISTS where `target` holds anything, is a mount point, or is where this process stands.
    """
    target = target.resolve()
    require_new(target)
    there = target.exists()
    if there and target.samefile("."):
        raise FedReasonError(
            Code.KIT_EXISTS,
            f"{target} is the folder that this command was started in, and another would take its place.",
            "Nothing was changed. Name a folder below it that is not there yet.",
        )
    if private and not target.parent.exists():
        private_folder(target.parent)
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    new.mkdir(mode=0o700 if private else 0o777)
    if there and not private:
        new.chmod(target.stat().st_mode & 0o7777)
    try:
        yield new
        try:
            new.rename(target)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise FedReasonError(
                    Code.KIT_EXISTS,
                    f"{target} is a mount point, and no folder can take its place.",
                    "Nothing was changed. Mount the folder above it, and let this command make the new one.",
                ) from None
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise _not_empty(target) from None
        sync_folder(target.parent)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def require_new(target: Path) -> None:
    """Refuse with KIT_EXISTS what is no folder, or one that holds anything; `fresh_folder` does so itself."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise _not_empty(target)


def _not_empty(target: Path) -> FedReasonError:
    return FedReasonError(
        Code.KIT_EXISTS,
        f"{target} exists and is not empty.",
        "Nothing was changed. Name another folder, or move this one away if you must.",
    )
