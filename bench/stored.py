"""A federation's folder with the store of a long run of many sites, for benches and tests that read it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, insert, inspect

from common.config import RunConfig
from server.provisioning.federation import Federation
from server.provisioning.provision import provision
from server.rounds.stages import EVALUATE, TRAIN, Took
from server.rounds.standing import FILE, StandingFile
from server.rounds.store import EvaluationRow, RoundRow, RunStore, StagesRow


def federation_of(folder: Path, sites: list[str], port: int) -> Federation:
    """Provision a federation of these sites."""
    made = provision(
        name="small",
        hosts=["localhost"],
        sites=sites,
        out=folder / "kits",
        port=9092,
        superlink_port=port,
        codebook=None,
    )
    return made.federation


def round_of(number: int, sites: list[str], *, refused: dict[str, int] | None = None) -> RoundRow:
    """Return a round of these sites; its adapter's hash follows from its number."""
    took = [site for site in sites if site not in (refused or {})]
    return RoundRow(
        round=number,
        seconds=1.0 + number % 7 / 10,
        sites=took,
        refused=refused or {},
        bytes_up=1000 * len(took),
        bytes_down=500 * len(sites),
        counts={"reward": 10.0 + 30.0 * number / (number + 200) + number * 7919 % 5 - 2.0, "rollouts": 50},
        gradient_norm=1.0 / number,
        adapter_sha256=hashlib.sha256(str(number).encode()).hexdigest(),
    )


def evaluation_of(number: int, site: str, place: int) -> EvaluationRow:
    """Return a site's held-out counts after a round."""
    right = min(20, 5 + number // 100 + place % 5)
    counts = {item: {"asked": 20, "free": right, "forced": right} for item in ("age", "lactate", "map")}
    return EvaluationRow(round=number, site=site, counts=counts)


def stages_of(number: int, sites: list[str], away: Collection[str] = ()) -> StagesRow:
    """Return what the stages of a round took: each site a little longer than the one before it."""
    there = [site for site in sites if site not in away]
    took = {site: Took(9.0 + i + number % 7 / 10, 500, 1000) for i, site in enumerate(there)}
    told = {site: Took(2.0 + i / 10, 500, 80) for i, site in enumerate(there)}
    stages = {TRAIN: took | dict.fromkeys(away, Took()), EVALUATE: told}
    return StagesRow(round=number, stages=stages if number else {EVALUATE: told})


def stored(folder: Path, config: RunConfig, sites: list[str], rounds: int) -> StandingFile:
    """Write a run under way: its store by the real tables, in one transaction, and its standing."""
    with RunStore.opened(folder, config) as store:
        store.record(round_of(1, sites))
    done = [round_of(number, sites, refused=_away(number, sites)) for number in range(2, rounds + 1)]
    told = [evaluation_of(number, site, i) for number in range(rounds + 1) for i, site in enumerate(sites)]
    with create_engine(f"sqlite:///{folder / 'rounds.sqlite'}").begin() as link:
        took = [stages_of(number, sites, _away(number, sites)) for number in range(rounds + 1)]
        for rows in (done, told, took):
            if rows:
                link.execute(insert(type(rows[0])), [_values(row) for row in rows])
    standing, now = StandingFile(folder / FILE, config.federation.rounds), datetime.now(UTC)
    standing.tell(
        state="running",
        round=rounds + 1,
        exchange="train",
        waiting_for=tuple(sites[:3]),
        contact=dict.fromkeys(sites, now),
        asked=dict.fromkeys(sites, now),
        answered=dict.fromkeys(sites[3:], 1.5),
        seconds=1.5,
    )
    return standing


def _values(row: RoundRow | EvaluationRow | StagesRow) -> dict[str, Any]:
    return {one.key: getattr(row, one.key) for one in inspect(type(row)).column_attrs}


def _away(number: int, sites: list[str]) -> dict[str, int]:
    return {sites[number % len(sites)]: 507} if number % 10 == 0 and len(sites) > 1 else {}
