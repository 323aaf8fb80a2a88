"""The gradients of a step's patients, one by one: questions drawn, rollouts from the policy, the training pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from client.grpo.counts import RolloutCounts
from client.grpo.log import UNWATCHED, Watch
from client.grpo.rollout import roll_out_together
from client.grpo.step import counted_gradient, patient_gradient
from client.privacy.mechanism import Mechanism
from client.training.engine import Engine
from common.arrays import Vector
from common.config import RunConfig
from common.decoding.determinism import repeatable
from common.questions.question import Patient, QuestionMaker


def gradients(
    engine: Engine,
    maker: QuestionMaker,
    patients: Sequence[Patient],
    config: RunConfig,
    mechanism: Mechanism,
    watch: Watch = UNWATCHED,
) -> Iterator[tuple[Vector, RolloutCounts]]:
    """Yield each patient's gradient [size] at the engine's adapter, and what happened in its rollouts."""
    if config.grpo.decode == "patient":
        return (one_gradient(engine, maker, patient, config, mechanism, watch) for patient in patients)
    return _gradients_together(engine, maker, patients, config, mechanism, watch)


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


def _gradients_together(
    engine: Engine,
    maker: QuestionMaker,
    patients: Sequence[Patient],
    config: RunConfig,
    mechanism: Mechanism,
    watch: Watch,
) -> Iterator[tuple[Vector, RolloutCounts]]:
    """Yield the patients' gradients one by one, their rollouts sampled together before.

    What samples in slots has no sum without an order; the training pass has, and is repeatable unless decoding is free.
    """
    per_patient = config.questions.per_patient
    asked = [maker.draw(patient, per_patient, mechanism.stream("questions", patient)) for patient in patients]
    streams = [mechanism.stream("rollout", patient) for patient in patients]
    together = list(zip(asked, streams, strict=True))
    rolled_out = roll_out_together(engine.sampler, engine.tokenizer, together, config.grpo, watch)
    for questions, rollouts in zip(asked, rolled_out, strict=True):
        with repeatable(engine.device, wanted=config.grpo.decode == "slots"):
            done = counted_gradient(
                engine.model,
                engine.tokenizer,
                rollouts,
                config.grpo,
                questions=len(questions),
                per_patient=per_patient,
                watch=watch,
            )
        yield done
