"""A private step in which the coins chose nobody is noised and charged like any other."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from scipy import stats

from client.privacy.ledger import Ledger
from client.privacy.noise import discrete_gaussian
from client.privacy.sampling import poisson_sample
from client.training.requests import contribute
from client.training.workplace import Workplace
from common import synthetic
from common.arrays import Integers
from common.config import RunConfig
from common.messages.kinds import Contribution, Task
from simulation.prepare import prepare
from tests.privacy_checks import FALSE_ALARM, Check
from tests.privacy_checks.isolation import model_folder
from tests.small import small_config

Step = Callable[[Workplace, Task], Contribution]

RATE = 1e-9
"""Chance of a patient: of the 14 that there are one is drawn in 1e8 steps."""
STEPS = 3


def check_empty(step: Step) -> bool:
    """The sum of nobody has the variance that the run states, and each step is one more entry of the ledger."""
    config = small_config(
        model_folder(),
        federation={"sites": 1, "quorum": 1, "sampling_rate": RATE},
        simulation={"hospitals": ["north"]},
        privacy={"clip_norm": 0.5, "noise_multiplier": 4.0, "delta": 1e-5},
    )
    assert config.privacy is not None
    with TemporaryDirectory() as folder:
        site = Workplace(prepare(config, synthetic.codebook(), Path(folder))["north"])
        adapter = np.zeros(site.engine(config).layout.size, dtype=np.float32)
        totals = [step(site, Task(config, number, 0, adapter)).total for number in range(1, STEPS + 1)]
        charged = len(Ledger.opened(site.folder).entries())
    units = np.concatenate(totals) / config.privacy.sigma_units
    statistic, size = float(np.square(units).sum()), units.size
    chance = 2 * min(stats.chi2.cdf(statistic, size), stats.chi2.sf(statistic, size))
    return bool(chance > FALSE_ALARM) and charged == STEPS


def _drawn(site: Workplace, config: RunConfig) -> bool:
    return bool(poisson_sample(site.training(config), config.federation.sampling_rate))


def _sent(site: Workplace, task: Task, total: Integers) -> Contribution:
    return Contribution(site.name, task.round, task.attempt, total, None)


def _zeros(site: Workplace, task: Task) -> Contribution:
    """Send zeros where nobody was drawn, and charge nothing."""
    if _drawn(site, task.config):
        return contribute(site, task)
    return _sent(site, task, np.zeros(site.engine(task.config).layout.size, dtype=np.int64))


def _zeros_charged(site: Workplace, task: Task) -> Contribution:
    """Charge, and send zeros where nobody was drawn."""
    contribution = contribute(site, task)
    drawn = _drawn(site, task.config)
    return contribution if drawn else _sent(site, task, np.zeros_like(contribution.total))


def _uncharged(site: Workplace, task: Task) -> Contribution:
    """Add the noise, and charge nothing where nobody was drawn."""
    if _drawn(site, task.config):
        return contribute(site, task)
    assert task.config.privacy is not None
    noise = discrete_gaussian(task.config.privacy.sigma_units, site.engine(task.config).layout.size)
    return _sent(site, task, noise)


CHECKS = [
    Check(
        "sampling: empty step",
        partial(check_empty, contribute),
        {
            "an empty step returns zeros uncharged": partial(check_empty, _zeros),
            "an empty step returns zeros": partial(check_empty, _zeros_charged),
            "an empty step is not charged": partial(check_empty, _uncharged),
        },
    )
]
