"""Questions that no record is in, and how an adapter answers them: what the coordinator's guard asks a site for.

They are made from the codebook and the run's seed alone, so that every site asks the same, and anybody could.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from client.training.engine import Engine
from common import synthetic
from common.codebook import Codebook
from common.config import RunConfig
from common.decoding.evaluate import answer
from common.guard import KINDS, PUBLIC
from common.messages.kinds import Counts
from common.questions.prompt import prompt_tokens
from common.questions.question import MASK, Question
from common.tiny.text import CodebookText, CoreText

_TRIES = 8


def public_questions(codebook: Codebook, config: RunConfig, tries: int) -> Iterator[Question]:
    """Make public questions, one a try at most.

    On random records, every value drawn evenly within the codebook's bounds, the value asked for stays shown: the right
    answer is read off. The core of the synthetic registry has public relations, and its own public patients are asked:
    of all but treatment, which hospitals decide for themselves.
    """
    view, seed = config.questions.view, config.seed
    known = view == "core" and codebook.sha256 == synthetic.codebook().sha256
    text = CoreText(seed) if known else CodebookText(codebook, view, seed)
    left_out = {item.feature for item in codebook.short_lists} if known else set(text.maker.tasks)
    for _ in range(tries):
        for question in text.maker.draw(text.patient(), 1, text.stream):
            if question.item not in left_out:
                yield question if known else _shown(question)


def _shown(question: Question) -> Question:
    """Ask for a value that the record shows."""
    record = tuple(line.replace(MASK, question.truth) for line in question.record)
    return replace(question, record=record, text=question.text.replace("would be the masked value", "is the value"))


def public_counts(engine: Engine, codebook: Codebook, config: RunConfig) -> Counts:
    """Answer the run's public questions whose prompt is not too long, and count."""
    assert config.guard is not None
    grpo, wanted = config.grpo, config.guard.questions
    fitting = (
        question
        for question in public_questions(codebook, config, _TRIES * wanted)
        if len(prompt_tokens(question, engine.tokenizer, grpo.prompt)) <= grpo.max_prompt_tokens
    )
    questions = list(islice(fitting, wanted))
    answers = answer(
        engine.policy.model,
        engine.tokenizer,
        questions,
        grpo,
        forced=False,
    )
    letters = Counter(given.chosen for given in answers if given.chosen is not None)
    right = sum(given.chosen == question.answer for question, given in zip(questions, answers, strict=True))
    boxed, commonest = letters.total(), max(letters.values(), default=0)
    return {PUBLIC: dict(zip(KINDS, (len(questions), boxed, right, boxed - commonest), strict=True))}
