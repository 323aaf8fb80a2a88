"""A site of a simulation, and a task for it at an adapter that is not the base."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tomli_w

from client.training.workplace import Workplace
from common import synthetic
from common.config import RunConfig
from common.messages.kinds import Task
from simulation.prepare import prepare


def opened(folder: Path, config: RunConfig, **log: object) -> Workplace:
    """Return the first site of a simulation, with these options."""
    site = next(iter(prepare(config, synthetic.codebook(), folder).values()))
    with (site / "site.toml").open("a") as file:
        file.write(tomli_w.dumps({"log": log}))
    return Workplace(site)


def task_of(site: Workplace, config: RunConfig, number: int = 1, attempt: int = 0) -> Task:
    """Return a task at an adapter that is not the base."""
    size = site.engine(config).layout.size
    return Task(config, number, attempt, np.random.default_rng(5).normal(0, 0.1, size).astype(np.float32))
