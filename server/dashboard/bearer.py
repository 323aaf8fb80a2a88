"""What a Prometheus server bears: a secret in a file of the federation's folder, made at the first start."""

from __future__ import annotations

import secrets
from pathlib import Path

from common.identity.keys import require_private, write_private

FILE = "dashboard-token"
_FEWEST = 32


def token_of(folder: Path) -> str:
    """Return the secret; one that is missing or too short to be one is made anew.

    Raises
    ------
    FedReasonError
        KEY_PERMISSIONS where others may read it.
    """
    path = folder / FILE
    if path.exists():
        require_private(path)
        found = path.read_text(encoding="utf-8-sig", errors="replace").strip()
        if len(found) >= _FEWEST and found.isascii():
            return found
    made = secrets.token_urlsafe(32)
    write_private(path, made.encode())
    return made
