"""What a site heard of the others' ledgers cannot be washed out by a coordinator that invents names."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from client.privacy import peers
from client.privacy.chain import ledger_folder
from client.privacy.peers import PEERS, hear_of_peers, heard_of_peers
from client.training.states import Silent
from common.errors import Code, FedReasonError
from common.messages.heads import Head
from tests.hospitals import asked, federation_of, machine, private_run, refusal, restart
from tests.privacy_checks import Check, on_broken
from tests.privacy_checks.anchored import small

HEARD = Head(5, "5" * 64)
FEW = {"sampling_rate": 0.1}


def check_flooded() -> bool:
    """After three tasks with 150 invented names each a site knows what it heard of its peer, and nothing else."""
    with machine() as folder:
        site, config = federation_of(folder, "amc", "snubh")[0], private_run(small(), federation=FEW)
        restart()
        told: dict[str, dict[str, Head]] = {"snubh": {"snubh": HEARD}}
        for number in range(4):
            try:
                if refusal(asked(site, config, number + 1, ledgers=told)) is not None:
                    return False
            except Silent:
                return False
            told = {f"made{number}-{one}": {f"made{number}-{one}": Head(1, "1" * 64)} for one in range(150)}
        try:
            return heard_of_peers(ledger_folder(site)) == {"snubh": HEARD}
        except FedReasonError:
            return False


def check_unreadable() -> bool:
    """A memory that cannot be read ends in an error, and is left as it is."""
    with machine() as folder:
        site, config = federation_of(folder, "amc", "snubh")[0], private_run(small(), federation=FEW)
        restart()
        if refusal(asked(site, config, ledgers={"snubh": {"snubh": HEARD}})) is not None:
            return False
        path = ledger_folder(site) / PEERS
        path.write_bytes(path.read_bytes()[:-5])
        torn = path.read_bytes()
        code = refusal(asked(site, config, 2, ledgers={"snubh": {"snubh": Head(1, "1" * 64)}}))
        return code == int(Code.LEDGER_DAMAGED) and path.read_bytes() == torn


def _any_name(folder: Path, name: str, seen: Any, roster: Any) -> None:
    hear_of_peers(folder, name, seen, None)


def _no_limit(folder: Path, name: str, seen: Any, roster: Any) -> None:
    def unread(value: Any) -> dict[str, Head]:
        return {site: Head(*head) for site, head in value.items()}

    with patch.object(peers, "read_heads", unread), patch.object(peers, "MOST_SITES", 10**6):
        hear_of_peers(folder, name, seen, None)


def _nothing_is_fine(folder: Path) -> dict[str, Head]:
    try:
        return heard_of_peers(folder)
    except FedReasonError:
        return {}


CHECKS = [
    Check(
        "peers: 150 invented names a task",
        check_flooded,
        {
            "names are not held against the roster": partial(
                on_broken, check_flooded, "client.training.walk.hear_of_peers", _any_name
            ),
            "more is written than is read": partial(
                on_broken, check_flooded, "client.training.walk.hear_of_peers", _no_limit
            ),
        },
    ),
    Check(
        "peers: a torn memory",
        check_unreadable,
        {
            "what cannot be read is empty": partial(
                on_broken, check_unreadable, "client.privacy.peers.heard_of_peers", _nothing_is_fine
            )
        },
    ),
]
