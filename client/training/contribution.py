"""What a site gives to a round: its patients' gradients summed on the lattice, or a local change.

Every random choice is keyed by (seed, purpose, patient, round, step, attempt), so a patient contributes the same bits
wherever the record lives. Patient identifiers must therefore be unique over a simulation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from client.grpo.counts import RolloutCounts
from client.grpo.log import UNWATCHED, StepWatch, Watch
from client.privacy.mechanism import Mechanism, mechanism_of
from client.training.engine import Engine
from client.training.gradients import summed
from client.training.log import TrainingLog
from client.training.team import Team
from common.arrays import Integers, Vector
from common.config import RunConfig
from common.lattice import LARGEST_WEIGHT, clamped_to_lattice, from_lattice, to_lattice
from common.messages.kinds import Task
from common.model.optimizer import Optimizer
from common.questions.question import Patient, QuestionMaker


def site_sum(
    engine: Engine,
    maker: QuestionMaker,
    patients: Sequence[Patient],
    task: Task,
    log: TrainingLog,
    share: int | None = None,
    team: Team | None = None,
) -> tuple[Integers, RolloutCounts]:
    """Return what the run's protocol sends: the sum of one step at the task's adapter, or the change of local ones.

    Parameters
    ----------
    share
        Standard deviation of this site's noise, in units, where the sites share it.
    team
        The ranks that compute it with this one, prepared for the run; the same bits come of it with and without.
    """
    assert task.adapter is not None
    if task.config.federation.protocol == "fedsgd":
        return _logged_sum(engine, maker, patients, task, 0, task.adapter, log, share, team)
    return local_change(engine, maker, patients, task, log, team)


def _logged_sum(
    engine: Engine,
    maker: QuestionMaker,
    patients: Sequence[Patient],
    task: Task,
    step: int,
    adapter: Vector,
    log: TrainingLog,
    share: int | None = None,
    team: Team | None = None,
) -> tuple[Integers, RolloutCounts]:
    """Take the sum of a step at an adapter, and write its line into the site's log."""
    watch = StepWatch(next(engine.model.parameters()).device, texts=log.completions > 0)
    engine.set_adapter(adapter)
    mechanism = mechanism_of(task.config, task.round, step, task.attempt, share)
    total, counted = gradient_sum(engine, maker, patients, task.config, mechanism, watch, team)
    mechanism.spared(lambda: log.write(watch.entry(task, step, adapter, counted), watch.groups), lambda: None)
    return total, counted


def gradient_sum(
    engine: Engine,
    maker: QuestionMaker,
    patients: Sequence[Patient],
    config: RunConfig,
    mechanism: Mechanism,
    watch: Watch = UNWATCHED,
    team: Team | None = None,
) -> tuple[Integers, RolloutCounts]:
    """Sum of the sampled patients' gradients at the engine's adapter, in lattice units [size], as it may leave."""
    chosen = mechanism.sample(patients)
    total, counted = (summed if team is None else team.summed)(engine, maker, chosen, config, mechanism, watch)
    return mechanism.released(total), counted


def local_change(
    engine: Engine,
    maker: QuestionMaker,
    patients: Sequence[Patient],
    task: Task,
    log: TrainingLog,
    team: Team | None = None,
) -> tuple[Integers, RolloutCounts]:
    """Adapter change after the local steps of fedavg, in lattice units [size].

    The optimizer starts afresh; the divisor of a step is the public number of patients expected at one site.
    """
    config, federation = task.config, task.config.federation
    assert task.adapter is not None
    optimizer = Optimizer(config.optimizer, task.adapter, federation.rounds)
    divisor = federation.population / federation.sites * federation.sampling_rate
    counted = RolloutCounts()
    for step in range(federation.local_steps):
        adapter = optimizer.adapter if config.privacy is None else in_range(optimizer.adapter)
        total, counts = _logged_sum(engine, maker, patients, task, step, adapter, log, None, team)
        optimizer.step(from_lattice(total, config.gradient_unit) / divisor, task.round)
        counted += counts
    if config.privacy is None:
        change = optimizer.adapter.astype(np.float64) - task.adapter.astype(np.float64)
        return to_lattice(change, config.lattice.bits), counted
    change = in_range(optimizer.adapter).astype(np.float64) - task.adapter.astype(np.float64)
    return clamped_to_lattice(change, config.lattice.bits), counted


def in_range(adapter: Vector) -> Vector:
    """Return an adapter that can be computed at, whatever the noised steps made of it: nothing is refused any more."""
    return np.nan_to_num(adapter, nan=0.0).clip(-LARGEST_WEIGHT, LARGEST_WEIGHT)
