"""What a poisoning site does to a run, and what the coordinator's guard makes of it: `python -m bench.poisoning`.

One of three synthetic hospitals trains honestly for some rounds. Then it sends its sum a hundred times over, ten times
with its sign turned round, or trained on wrong answers. Each is run with the guard and, where that stops the run,
without it too. Prints a table, and JSON.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from bench.result import print_result
from client.grpo import rollout
from client.training import requests, secure
from client.training.held_out import held_out_questions
from client.training.metrics import accuracy_counts
from client.training.public import public_counts
from client.training.workplace import Workplace
from common.arrays import Vector
from common.config import RunConfig, load_config
from common.errors import Code, FedReasonError
from common.guard import PUBLIC
from common.logs import quiet_libraries
from common.messages.heads import Gathered
from common.messages.kinds import Reply, Task
from server.rounds.guard import Guard
from server.rounds.loop import Progress, run_rounds
from server.rounds.store import Checkpoint, RunStore
from simulation.arms import LocalExchange
from simulation.prepare import prepare

GUARD = {"every": 2, "questions": 64, "margin": 0.2, "evaluators": 2}
BOUNDED: dict[str, object] = {"name": "adamw", "learning_rate": 4e-3, "max_gradient_norm": 0.1}
UNBOUNDED: dict[str, object] = {"name": "sgd", "learning_rate": 5.0, "momentum": 0.0}
"""Optimizers whose steps a larger sum makes no longer, and as much longer as it is."""
EXPECTED, POPULATION, HELD_OUT = 12, 360, 40
"""Patients of a round, patients in all, and held-out patients of a hospital that are asked a question each."""


class Attack(NamedTuple):
    """What the hospital multiplies its sum with, and whether it rewards wrong answers."""

    factor: int = 1
    inverted: bool = False


class Case(NamedTuple):
    """A run of the comparison."""

    attack: str
    optimizer: str = "bounded"
    aggregation: str = "plain"
    guarded: bool = True


ATTACKS = {"none": Attack(), "scaled": Attack(100), "flipped": Attack(-10), "inverted": Attack(inverted=True)}
CASES = (
    *(Case(attack) for attack in ATTACKS),
    Case("scaled", "unbounded"),
    Case("flipped", aggregation="secure"),
)


class Poisoned(LocalExchange):
    """Sites of this process, the first of which attacks."""

    def __init__(self, sites: Sequence[Workplace], attack: Attack) -> None:
        super().__init__(sites, evaluate=False)
        self._attack = attack

    def contributions(self, task: Task, enough: Callable[[], bool]) -> Iterator[Reply]:
        """Ask for each site's part of a round."""
        for site in self._sites:
            with self._attacking(site):
                replies = list(LocalExchange([site]).contributions(task, enough))
            yield from replies

    def steps(self, tasks: Mapping[str, Task], enough: Callable[[], bool], *, pause: bool) -> Iterator[Reply]:
        """Send each site its message of a secure sum."""
        for site in self._sites:
            with self._attacking(site):
                replies = list(LocalExchange([site]).steps(tasks, enough, pause=pause))
            yield from replies

    @contextlib.contextmanager
    def _attacking(self, site: Workplace) -> Iterator[None]:
        if site is not self._sites[0]:
            yield
            return
        honest, reward = requests.site_sum, rollout.reward

        def sum_of(*arguments: Any, **named: Any) -> Any:
            total, counted = honest(*arguments, **named)
            return total * self._attack.factor, counted

        def reward_of(*arguments: Any) -> float:
            return 1.0 - reward(*arguments) if self._attack.inverted else reward(*arguments)

        with (
            patch.object(requests, "site_sum", sum_of),
            patch.object(secure, "site_sum", sum_of),
            patch.object(rollout, "reward", reward_of),
        ):
            yield


