"""The gradients of a step's patients, one by one and summed: questions, rollouts from the policy, the training pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from client.grpo.counts import RolloutCounts, Rollouts
from client.grpo.log import UNWATCHED, Watch
from client.grpo.rollout import Asked, answered_together, ask
from client.grpo.step import counted_gradient, patient_gradient
from client.privacy.mechanism import Mechanism
from client.training.engine import Engine
from common.arrays import Integers, Vector
from common.config import RunConfig
from common.decoding.determinism import repeatable
from common.lattice import add
from common.questions.question import Patient, QuestionMaker


def summed(
    engine: Engine,
    maker: QuestionMaker,
    patients: Sequence[Patient],
    config: RunConfig,
    mechanism: Mechanism,
    watch: Watch = UNWATCHED,
) -> tuple[Integers, RolloutCounts]:
    """Sum these patients' integers at the engine's adapter, in lattice units [size]; nothing is added for privacy."""
    total = np.zeros(engine.layout.size, dtype=np.int64)
    counted = RolloutCounts()
    computed = gradients(engine, maker, patients, config, mechanism, watch)
    for patient, (gradient, counts) in zip(patients, computed, strict=True):
        total = add(total, mechanism.integers(gradient, patient))
        counted += counts
        watch.differentiated(gradient)
    return total, counted


def gradients(
    engine: Engine,
    maker: QuestionMaker,
    patients: Sequence[Patient],
    config: RunConfig,
    mechanism: Mechanism,
    watch: Watch = UNWATCHED,
) -> Iterator[tuple[Vector, RolloutCounts]]:
    """Yield each patient's gradient [size] at the engine's adapter, and what happened in its rollouts."""
    computed: Iterator[Callable[[], tuple[Vector, RolloutCounts] | None]]
    if config.grpo.decode == "patient":
        computed = (partial(one_gradient, engine, maker, each, config, mechanism, watch) for each in patients)
    else:
        computed = _together(engine, maker, patients, config, mechanism, watch)
    for compute in computed:
        done = mechanism.spared(compute, engine.require_working)
        yield done or (np.zeros(engine.layout.size, dtype=np.float32), RolloutCounts(patients=1))


def one_gradient(
    engine: Engine,
    maker: QuestionMaker,
    patient: Patient,
    config: RunConfig,
    mechanism: Mechanism,
    watch: Watch = UNWATCHED,
) -> tuple[Vector, RolloutCounts]:
    """One patient's gradient: rollouts from the policy, the training pass through the adapter.

    It has the same bits whenever it is computed on one kind of machine.
    """
    questions = maker.draw(patient, config.questions.per_patient, mechanism.stream("questions", patient))
    with repeatable(engine.device):
        return patient_gradient(
            engine.model,
            engine.tokenizer,
            questions,
            config.grpo,
            per_patient=config.questions.per_patient,
            stream=mechanism.stream("rollout", patient),
            sampler=engine.sampler,
            watch=watch,
        )


def _together(
    engine: Engine,
    maker: QuestionMaker,
    patients: Sequence[Patient],
    config: RunConfig,
    mechanism: Mechanism,
    watch: Watch,
) -> Iterator[Callable[[], tuple[Vector, RolloutCounts] | None]]:
    """Yield what computes the patients' gradients one by one, their rollouts sampled together before.

    Where those who may fail cannot be sampled together each is sampled alone, from the same randomness, which gives the
    same bits.
    """
    per_patient, grpo, tokenizer = config.questions.per_patient, engine.sized(config), engine.tokenizer

    def asked_of(patient: Patient) -> Asked:
        questions = maker.draw(patient, per_patient, mechanism.stream("questions", patient))
        return ask(tokenizer, questions, grpo, mechanism.stream("rollout", patient))

    def sampled(some: Sequence[Asked]) -> list[Rollouts | None]:
        with repeatable(engine.device):
            return answered_together(engine.sampler, tokenizer, some, grpo, watch)

    def gradient(asked: Asked, rollouts: Rollouts | None) -> tuple[Vector, RolloutCounts]:
        with repeatable(engine.device):
            return counted_gradient(
                engine.model,
                tokenizer,
                rollouts,
                grpo,
                questions=asked.drawn,
                per_patient=per_patient,
                watch=watch,
            )

    everyone = [mechanism.spared(partial(asked_of, each), engine.require_working) for each in patients]
    some = [asked for asked in everyone if asked is not None]
    together = mechanism.spared(partial(sampled, some), engine.require_working)
    done = iter(together or ())
    for asked in everyone:
        if asked is None:
            yield lambda: None
        elif together is None:
            yield partial(lambda one: gradient(one, sampled([one])[0]), asked)
        else:
            yield partial(gradient, asked, next(done))
