"""What is asked of the patients that a site keeps for evaluation, and what is counted of the answers beside `KINDS`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from common.config import RunConfig
from common.questions.question import Patient, Question, QuestionMaker
from common.stream import Stream

DISAGREEING = "disagreeing"
"""Answers whose boxes hold different letters: counted where the policy says "plain", never among the noised totals."""


def held_out_questions(patients: Iterable[Patient], maker: QuestionMaker, config: RunConfig) -> Iterator[Question]:
    """Every askable item of each held-out patient, or `evaluation.per_patient` drawn by weight."""
    for patient in patients:
        stream = Stream.named(config.seed, "evaluation", patient.id)
        if config.evaluation.per_patient != "all":
            yield from maker.draw(patient, config.evaluation.per_patient, stream)
            continue
        for item in maker.items(patient):
            question = maker.make(patient, item, stream)
            if question is not None:
                yield question
