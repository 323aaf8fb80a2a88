"""Secure sums of hospitals: their runs, the plain run of the same sites, and what each of them sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from bench.deployment import Deployment
from bench.waiting import PATIENCE
from client.node.outbox import contents, read_entries
from client.node.worker import Parcel
from client.training.workplace import Workplace
from common.arrays import adapter_sha256
from common.config import RunConfig
from common.messages.kinds import Contribution, Reply, Step, Task
from common.messages.records import read_reply
from server.rounds.loop import run_rounds
from server.rounds.store import RunStore
from simulation.arms import LocalExchange
from tests.deployment.hospitals import config_of

STEPS = ("advertisement", "shares", "masked", "consent", "revealed")
LATTICE = {"bits": 22, "clip_norm": 0.5}


def secure(model: Path, name: str, rounds: int, **changes: object) -> RunConfig:
    table = config_of(model, name, rounds, **changes).model_dump(mode="json")
    table["lattice"], table["federation"]["aggregation"] = LATTICE, "secure"
    table["seed"] = len(name)  # of the same seed the sums of both runs would be the same, and no site masks one twice
    return RunConfig.model_validate(table)


class Again(LocalExchange):
    """Sites in this process that are asked for a given attempt at each round."""

    attempts: dict[int, int]

    def contributions(self, task: Task, enough: Callable[[], bool]) -> Iterator[Reply]:
        asked = replace(task, attempt=self.attempts.get(task.round, 0))
        for reply in super().contributions(asked, enough):
            assert isinstance(reply, Contribution)
            yield replace(reply, attempt=task.attempt)


def plain(config: RunConfig, prepared: dict[str, Path], folder: Path, attempts: dict[int, int]) -> str:
    """Hash of the adapter of the plain run in one process."""
    federation = config.federation.model_copy(update={"aggregation": "plain"})
    config = config.model_copy(update={"federation": federation})
    exchange = Again([Workplace(path) for path in prepared.values()])
    exchange.attempts = attempts
    with RunStore.opened(folder, config) as store:
        return adapter_sha256(run_rounds(config, exchange, store))


def sent(deployment: Deployment, site: str, run: str, number: int) -> list[str]:
    entries = read_entries(deployment.hospitals / site / "state" / "outbox")
    return [entry.kind for entry in entries if (entry.run, entry.round) == (run, number) and entry.sent]


def masked(deployment: Deployment, site: str, run: str, number: int) -> int:
    """How many different masked sums have left; one whose arrival was not noted goes again, as it was."""
    folder = deployment.hospitals / site / "state" / "outbox"
    seen = set()
    for entry in read_entries(folder):
        if (entry.run, entry.round, entry.kind) == (run, number, "masked"):
            reply = read_reply(Parcel.of(contents(folder, entry.number) or b"").message.content)
            assert isinstance(reply, Step) and reply.words is not None
            seen.add(reply.words.tobytes())
    return len(seen)


def attempts(deployment: Deployment, config: RunConfig) -> dict[int, int]:
    told = json.loads((deployment.federation / "runs" / config.name / "attempt.json").read_text())
    return {int(number): attempt for number, attempt in told.items()}


def ended(deployment: Deployment, run: object) -> None:
    assert run.wait(PATIENCE) == 0, deployment.log("run") + deployment.log("up")  # type: ignore[attr-defined]
    deployment.processes.pop("run")
