"""A site folder that had a ledger of its own and now charges another's: what it spent goes along, once.

Each of its lines is charged to the other ledger under the run's name and the name of the ledger that it stood in, which
no run bears. How many of them are there says where a takeover that was cut short goes on.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from client.privacy.chain import LEDGER, ledger_folder, site_keys
from client.privacy.ledger import Ledger
from client.site.anchor import ANCHOR, read_anchor
from common.errors import Code, FedReasonError
from common.logs import logger

_PATIENCE = 60.0
_log = logger("site")


def has_own_lines(folder: Path) -> bool:
    """Say whether a site folder has, or is known to have had, lines in a ledger of its own."""
    anchor = read_anchor(folder / ANCHOR, site_keys(folder))
    return (ledger_folder(folder) / LEDGER).exists() or (anchor is not None and anchor.head.sequence > 0)


def take_over(folder: Path, ledger: Ledger, witnesses: Path) -> None:
    """Charge to a ledger what a site folder's own one has and this one does not have of it yet.

    Raises
    ------
    FedReasonError
        All of `Ledger.opened` for its own ledger, which has to be whole; BUDGET_SPENT where a line of it has no finite
        cost; SITE_RUNNING where another process is at it and does not end.
    """
    if not has_own_lines(folder):
        return
    own = Ledger.opened(folder, witnesses)
    name, lock = f"@{own.name}", ledger.folder / "takeover"
    try:
        with FileLock(lock, timeout=_PATIENCE):
            taken = sum(entry.release.run.endswith(name) for entry in ledger.entries())
            left = own.entries()[taken:]
            for entry in left:
                ledger.charge(replace(entry.release, run=entry.release.run + name), cap=math.inf)
    except Timeout:
        raise FedReasonError(Code.SITE_RUNNING, f"Another process holds {lock}.", "End that process.") from None
    if left:
        _log.warning("%d lines of the ledger of %s are charged to the one that it now uses", len(left), folder)
