"""Lines that are appended to a file for its owner alone: whole or not at all, and on the disk before they count."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from common.identity.keys import sync_folder


def private_opener(path: str, flags: int) -> int:
    """Open a file for its owner alone (0600): an `opener` of `open`."""
    return os.open(path, flags, 0o600)


def append_private(path: Path, line: bytes) -> None:
    """Append a line to a file for its owner alone, whole or not at all; it is on the disk when this returns."""
    with open(path, "ab", buffering=0, opener=private_opener) as file:
        before = file.tell()
        try:
            while line:
                line = line[file.write(line) :]
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(before)
            raise
    if before == 0:
        sync_folder(path.parent)
