"""How long a run's prompts become on a registry, in tokens: of some patients, and of those with the most to show."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from common.questions.question import Patient, Question, QuestionMaker
from common.stream import Stream

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from common.config import GrpoConfig

SAMPLE, LONGEST = 500, 50


@dataclass(frozen=True)
class PromptLengths:
    """Tokens of the longest prompt, and how many of the questions are longer than a run allows."""

    questions: int
    longest: int
    too_long: int


def sampled_questions(maker: QuestionMaker, patients: Collection[Patient], seed: int = 0) -> list[Question]:
    """Ask a sample of the records one question each, and the records with the longest text."""
    records = [replace(record, visits=()) for patient in patients for record in patient.records]
    drawn = Stream.named("prompts", seed).uniforms(len(records)).argsort(kind="stable").tolist()[:SAMPLE]
    sizes = [sum(len(text) for _, text in record.values.items()) for record in records]
    longest = sorted(range(len(records)), key=lambda place: -sizes[place])[:LONGEST]
    asked = (records[place] for place in dict.fromkeys([*longest, *drawn]))
    return [
        question for record in asked for question in maker.draw(record, 1, Stream.named("prompts", seed, record.id))
    ]


def prompt_lengths(
    questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase, grpo: GrpoConfig
) -> PromptLengths:
    """Count the tokens of questions as a run asks them."""
    from common.questions.prompt import prompt_tokens

    lengths = [len(prompt_tokens(question, tokenizer, grpo.prompt)) for question in questions]
    too_long = sum(length > grpo.max_prompt_tokens for length in lengths)
    return PromptLengths(len(lengths), max(lengths, default=0), too_long)
