"""The arms of a comparison, each a run of the same rounds: every site alone, all records pooled, and the federation.

Alone and pooled go through the same step and round loop in one process; the federated arm runs on Flower.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from client.site.kit import accepted_or_none
from client.training.engine import Engine
from client.training.metrics import accuracy_counts
from client.training.requests import contribute, evaluate, layout
from client.training.secure import take_part
from client.training.states import Silent
from client.training.workplace import Workplace
from common.arrays import Vector, adapter_sha256
from common.config import SYNTHETIC, RunConfig
from common.decoding.evaluate import answer
from common.errors import Code, FedReasonError
from common.identity.roster import Roster
from common.messages.kinds import Contribution, Evaluation, Refusal, Reply, Task
from common.model.adapter import save_peft
from common.questions.prompt import question_text
from common.questions.question import LETTERS
from server.rounds.loop import Progress, run_rounds
from server.rounds.store import RunStore, write_durably
from simulation.folders import BEFORE, FEDERATED, arm_folder, open_sites, result_path
from simulation.prepare import POOLED, simulation_of

_SAMPLES = 60
Report = Callable[[Progress], None]
_Reply = TypeVar("_Reply", Contribution, Evaluation)


class LocalExchange:
    """An exchange with sites of this process; they are asked in order."""

    def __init__(self, sites: Sequence[Workplace], *, evaluate: bool = True) -> None:
        self._sites, self._evaluate = sites, evaluate

    @property
    def expected(self) -> int:
        """Sites of this process."""
        return len(self._sites)

    @property
    def absent(self) -> tuple[str, ...]:
        """Nobody is ever away."""
        return ()

    @property
    def asked(self) -> dict[str, int]:
        """Each is asked once."""
        return {site.name: 1 for site in self._sites}

    def layouts(self, task: Task, enough: Callable[[], bool]) -> Iterator[Reply]:
        """Ask which parameters each site would train."""
        return (layout(site, task) for site in self._sites)

    def contributions(self, task: Task, enough: Callable[[], bool]) -> Iterator[Reply]:
        """Ask for each site's part of a round."""
        return (_answered(contribute, site, task) for site in self._sites)

    @property
    def roster(self) -> Roster | None:
        """The one that the sites were prepared with, for secure sums; None where they were prepared with none."""
        return accepted_or_none(self._sites[0].folder)

    def steps(self, tasks: Mapping[str, Task], enough: Callable[[], bool], *, pause: bool) -> Iterator[Reply]:
        """Send each of these sites its message of a secure sum."""
        for site in self._sites:
            if site.name not in tasks:
                continue
            try:
                yield take_part(site, tasks[site.name])
            except Silent:
                yield Refusal(site.name, int(Code.SITE_SILENT))
            except FedReasonError as error:
                yield Refusal(site.name, int(error.code))

    def evaluations(self, task: Task, enough: Callable[[], bool]) -> Iterator[Reply]:
        """Ask for each site's held-out counts, where wanted."""
        wanted = self._evaluate or task.public
        return (_answered(evaluate, site, task) for site in self._sites) if wanted else iter(())


def _answered(ask: Callable[[Workplace, Task], _Reply], site: Workplace, task: Task) -> _Reply:
    """Return a site's answer; where an interrupted run has begun an attempt of this round, that of the next one."""
    while True:
        try:
            return ask(site, task)
        except Silent:
            task = replace(task, attempt=task.attempt + 1)


def of_some(config: RunConfig, sites: Sequence[Workplace], some: Sequence[Workplace]) -> RunConfig:
    """Return the run of some of the sites: as many of their patients a round as the federation has of all.

    The chance of each follows from how many there are, which a simulation knows; the divisor stays. Where they have
    fewer patients than a round, all are asked.
    """
    everybody, theirs = (sum(len(site.training(config)) for site in each) for each in (sites, some))
    federation = config.federation
    rate = min(1.0, federation.sampling_rate * everybody / max(1, theirs))
    population = max(1, round(federation.population * federation.sampling_rate / rate))
    changes: dict[str, object] = {
        "sites": len(some),
        "quorum": len(some),
        "population": population,
        "sampling_rate": rate,
    }
    return one_site(config, changes)


def one_site(config: RunConfig, changes: dict[str, object] | None = None) -> RunConfig:
    """Return the run of a single site that holds the records itself: no sums or noise are shared, and nobody guards."""
    federation = config.federation.model_copy(
        update={"sites": 1, "quorum": 1, "aggregation": "plain", **(changes or {})}
    )
    alone = {"noise": "local", "colluders": 0, "dropouts": 0}
    privacy = None if config.privacy is None else config.privacy.model_copy(update=alone)
    return config.model_copy(update={"federation": federation, "privacy": privacy, "guard": None})


def run_arm(arm: str, config: RunConfig, folder: Path, report: Report) -> None:
    """Run or resume one arm below the run folder and leave its adapter and held-out counts there."""
    if result_path(folder, arm).exists():
        return
    torch.set_num_threads(1)
    adapter: Vector | None
    if arm == FEDERATED:
        from simulation.federated import run_federated

        adapter = run_federated(config, folder, report)
    elif arm == BEFORE:
        adapter = None
    else:
        if arm == POOLED:
            settings, site = one_site(config), Workplace(folder / POOLED / POOLED)
        else:
            sites = open_sites(folder)
            site = next(each for each in sites if each.name == arm)
            settings = of_some(config, sites, [site])
            del sites  # their registries
        with RunStore.opened(arm_folder(folder, arm), settings) as store:
            adapter = run_rounds(settings, LocalExchange([site], evaluate=False), store, report)
    finish(arm, adapter, config, folder)


def finish(arm: str, adapter: Vector | None, config: RunConfig, folder: Path) -> None:
    """Evaluate an adapter (None: the base model) on the held-out patients of every site; write counts and adapter."""
    sites = open_sites(folder)
    engine = sites[0].engine(config)
    vector = np.zeros(engine.layout.size, dtype=np.float32) if adapter is None else adapter
    engine.set_adapter(vector)
    counts = {site.name: accuracy_counts(engine, site.questions(config), config) for site in sites}
    result: dict[str, object] = {"adapter_sha256": adapter_sha256(vector), "counts": counts}
    if simulation_of(config).registry == SYNTHETIC:
        result["samples"] = samples(engine, sites[0], config)
    if adapter is not None:
        save_peft(engine.model, adapter, arm_folder(folder, arm) / "adapter")
    path = result_path(folder, arm)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, json.dumps(result, indent=1))


def samples(engine: Engine, site: Workplace, config: RunConfig) -> list[dict[str, object]]:
    """Answer some held-out questions in full, for the report; of synthetic records only."""
    questions = site.questions(config)[:_SAMPLES]
    grpo, model = config.grpo, engine.policy.model
    given = answer(model, engine.tokenizer, questions, grpo)
    return [
        {
            "question": question_text(q),
            "answer": q.letter,
            "truth": q.truth,
            "completion": a.completion,
            "boxed": None if a.chosen is None else LETTERS[a.chosen],
        }
        for q, a in zip(questions, given, strict=True)
    ]
