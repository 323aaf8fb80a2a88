"""How well the adapter answers a site's held-out questions: counts, which leave only as the policy says.

"plain" sends them by item. "noised" sends three totals: of each patient the first `metrics_questions` questions count,
and discrete Gaussian noise hides whether one patient was there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from client.privacy.totals import KINDS, noised
from client.training.engine import Engine
from common.config import PrivacyConfig, RunConfig
from common.decoding.evaluate import answer
from common.messages.kinds import Counts
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


def accuracy_counts(engine: Engine, questions: list[Question], config: RunConfig) -> Counts:
    """Questions asked, answered rightly free-form and forced, and with boxes that disagree, by item."""
    grpo, model = config.grpo, engine.policy.model
    answers = answer(model, engine.tokenizer, questions, max_tokens=grpo.max_completion_tokens, box=grpo.answer_box)
    items: dict[str, Any] = defaultdict(lambda: dict.fromkeys((*KINDS, DISAGREEING), 0))
    for question, given in zip(questions, answers, strict=True):
        count = items[question.item]
        count["asked"] += 1
        count["free"] += given.chosen == question.answer
        count["forced"] += given.forced == question.answer
        count[DISAGREEING] += given.disagrees
    return dict(items)


def first_of_each(questions: Iterable[Question], most: int) -> list[Question]:
    """Return at most so many questions of each patient, the first ones."""
    seen: dict[str, int] = defaultdict(int)
    kept = []
    for question in questions:
        seen[question.patient] += 1
        if seen[question.patient] <= most:
            kept.append(question)
    return kept


def noised_counts(engine: Engine, questions: Iterable[Question], config: RunConfig, privacy: PrivacyConfig) -> Counts:
    """Return the totals over all patients with noise; they may be negative.

    Each patient is decoded alone: in a batch the others would move a patient's answers, and the bound would not hold.
    """
    by_patient: dict[str, list[Question]] = defaultdict(list)
    for question in first_of_each(questions, privacy.metrics_questions):
        by_patient[question.patient].append(question)
    totals = np.zeros(len(KINDS), dtype=np.int64)
    for own in by_patient.values():
        for count in accuracy_counts(engine, own, config).values():
            totals += [count[kind] for kind in KINDS]
    return noised(totals, privacy)
