"""How a unit is done: its rounds are taken, and what they made answers the held-out questions; the answers are kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from client.training.engine import Engine
from client.training.workplace import Workplace
from common.arrays import Vector
from common.config import RunConfig
from common.decoding.evaluate import answer, letter_probabilities
from server.rounds.loop import Progress, run_rounds
from server.rounds.store import RunStore
from simulation.arms import LocalExchange, of_some, one_site
from simulation.folders import arm_folder, open_sites
from simulation.prepare import POOLED
from simulation.study.config import BY_SITE, REFERENCES, Study
from simulation.study.rows import Given, Rows, write_rows
from simulation.study.units import Unit, seed_folder, unit_path

Report = Callable[[Progress], None]


def run_unit(study: Study, unit: Unit, folder: Path, report: Report) -> None:
    """Do a unit and leave its rows, or return where they are there."""
    path = unit_path(folder, unit)
    if path.exists():
        return
    torch.set_num_threads(1)
    at = seed_folder(folder, unit.seed, unit.arm)
    config = study.run_of(unit.arm, unit.seed)
    sites = open_sites(at)
    given = answers(unit, config, at, sites, report)
    rows, trained_at = Rows(study, unit.seed, sites), unit.site if unit.arm == "alone" else None
    write_rows(
        path,
        [
            rows.row(unit.arm, trained_at, site.name, question, each)
            for site in sites
            if site.name in given
            for question, each in zip(site.questions(config), given[site.name], strict=True)
        ],
        study,
        unit,
    )


def answers(unit: Unit, config: RunConfig, at: Path, sites: list[Workplace], report: Report) -> dict[str, list[Given]]:
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


def model_answers(engine: Engine, site: Workplace, config: RunConfig) -> list[Given]:
    """Have the model answer a site's held-out questions, and say how likely it finds each letter."""
    questions, grpo, model = site.questions(config), config.grpo, engine.policy.model
    if not questions:
        return []
    given = answer(model, engine.tokenizer, questions, grpo)
    told = letter_probabilities(model, engine.tokenizer, questions, [each.completion for each in given], grpo)
    return [Given(each.chosen, each.forced, letters) for each, letters in zip(given, told, strict=True)]
