"""A site's log: short lines on the terminal and, rotated, in state/log: the node's site.log, the other's resident.log.

Two processes cannot rotate one file.
"""

from __future__ import annotations

import logging
from pathlib import Path

from common.identity.keys import private_folder
from common.logs import QuietFile, log_to_stderr

_BYTES = 5_000_000
_FILES = 5


def log_to_file(folder: Path, name: str = "site.log") -> None:
    """Log our own messages to the terminal and to a file of the site folder: 30 MB at most."""
    log_to_stderr()
    place = folder / "state" / "log"
    private_folder(place)
    handler = QuietFile(place / name, maxBytes=_BYTES, backupCount=_FILES, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    (place / name).chmod(0o600)
    logging.getLogger("fedreason").addHandler(handler)
