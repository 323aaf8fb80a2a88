"""What a study is made of: a unit for every arm and seed, and of some arms for every site; done once, kept whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch

from client.training.engine import Engine
from client.training.workplace import Workplace
from common.arrays import Vector
from common.config import RunConfig
from common.decoding.evaluate import answer, letter_probabilities
from server.rounds.loop import Progress, run_rounds
from server.rounds.store import RunStore
from simulation.arms import LocalExchange, arm_folder, one_site, open_sites
from simulation.driver import prepare_once
from simulation.prepare import POOLED
from simulation.study.config import BY_SITE, PRIVATE, REFERENCES, Arm, Study
from simulation.study.rows import Given, Rows, write_rows

Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Unit:
    """An arm of one seed; `site` is the one whose adapter it is (`alone`) or that has no part in it (`left_out`)."""

    seed: int
    arm: Arm
    site: str | None = None

    @property
    def name(self) -> str:
        """Name of its file."""
        return "-".join([str(self.seed), self.arm, *([] if self.site is None else [self.site])])

    @property
    def trained(self) -> bool:
        """Whether it takes rounds."""
        return self.arm not in ("before", *REFERENCES)

    @classmethod
    def named(cls, name: str) -> Unit:
        """Return the unit of a name."""
        seed, arm, *site = name.removeprefix("-").split("-", 2)
        return cls(-int(seed) if name.startswith("-") else int(seed), cast(Arm, arm), site[0] if site else None)


def units_of(study: Study, sites: Sequence[str]) -> list[Unit]:
    """Return every unit, in the order of the table."""
    found = []
    for seed in study.config.seeds:
        for arm in study.config.arms:
            found += [Unit(seed, arm, site) for site in sites] if arm in BY_SITE else [Unit(seed, arm)]
    return found


def unit_path(folder: Path, unit: Unit) -> Path:
    """File with a unit's rows; it is there once the unit is done."""
    return folder / "units" / f"{unit.name}.parquet"


def seed_folder(folder: Path, seed: int, arm: Arm | None = None) -> Path:
    """Run folder of a seed; a private arm has sites of its own, whose ledgers nobody else charges."""
    return folder / f"seed-{seed}" if arm not in PRIVATE else folder / f"seed-{seed}-{arm}"


def prepare_units(study: Study, folder: Path) -> list[str]:
    """Lay out the sites of every seed, and of the private arms; return the sites' names."""
    names: list[str] = []
    for seed in study.config.seeds:
        for arm in (None, *(arm for arm in study.config.arms if arm in PRIVATE)):
            run = study.run_of(arm or "federated", seed)
            found = prepare_once(run, study.codebook, seed_folder(folder, seed, arm), study.base)
            names += [name for name in found if name not in names]
    return names


def run_unit(study: Study, unit: Unit, folder: Path, report: Report) -> None:
    """Do a unit and leave its rows, or return where they are there."""
    path = unit_path(folder, unit)
    if path.exists():
        return
    torch.set_num_threads(1)
    at = seed_folder(folder, unit.seed, unit.arm)
    config = study.run_of(unit.arm, unit.seed)
    sites = open_sites(at)
    given = answers(study, unit, config, at, sites, report)
    rows, trained_at = Rows(study, unit.seed, sites), unit.site if unit.arm == "alone" else None
    write_rows(
        path,
        [
            rows.row(unit.arm, trained_at, site.name, question, each)
            for site in sites
            if site.name in given
            for question, each in zip(site.questions(config), given[site.name], strict=True)
        ],
        study.config,
    )


def answers(
    study: Study, unit: Unit, config: RunConfig, at: Path, sites: list[Workplace], report: Report
) -> dict[str, list[Given]]:
    """Return a unit's answers to the held-out questions of every site that it is asked at, in their order."""
    if unit.arm in REFERENCES:
        from simulation.study.references import boosting, majority

        return (majority if unit.arm == "majority" else boosting)(sites, config)
    adapter = trained(unit, config, at, sites, report) if unit.trained else None
    engine = sites[0].engine(config)
    engine.set_adapter(np.zeros(engine.layout.size, dtype=np.float32) if adapter is None else adapter)
    asked = [site for site in sites if unit.arm != "left_out" or site.name == unit.site]
    return {site.name: model_answers(engine, site, config) for site in asked}


def trained(unit: Unit, config: RunConfig, at: Path, sites: list[Workplace], report: Report) -> Vector:
    """Run or resume the rounds of a unit, all sites in this process, and return the adapter."""
    if unit.arm in BY_SITE:
        taking_part = [site for site in sites if (site.name == unit.site) == (unit.arm == "alone")]
        settings, place = of_some(config, sites, taking_part), arm_folder(at, unit.name)
    elif unit.arm == POOLED:
        settings, place = one_site(config), arm_folder(at, POOLED)
        taking_part = [Workplace(at / POOLED / POOLED)]
    else:
        settings, taking_part, place = config, sites, at
    with RunStore.opened(place, settings) as store:
        return run_rounds(settings, LocalExchange(taking_part, evaluate=False), store, report)


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


def model_answers(engine: Engine, site: Workplace, config: RunConfig) -> list[Given]:
    """Have the model answer a site's held-out questions, and say how likely it finds each letter."""
    questions, grpo, model = site.questions(config), config.grpo, engine.policy.model
    if not questions:
        return []
    given = answer(model, engine.tokenizer, questions, grpo)
    told = letter_probabilities(model, engine.tokenizer, questions, [each.completion for each in given], grpo)
    return [Given(each.chosen, each.forced, letters) for each, letters in zip(given, told, strict=True)]
