"""What a warm-up practises, as tokens: a step's lessons by its number and what is known; exams that no step asks."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, islice
from typing import TYPE_CHECKING

from common.codebook import Codebook
from common.errors import Code, FedReasonError
from common.questions.prompt import prompt_tokens
from common.stream import Stream
from server.models.course import Course
from server.models.lessons import BINDING, Kind, Lesson, Lessons

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FORM_SHARE = 0.1
"""Nothing tells their answer: what they add to a step, once the form is there, is noise."""
_KNOWLEDGE_SHARE = 0.1
"""Of the lessons that are not of the form, where the codebook has lines of knowledge."""
_KEPT_UP = 0.1
"""What is always right is practised a sixth as often as what is right by half, so that it stays."""
_SHORTEST = 6
"""Values of a record in the first lessons; a question may need five."""
_TRIES = 16
_OF_A_RECORD = 6
"""Lessons that follow one another and are of one record."""


@dataclass(frozen=True)
class Row:
    """Token ids of a lesson's prompt and of its completion, the end among them."""

    prompt: list[int]
    completion: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


class Practice:
    """The lessons of a course on its codebooks, written for one tokenizer."""

    def __init__(self, course: Course, books: Sequence[Codebook], tokenizer: PreTrainedTokenizerBase) -> None:
        self.course, self.tokenizer = course, tokenizer
        self._sources = [Lessons(book, source.view) for book, source in zip(books, course.sources, strict=True)]
        self._lines = max(
            len(book.view(source.view).features) for book, source in zip(books, course.sources, strict=True)
        )

    def rows(self, step: int, known: Mapping[Kind, float]) -> list[Row]:
        """Draw the lessons of a step by its number and by what share of each kind is known; nothing is at first.

        Some follow one another that are of one record, so that it is read once for them.
        """
        drawn = (self._of_a_record(step, number, known) for number in range(_TRIES * self.course.batch))
        rows = list(islice(chain.from_iterable(drawn), self.course.batch))
        if len(rows) < self.course.batch:
            raise self._no_lessons()
        return rows

    def _of_a_record(self, step: int, number: int, known: Mapping[Kind, float]) -> list[Row]:
        course = self.course
        stream = Stream.named("warm-up", course.seed, "lesson", step, number)
        whole = min(1.0, max(0, step - course.form) / course.lengthen)
        longest = _SHORTEST + round(whole * max(0, self._lines - _SHORTEST))
        source = self._sources[stream.below(len(self._sources))]
        values = source.record(stream, _SHORTEST - 1 + stream.below(longest - _SHORTEST + 2))
        kinds = (self._kind(step, source, known, stream) for _ in range(_OF_A_RECORD))
        drawn = (next(filter(None, (source.on(values, kind, stream) for _ in range(_TRIES))), None) for kind in kinds)
        rows = [self.row(lesson) for lesson in drawn if lesson is not None]
        return [row for row in rows if len(row.prompt) <= course.max_prompt_tokens]

    def _kind(self, step: int, source: Lessons, known: Mapping[Kind, float], stream: Stream) -> Kind:
        if step < self.course.form or stream.uniform() < _FORM_SHARE:
            return "form"
        if source.knows and stream.uniform() < _KNOWLEDGE_SHARE:
            return "knowledge"
        shares = list(accumulate(1 - known.get(kind, 0.0) + _KEPT_UP for kind in BINDING))
        return BINDING[bisect_right(shares, stream.uniform() * shares[-1])]

    def exam(self, name: str) -> list[list[Lesson]]:
        """Draw questions that no step asks, on whole records: of each codebook and kind as many."""
        each = max(1, self.course.probe_questions // (len(BINDING) * len(self._sources)))
        drawn: list[list[Lesson]] = []
        for place, source in enumerate(self._sources):
            streams = (
                (kind, Stream.named("warm-up", self.course.seed, name, place, kind, number))
                for kind in BINDING
                for number in range(each)
            )
            found = [source.draw(kind, stream, self._lines) for kind, stream in streams]
            able = [
                lesson
                for lesson in found
                if lesson is not None and len(self.row(lesson).prompt) <= self.course.max_prompt_tokens
            ]
            if not able:
                raise self._no_lessons()
            drawn.append(able)
        return drawn

    def row(self, lesson: Lesson) -> Row:
        """Write a question and its right answer as tokens."""
        course, tokenizer, question = self.course, self.tokenizer, lesson.question
        box = question.letter if course.prompt.answer == "letter" else question.truth
        worked = f" {lesson.said} \\boxed{{{box}}}"
        tokens: list[int] = []
        for text in (worked, f" \\boxed{{{box}}}") if course.completion == "worked" else (f" \\boxed{{{box}}}",):
            tokens = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
            if len(tokens) <= course.max_completion_tokens:
                break
        return Row(prompt_tokens(question, tokenizer, course.prompt), tokens)

    def _no_lessons(self) -> FedReasonError:
        return FedReasonError(
            Code.WARMUP_LESSONS,
            "A codebook and its view allow no lesson, or all are longer than max_prompt_tokens "
            f"({self.course.max_prompt_tokens}).",
            "Name a view with five features that are asked, numbers among them, or raise max_prompt_tokens.",
        )
