"""Three sites of a federation, a run of four rounds over them, and what its folder tells afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np

from common.config import RunConfig
from common.identity.keys import new_node_key, new_signing_key, public_text, save_key
from common.identity.roster import Member, Roster, sign_roster
from common.messages.kinds import Task
from server.provisioning.federation import Federation, FederationConfig
from server.rounds.grid import GridExchange
from server.rounds.loop import Progress
from server.rounds.standing import FILE, Standing, read_standing
from server.rounds.store import RunStore
from tests.scripted_grid import SIZE, Node, ScriptedGrid

SITES = ("north", "south", "west")
ROUNDS = 4


def make_federation(folder: Path) -> Federation:
    federation = Federation(folder, FederationConfig(name="fed", host="localhost", sites=SITES))
    key = new_signing_key()
    save_key(federation.signing_key, key)
    federation.save()
    members = [
        Member(
            site=site,
            signing_key=public_text(new_signing_key()),
            node_key=public_text(new_node_key()),
            admitted=date(2026, 1, 1),
        )
        for site in SITES
    ]
    roster = Roster(federation="fed", version=1, issued=datetime.now(UTC), members=tuple(members))
    federation.roster_file.write_text(sign_roster(roster, key))
    federation.nodes_file.write_text(json.dumps({str(i): site for i, site in enumerate(SITES, start=1)}))
    return federation


def nodes() -> tuple[Node, Node, Node]:
    north, south, west = (Node(number, site) for number, site in enumerate(SITES, start=1))
    return north, south, west


class Stopped(Exception):
    """Stands for a kill between two rounds."""


def refused(config: RunConfig, folder: Path) -> list[dict[str, int]]:
    with RunStore.opened(folder, config) as store:
        return [row.refused for row in store.rounds()]


def contributed(config: RunConfig, folder: Path) -> list[list[str]]:
    with RunStore.opened(folder, config) as store:
        return [row.sites for row in store.rounds()]


def standing(folder: Path) -> Standing:
    found = read_standing(folder / FILE)
    assert found is not None
    return found


def met(config: RunConfig, federation: Federation | None, *sites: Node) -> GridExchange:
    """Return an exchange whose sites have agreed on a layout."""
    exchange = GridExchange(ScriptedGrid(*sites), config, federation)
    list(exchange.layouts(Task(config, 0, 0, None), lambda: False))
    return exchange


def task_of(config: RunConfig, number: int = 1) -> Task:
    return Task(config, number, 0, np.zeros(SIZE, dtype=np.float32))


def stop_after(number: int) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if progress.round == number:
            raise Stopped

    return report
