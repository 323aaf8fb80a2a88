"""The site's own secret, `keys/split`: it keys who trains and who is kept for evaluation, so that nobody outside picks.

A simulated site has none: there the federation's name is the key, so that a patient trains wherever the record lives.
"""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from common.errors import Code, FedReasonError
from common.identity.keys import private_folder, require_private, write_private
from common.logs import logger

SECRET = "split"
_log = logger("site")
_FORM = re.compile(r"[0-9a-f]{64}\n?")


def split_secret(folder: Path, federation: str | None) -> str | None:
    """Return the secret of a site folder; one that lacks it gets one, and a simulated site has none.

    Raises
    ------
    FedReasonError
        KEY_MISSING where the file holds something else, KEY_PERMISSIONS where others can read it.
    """
    path = folder / "keys" / SECRET
    if not path.exists():
        if federation is None:
            return None
        new_split_secret(folder)
        _log.warning("%s is drawn: who is kept for evaluation is now the site's secret, and others than before", path)
    require_private(path)
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        text = ""
    if not _FORM.fullmatch(text):
        raise FedReasonError(
            Code.KEY_MISSING,
            f"{path} does not hold 64 hexadecimal digits.",
            "Put it back from your backup: with another one, patients who were kept for evaluation are trained on.",
        )
    return text.strip()


def new_split_secret(folder: Path) -> None:
    """Draw the secret of a site folder."""
    private_folder(folder / "keys")
    write_private(folder / "keys" / SECRET, f"{secrets.token_hex(32)}\n".encode())
