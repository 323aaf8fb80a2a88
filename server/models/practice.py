"""What a warm-up practises, as tokens: each step's lessons by its number alone, and exams that no step asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.codebook import Codebook
from common.errors import Code, FedReasonError
from common.questions.prompt import prompt_tokens
from common.questions.question import Question
from common.stream import Stream
from server.models.course import Course
from server.models.lessons import BINDING, Kind, Lesson, Lessons

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FORM_SHARE = 0.2
_KNOWLEDGE_SHARE = 0.2
"""Of the lessons that are not of the form, where the codebook has lines of knowledge."""
_ON_A_RECORD = 6
"""Lessons on one record, which goes through the model once for all of them."""
_ORDER: tuple[Kind, ...] = (*BINDING, "form", "knowledge")
_SHORTEST = 6
"""Values of a record in the first lessons; a question may need five."""
_TRIES = 16


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

    def rows(self, step: int) -> list[list[Row]]:
        """Draw the lessons of a step, record by record, by its number alone."""
        drawn, wanted = list[list[Row]](), self.course.batch
        for number in range(_TRIES * self.course.batch):
            if rows := self._on_a_record(step, number, min(_ON_A_RECORD, wanted)):
                drawn.append(rows)
                wanted -= len(rows)
            if not wanted:
                return drawn
        raise self._no_lessons()

    def _on_a_record(self, step: int, number: int, wanted: int) -> list[Row]:
        """Draw lessons on one record: those that show all of it first, since only they begin alike to its end."""
        course = self.course
        stream = Stream.named("warm-up", course.seed, "lesson", step, number)
        whole = min(1.0, max(0, step - course.form) / course.lengthen)
        longest = _SHORTEST + round(whole * max(0, self._lines - _SHORTEST))
        source = self._sources[stream.below(len(self._sources))]
        record = source.record(stream, _SHORTEST - 1 + stream.below(longest - _SHORTEST + 2))
        kinds = sorted((self._kind(step, source, stream) for _ in range(wanted)), key=_ORDER.index)
        tries = ((source.ask(kind, stream, record) for _ in range(_TRIES)) for kind in kinds)
        lessons = (next(filter(None, made), None) for made in tries)
        rows = [self.row(lesson.question) for lesson in lessons if lesson is not None]
        return [row for row in rows if len(row.prompt) <= course.max_prompt_tokens]

    def _kind(self, step: int, source: Lessons, stream: Stream) -> Kind:
        if step < self.course.form or stream.uniform() < _FORM_SHARE:
            return "form"
        known = source.knows and stream.uniform() < _KNOWLEDGE_SHARE
        return "knowledge" if known else BINDING[stream.below(len(BINDING))]

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
                if lesson is not None and len(self.row(lesson.question).prompt) <= self.course.max_prompt_tokens
            ]
            if not able:
                raise self._no_lessons()
            drawn.append(able)
        return drawn

    def row(self, question: Question) -> Row:
        """Write a question and its right answer as tokens."""
        course, tokenizer = self.course, self.tokenizer
        box = question.letter if course.prompt.answer == "letter" else question.truth
        worked = f" {question.truth} \\boxed{{{box}}}"
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