def config_of(rounds: int, case: Case) -> RunConfig:
    """Return the demo's run, with fewer rollouts and larger steps; sums on one lattice, secure or not."""
    table = load_config(Path("configs/demo.toml"))[0].model_dump()
    optimizer = BOUNDED if case.optimizer == "bounded" else UNBOUNDED
    federation = {
        "rounds": rounds,
        "quorum": 2,
        "population": POPULATION,
        "sampling_rate": EXPECTED / POPULATION,
        "aggregation": case.aggregation,
    }
    table["name"] = f"poisoning-{case.optimizer}-{case.attack}-{case.aggregation}"
    table["federation"] |= federation
    table["questions"] |= {"per_patient": 2}
    table["optimizer"] = {"warmup_rounds": 0, "decay": 0.0, **optimizer}
    table["lattice"] = {"bits": 21, "clip_norm": 0.5}
    table["evaluation"] = {"every": 0, "per_patient": 1}
    table["simulation"] |= {"patients": POPULATION // 3 * 5 // 3}
    return RunConfig.model_validate(table | ({"guard": GUARD} if case.guarded else {}))


class _Far(Exception):
    """Stands where the honest rounds end."""


def honest_rounds(config: RunConfig, sites: Sequence[Workplace], folder: Path, honest: int) -> Checkpoint:
    """Return where a run stands after its first rounds."""

    def report(progress: Progress) -> None:
        if progress.round == honest:
            raise _Far

    with RunStore.opened(folder, config) as store:
        with contextlib.suppress(_Far):
            run_rounds(config, LocalExchange(sites, evaluate=False), store, report)
        reached = store.load()
    assert reached is not None
    return reached


def run_case(config: RunConfig, case: Case, sites: Sequence[Workplace], folder: Path, at: Checkpoint) -> dict[str, Any]:
    """Go on from the honest rounds under attack; where the guard stops the run, its last good adapter is measured."""
    exchange, stopped, found = Poisoned(sites, ATTACKS[case.attack]), None, ""
    with RunStore.opened(folder, config) as store:
        store.save(at)
        if config.guard is not None:
            Guard(config, exchange, store, Gathered()).look(at.round, at.adapter, {})
        try:
            adapter = run_rounds(config, exchange, store)
        except FedReasonError as error:
            if error.code is not Code.GUARD_FELL:
                raise
            stopped, found = max(row.round for row in store.rounds()), error.found
            good = store.load()
            assert good is not None
            adapter = good.adapter
    row = {**case._asdict(), "stopped": stopped, **measured(config, sites, adapter)}
    print(f"{row} {found}", file=sys.stderr, flush=True)
    return row


def measured(config: RunConfig, sites: Sequence[Workplace], adapter: Vector) -> dict[str, float]:
    """Return held-out accuracy over all hospitals, and what the public questions show."""
    engine = sites[0].engine(config)
    engine.set_adapter(adapter)
    asked = [
        question
        for site in sites
        for question in held_out_questions(site.held_out(config)[:HELD_OUT], site.maker(config), config)
    ]
    counts = accuracy_counts(engine, asked, config).values()
    guarded = config_of(config.federation.rounds, Case("none"))
    public = public_counts(engine, sites[0].codebook, guarded)[PUBLIC]
    return {
        "accuracy": round(sum(count["free"] for count in counts) / len(asked), 3),
        **{kind: round(public[kind] / public["asked"], 3) for kind in public if kind != "asked"},
    }


def shown(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table that people read."""
    table = Table("attack", "steps", "sums", "guard", "stopped in round", "accuracy", "boxed", "right", "other")
    for row in rows:
        told = ("on" if row["guarded"] else "off", "-" if row["stopped"] is None else str(row["stopped"]))
        shares = (f"{row[kind]:.2f}" for kind in ("accuracy", "boxed", "right", "other"))
        table.add_row(row["attack"], row["optimizer"], row["aggregation"], *told, *shares)
    return table


def main(
    rounds: Annotated[int, typer.Option(help="rounds of each run")] = 16,
    honest: Annotated[int, typer.Option(help="rounds before the attack")] = 6,
    attack: Annotated[list[str] | None, typer.Option(help="only these attacks")] = None,
) -> None:
    """Run every case; the last line is JSON."""
    quiet_libraries()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first, codebook = config_of(rounds, CASES[0]), load_config(Path("configs/demo.toml"))[1]
        prepared = config_of(rounds, Case("none", aggregation="secure", guarded=False))
        sites = [Workplace(site) for site in prepare(prepared, codebook, folder / "sites").values()]
        zero = np.zeros(sites[0].engine(first).layout.size, dtype=np.float32)
        rows.append({**Case("before")._asdict(), "stopped": None, **measured(first, sites, zero)})
        begun: dict[str, Checkpoint] = {}
        for case in CASES:
            if attack and case.attack not in attack:
                continue
            if case.optimizer not in begun:
                plain = config_of(rounds, Case("none", case.optimizer, guarded=False))
                begun[case.optimizer] = honest_rounds(plain, sites, folder / case.optimizer, honest)
            for each in (case, case._replace(guarded=False)):
                config = config_of(rounds, each)
                rows.append(run_case(config, each, sites, folder / f"{len(rows)}", begun[case.optimizer]))
                if rows[-1]["stopped"] is None or case.aggregation == "secure":
                    break
    Console(stderr=True, width=120).print(shown(rows))
    print_result({"rows": rows, "rounds": rounds, "honest": honest, "guard": GUARD})


if __name__ == "__main__":
    typer.run(main)
