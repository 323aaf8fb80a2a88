"""How well the adapter answers a site's held-out questions: counts, which leave only as the policy says.

"plain" sends them by item. "noised" sends three totals: of each patient the first `metrics_questions` questions count,
and discrete Gaussian noise hides whether one patient was there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from client.privacy.spared import Spared
from client.privacy.totals import noised
from client.training.engine import Engine
from client.training.held_out import DISAGREEING, held_out_questions
from common.arrays import Integers
from common.config import PrivacyConfig, RunConfig
from common.decoding.evaluate import answer
from common.messages.kinds import Counts
from common.questions.question import Patient, Question, QuestionMaker
from common.sums import ASKED, FORCED, FREE, KINDS


def accuracy_counts(engine: Engine, questions: list[Question], config: RunConfig) -> Counts:
    """Questions asked, answered rightly free-form and forced, and with boxes that disagree, by item."""
    answers = answer(engine.policy.model, engine.tokenizer, questions, config.grpo)
    items: dict[str, Any] = defaultdict(lambda: dict.fromkeys((*KINDS, DISAGREEING), 0))
    for question, given in zip(questions, answers, strict=True):
        count = items[question.item]
        count[ASKED] += 1
        count[FREE] += given.chosen == question.answer
        count[FORCED] += given.forced == question.answer
        count[DISAGREEING] += given.disagrees
    return dict(items)


def noised_counts(
    engine: Engine, patients: Iterable[Patient], maker: QuestionMaker, config: RunConfig, privacy: PrivacyConfig
) -> Counts:
    """Return the totals over all held-out patients with noise; they may be negative.

    Each patient is decoded alone: in a batch the others would move a patient's answers, and the bound would not hold.
    One whose answers cannot be computed counts as nothing.
    """
    totals, spared = np.zeros(len(KINDS), dtype=np.int64), Spared()
    for patient in patients:
        counted = spared(partial(_own_counts, engine, patient, maker, config, privacy), engine.require_working)
        if counted is not None:
            totals += counted
    return noised(totals, privacy)


def _own_counts(
    engine: Engine, patient: Patient, maker: QuestionMaker, config: RunConfig, privacy: PrivacyConfig
) -> Integers:
    """Return one patient's totals, over the first so many questions."""
    questions = list(islice(held_out_questions([patient], maker, config), privacy.metrics_questions))
    counts = accuracy_counts(engine, questions, config).values() if questions else ()
    return np.array([sum(count[kind] for count in counts) for kind in KINDS], dtype=np.int64)
