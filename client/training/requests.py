"""What a coordinator may ask of a site, a function for each kind; all go the one way of `client.training.walk`."""

from __future__ import annotations

import numpy as np

from client.site.stage import Stage, tell
from client.training.allowed import Allowed
from client.training.contribution import site_sum
from client.training.metrics import accuracy_counts, noised_counts
from client.training.pace import seconds_per_group
from client.training.public import public_counts
from client.training.releases import gradient_release, metrics_release
from client.training.walk import Work, heads, walk
from client.training.workplace import Workplace
from common.arrays import Vector
from common.errors import Code, FedReasonError
from common.messages.kinds import Contribution, Counts, Estimate, Evaluation, Layout, Task
from common.model.adapter import require_size


def layout(place: Workplace, task: Task) -> Layout:
    """Say which parameters this site would train."""
    return walk(place, task, _layout)


def estimate(place: Workplace, task: Task) -> Estimate:
    """Say that this site would take part, and how long a group takes here on a patient that nobody is."""
    return walk(place, task, _estimate)


def contribute(place: Workplace, task: Task) -> Contribution:
    """Compute this site's part of a round; a private one is charged before it can leave."""
    return walk(place, task, _contribution)


def evaluate(place: Workplace, task: Task) -> Evaluation:
    """Answer the held-out questions, unless the site's policy keeps the counts anyway; or public ones, for nothing."""
    return walk(place, task, _public_evaluation if task.public else _evaluation)


def _layout(place: Workplace, allowed: Allowed) -> Work[Layout]:
    engine = place.engine(allowed.task.config)
    return Work(
        lambda: Layout(place.name, engine.layout.size, engine.layout_sha256(), heads(place, allowed.task)),
    )


def _estimate(place: Workplace, allowed: Allowed) -> Work[Estimate]:
    config = allowed.task.config
    engine = place.engine(config)

    def compute() -> Estimate:
        engine.set_adapter(np.zeros(engine.layout.size, dtype=np.float32))
        seconds = seconds_per_group(engine, place.maker(config), place.codebook, config, place.ranks)
        return Estimate(place.name, float(f"{seconds:.1g}"), engine.layout.size)

    return Work(compute)


def _contribution(place: Workplace, allowed: Allowed) -> Work[Contribution]:
    task, config, plain = allowed.task, allowed.task.config, allowed.policy.metrics == "plain"
    if config.secure:
        raise FedReasonError(
            Code.POLICY_REFUSED,
            f"Run '{config.name}' states secure aggregation, and this site's part of it was asked for unmasked.",
            "Nothing was computed. Ask the coordinator what that was.",
        )
    log, engine = place.log(config), place.engine(config)
    required_adapter(task, engine.layout.size)
    maker, patients, team = place.maker(config), place.training(config), place.team(config)

    def compute() -> Contribution:
        total, counted = site_sum(engine, maker, patients, task, log, team=team)
        counts = counted.told(private=config.privacy is not None) if plain else None
        return Contribution(place.name, task.round, task.attempt, total, counts)

    return Work(compute, None if config.privacy is None else gradient_release(task, allowed.force, engine.layout.size))


def _evaluation(place: Workplace, allowed: Allowed) -> Work[Evaluation]:
    task, config = allowed.task, allowed.task.config
    leaves = allowed.policy.metrics_of(config)
    if leaves == "none":
        return Work(lambda: Evaluation(place.name, task.round, None))
    engine = place.engine(config)
    adapter = required_adapter(task, engine.layout.size)
    if leaves == "plain":

        def counts() -> Counts:
            held_out = place.questions(config)
            tell(Stage.EVALUATING)
            engine.set_adapter(adapter)
            return accuracy_counts(engine, held_out, config)

        return Work(lambda: Evaluation(place.name, task.round, counts()))
    privacy = config.privacy
    assert privacy is not None
    maker, patients = place.maker(config), place.held_out(config)

    def hidden() -> Counts:
        tell(Stage.EVALUATING)
        engine.set_adapter(adapter)
        return noised_counts(engine, patients, maker, config, privacy)

    return Work(lambda: Evaluation(place.name, task.round, hidden()), metrics_release(task, allowed.force, privacy))


def _public_evaluation(place: Workplace, allowed: Allowed) -> Work[Evaluation]:
    """Answer questions that no record is in: the codebook, the run and the adapter decide all that leaves."""
    task, config = allowed.task, allowed.task.config
    if config.guard is None:
        raise FedReasonError(
            Code.POLICY_REFUSED,
            f"Run '{config.name}' states no [guard], and public questions were asked.",
            "Nothing was computed. Ask the coordinator what that was.",
        )
    engine = place.engine(config)
    adapter = required_adapter(task, engine.layout.size)

    def compute() -> Evaluation:
        tell(Stage.EVALUATING)
        engine.set_adapter(adapter)
        return Evaluation(place.name, task.round, public_counts(engine, place.codebook, config))

    return Work(compute)


def required_adapter(task: Task, size: int) -> Vector:
    """Return a task's adapter; one that is not there or does not fit is refused before anything is charged."""
    if task.adapter is None:
        raise FedReasonError(
            Code.RUN_REPLY, "The coordinator sent a task without an adapter.", "Install the same version everywhere."
        )
    require_size(task.adapter, size)
    return task.adapter
