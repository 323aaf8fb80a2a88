"""Questions drawn again in place of those whose group all agrees: what that is worth. It is measured, not offered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from unittest.mock import patch

import torch

from client.grpo.counts import RolloutCounts, Rollouts
from client.grpo.log import UNWATCHED, Watch
from client.grpo.rollout import counts, roll_out
from client.grpo.step import counted_gradient
from client.privacy.mechanism import Mechanism
from client.training.engine import Engine
from common.arrays import Vector
from common.config import RunConfig
from common.decoding.ends import ends_of
from common.decoding.generate import Completions
from common.questions.question import Patient, QuestionMaker

REDRAWS = 8
"""Most further questions of a patient, each of another feature."""


def one_gradient(
    engine: Engine,
    maker: QuestionMaker,
    patient: Patient,
    config: RunConfig,
    mechanism: Mechanism,
    watch: Watch = UNWATCHED,
) -> tuple[Vector, RolloutCounts]:
    """One patient's gradient from as many groups that teach something as there should be questions, if it has them."""
    wanted = config.questions.per_patient
    waiting = maker.draw(patient, wanted + REDRAWS, mechanism.stream("questions", patient))
    stream = mechanism.stream("rollout", patient)
    rolled: list[Rollouts] = []
    missing = wanted
    while missing and waiting:
        asked, waiting = waiting[:missing], waiting[missing:]
        rollouts = roll_out(engine.sampler, engine.tokenizer, asked, config.grpo, stream, watch)
        if rollouts is not None:
            rolled.append(rollouts)
            missing -= int((rollouts.advantages != 0).any(1).sum())
    everything = joined(rolled) if rolled else None
    gradient, _ = counted_gradient(
        engine.model, engine.tokenizer, everything, config.grpo, questions=wanted, per_patient=wanted, watch=watch
    )
    counted = RolloutCounts(patients=1)
    for rollouts in rolled:
        counted += counts(rollouts, ends_of(engine.model, engine.tokenizer))
    return gradient, counted


def joined(parts: list[Rollouts]) -> Rollouts:
    """Put several rollouts of one patient behind one another."""
    columns = {field.name: [getattr(part.completions, field.name) for part in parts] for field in fields(Completions)}
    return Rollouts(
        prompts=[prompt for part in parts for prompt in part.prompts],
        completions=Completions(**{name: torch.cat(tensors) for name, tensors in columns.items()}),
        texts=[text for part in parts for text in part.texts],
        rewards=torch.cat([part.rewards for part in parts]),
        advantages=torch.cat([part.advantages for part in parts]),
        answers=[given for part in parts for given in part.answers],
    )


@contextmanager
def redrawing() -> Iterator[None]:
    """Have sites of this process draw again."""
    with patch("client.training.gradients.one_gradient", one_gradient):
        yield
