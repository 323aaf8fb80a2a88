"""What this site heard of the other sites' ledgers, kept beside its own, and what it tells of them.

A coordinator cannot wipe it: names of the roster alone are kept, and what would not be read again is not written.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from common.errors import Code, FedReasonError
from common.identity.keys import private_folder, write_private
from common.logs import logger
from common.messages.heads import MOST_SITES, Head, Heads, Seen, read_heads

PEERS = "peers.json"
_log = logger("site")


def heard_of_peers(folder: Path) -> dict[str, Head]:
    """Return the last head of each other site's ledger that this site was told.

    Raises
    ------
    FedReasonError
        LEDGER_DAMAGED where the file cannot be read: what was heard is then not known, which is not nothing.
    """
    path = folder / PEERS
    try:
        return read_heads(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise FedReasonError(
            Code.LEDGER_DAMAGED,
            f"{path} cannot be read ({type(error).__name__}), so what the other sites' ledgers were is not known.",
            "Put it back from your backup. Where there is none, tell the privacy officer and remove it: what the other "
            "sites show is then gathered anew.",
        ) from None


def hear_of_peers(folder: Path, name: str, seen: Seen, roster: Collection[str] | None) -> None:
    """Keep what the other sites told of their own ledgers. One that became shorter is told in the log and not kept.

    Parameters
    ----------
    folder
        The folder of this site's ledger.
    name
        This site.
    seen
        What came with a task.
    roster
        Names of the sites that were accepted here; None in a simulation, which has no roster.

    Raises
    ------
    FedReasonError
        LEDGER_DAMAGED as `heard_of_peers` does.
    """
    before = heard_of_peers(folder)
    told: Heads = {site: heads[site] for site, heads in sorted(seen.items()) if site != name and site in heads}
    strangers = 0 if roster is None else len(told.keys() - set(roster))
    if strangers:
        _log.warning("%d names came with heads of ledgers that the roster does not have: not kept", strangers)
    after = dict(before)
    for site in () if roster is None else before.keys() - set(roster):
        if len(before.keys() | (told.keys() & set(roster or ()))) > MOST_SITES:
            del after[site]
    for site, head in told.items():
        if site in before and head.sequence < before[site].sequence:
            _log.warning("%s shows a ledger of %d lines, before %d", site, head.sequence, before[site].sequence)
        elif (roster is None or site in roster) and (site in after or len(after) < MOST_SITES):
            after[site] = max(head, after.get(site, head))
    if after != before:
        content = json.dumps(after, sort_keys=True).encode()
        read_heads(json.loads(content))
        private_folder(folder)
        write_private(folder / PEERS, content)
