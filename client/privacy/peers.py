"""What this site heard of the other sites' ledgers, kept beside its own, and what it tells of them."""

from __future__ import annotations

import json
from pathlib import Path

from common.identity.keys import write_private
from common.logs import logger
from common.messages.heads import Head, Heads, Seen, read_heads

PEERS = "peers.json"
_log = logger("site")


def heard_of_peers(folder: Path) -> dict[str, Head]:
    """Return the last head of each other site's ledger that this site was told; none where the file is unreadable."""
    try:
        return read_heads(json.loads((folder / PEERS).read_bytes()))
    except FileNotFoundError:
        return {}
    except ValueError:
        _log.warning("%s cannot be read; what was heard of other sites' ledgers is gathered anew", PEERS)
        return {}


def hear_of_peers(folder: Path, name: str, seen: Seen) -> None:
    """Keep what the other sites told of their own ledgers. One that became shorter is told in the log and not kept.

    Parameters
    ----------
    folder
        The folder of this site's ledger.
    name
        This site.
    seen
        What came with a task.
    """
    before = heard_of_peers(folder)
    told: Heads = {site: heads[site] for site, heads in seen.items() if site != name and site in heads}
    for site, head in told.items():
        if site in before and head.sequence < before[site].sequence:
            _log.warning("%s shows a ledger of %d lines, before %d", site, head.sequence, before[site].sequence)
    after = {**before, **{site: head for site, head in told.items() if head >= before.get(site, head)}}
    if after != before:
        write_private(folder / PEERS, json.dumps(after, sort_keys=True).encode())
