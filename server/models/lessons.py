"""What a warm-up asks: questions about random records of a codebook, whose answers can be read off what is shown.

No record of anybody is in them: values are drawn within the codebook's bounds, and which one is right follows from the
question alone. So they teach how a question is answered, and nothing about patients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from common.codebook import Codebook
from common.feature import Feature, number_of
from common.questions.ladder import Scale
from common.questions.question import LETTERS, MASK, Moment, Patient, Question, label_of, record_lines
from common.stream import Stream
from common.tiny.text import CodebookText

Kind = Literal["form", "copy", "find", "nearest", "next", "rule", "knowledge"]
BINDING: tuple[Kind, ...] = ("copy", "find", "nearest", "next", "rule")
"""Lessons whose right choice can be known; of each the probe asks alike many, of five choices."""

_CHOICES = len(LETTERS)
_TRIES = 200
_NEAR, _FAR = 0.05, 0.25
"""How far, in steps, the nearest choice is from the value shown."""


@dataclass(frozen=True)
class Lesson:
    """A question with its kind, and what a worked completion says before the box.

    That is the value that is asked about, where the record shows it, and how it stands to a rule's limit: it is found
    first, and then compared with the choices. Else it is the right choice itself.
    """

    kind: Kind
    question: Question
    said: str


class Lessons:
    """Lessons of one codebook and view; equal streams give equal lessons.

    form
        A value is masked or a task is asked, as in training. Nothing tells the answer: what is learnt is where it
        stands, and in which box.
    copy, find
        A value that is shown, among others of its feature; among others that are shown.
    nearest, next
        Which choice is nearest to a number that is shown; which is the lowest above it.
    rule
        What a rule that is stated says of a value that is shown.
    knowledge
        What a textbook says, without a record: the codebook's own lines.
    """

    def __init__(self, book: Codebook, view: str) -> None:
        self._text = CodebookText(book, view, 0)
        self._maker = self._text.maker
        self._book, self._view = book, self._maker.view
        self._tasks = list(self._maker.tasks)
        self._maskable = [name for name in self._view.features if book.by_name[name].asked]
        self._names = sorted({book.by_name[f].short or book.by_name[f].label for f in self._view.features})

    @property
    def knows(self) -> bool:
        """Whether the codebook has lines of knowledge."""
        return bool(self._book.knowledge)

    def draw(self, kind: Kind, stream: Stream, lines: int) -> Lesson | None:
        """Draw a lesson on a record of at most so many values; None where the codebook hardly allows one."""
        drawn = (self.on(self.record(stream, lines), kind, stream) for _ in range(_TRIES))
        return next(filter(None, drawn), None)

    def on(self, values: dict[str, str], kind: Kind, stream: Stream) -> Lesson | None:
        """Draw a lesson on a record; None where what was drawn makes none."""
        make: Callable[[Stream, dict[str, str]], Lesson | None] = getattr(self, f"_{kind}")
        return make(stream, values) if values else None

    def record(self, stream: Stream, lines: int) -> dict[str, str]:
        """Draw the values of a record, at most so many, by feature."""
        self._text.random.seed(stream.below(2**53))
        drawn = self._text.patient().values
        names = [name for name in self._view.features if name in drawn]
        kept = set(stream.shuffled(names)[: max(1, min(lines, len(names)))])
        return {name: drawn[name] for name in names if name in kept}

    def _form(self, stream: Stream, values: dict[str, str]) -> Lesson | None:
        asked = self._task if self._tasks and stream.below(2) else self._masked
        question = asked(stream, values)
        return None if question is None else Lesson("form", question, question.truth)

    def _task(self, stream: Stream, values: dict[str, str]) -> Question | None:
        name = _one(self._tasks, stream)
        column = self._maker.feature_of(name).name
        drawn = self._text.patient().values.get(column)
        if drawn is None:
            return None
        patient = Patient("", values | {column: drawn}, {name: Moment(values, drawn)})
        return self._maker.make(patient, name, stream)

    def _masked(self, stream: Stream, values: dict[str, str]) -> Question | None:
        able = [name for name in self._maskable if name in values]
        return self._maker.make(Patient("", values), _one(able, stream), stream) if able else None

    def _copy(self, stream: Stream, values: dict[str, str]) -> Lesson | None:
        question = self._masked(stream, values)
        if question is None or len(question.choices) != _CHOICES:
            return None
        record = tuple(line.replace(MASK, question.truth) for line in question.record)
        text = question.text.replace("would be the masked value", "is the value")
        return Lesson("copy", replace(question, record=record, text=text), question.truth)

    def _find(self, stream: Stream, values: dict[str, str]) -> Lesson | None:
        texts = list(dict.fromkeys(values.values()))
        if len(texts) < _CHOICES:
            return None
        name = _one(list(values), stream)
        others = stream.shuffled([text for text in texts if text != values[name]])[: _CHOICES - 1]
        return self._asked("find", name, values, "What is the value of {}?", values[name], others, stream)

    def _nearest(self, stream: Stream, values: dict[str, str]) -> Lesson | None:
        found = self._number(stream, values)
        if found is None:
            return None
        name, value, at = found
        feature = self._book.by_name[name]
        near = _NEAR + stream.uniform() * (_FAR - _NEAR)
        rank = stream.below(_CHOICES)
        places = [at + place - rank + (near if stream.below(2) else -near) for place in range(_CHOICES)]
        choices = self._numbers(feature, places)
        if choices is None or values[name] in choices:
            return None
        gaps = sorted((abs(float(text) - value), place) for place, text in enumerate(choices))
        if 2 * gaps[0][0] > gaps[1][0]:
            return None
        right = choices[gaps[0][1]]
        others = [text for text in choices if text != right]
        return self._asked(
            "nearest", name, values, "Which choice is nearest to the value of {}?", right, others, stream
        )

    def _next(self, stream: Stream, values: dict[str, str]) -> Lesson | None:
        found = self._number(stream, values)
        if found is None:
            return None
        name, value, at = found
        rank = stream.below(_CHOICES)  # so many choices are below the value
        choices = self._numbers(self._book.by_name[name], [at + place - rank + 0.5 for place in range(_CHOICES)])
        if choices is None:
            return None
        above = sorted((float(text), text) for text in choices if float(text) > value)
        if not above or values[name] in choices:
            return None
        others = [text for text in choices if text != above[0][1]]
        text = "Which choice is the lowest above the value of {}?"
        return self._asked("next", name, values, text, above[0][1], others, stream)

    def _rule(self, stream: Stream, values: dict[str, str]) -> Lesson | None:
        name = _one(list(values), stream)
        feature, shown = self._book.by_name[name], values[name]
        names = [text for text in self._names if text != (feature.short or feature.label)]
        if len(names) < _CHOICES:
            return None
        options = stream.shuffled(names)[:_CHOICES]
        if feature.kind == "numeric":
            limit = self._text.patient().values.get(name, shown)
            if number_of(shown) is None or number_of(limit) is None or float(limit) == float(shown):
                return None
            rule = f"Where {{}} is below {limit} the answer is {options[0]}, else {options[1]}."
            below = float(shown) < float(limit)
            right, said = options[0 if below else 1], f"{shown} {'<' if below else '>'} {limit}"
        else:
            texts = [text for text in sorted(set(feature.categories.values())) if text != shown]
            cases = stream.shuffled([shown, *stream.shuffled(texts)[: _CHOICES - 1]])
            told = [f"where it is {case} {option}" for case, option in zip(cases, options, strict=False)]
            rule = f"The answer depends on {{}}: {', '.join(told)}."
            right, said = options[cases.index(shown)], shown
        others = [option for option in options if option != right]
        return self._asked("rule", name, values, f"{rule} Which answer follows?", right, others, stream, said)

    def _knowledge(self, stream: Stream, values: dict[str, str]) -> Lesson | None:
        if not self.knows:
            return None
        line = self._book.knowledge[stream.below(len(self._book.knowledge))]
        choices = stream.shuffled([line.right, *line.wrong])
        question = Question(
            patient="",
            item="knowledge",
            kind="categorical",
            record=(),
            text=line.question,
            choices=tuple(choices),
            answer=choices.index(line.right),
        )
        return Lesson("knowledge", question, question.truth)

    def _number(self, stream: Stream, values: dict[str, str]) -> tuple[str, float, float] | None:
        """Return a feature whose shown value is a number, that number, and its place on the scale."""
        able = [
            name
            for name, text in values.items()
            if self._book.by_name[name].step is not None and number_of(text) is not None
        ]
        if not able:
            return None
        name = _one(able, stream)
        value = float(values[name])
        return name, value, Scale.of(self._book.by_name[name]).place(value)

    def _numbers(self, feature: Feature, places: list[float]) -> list[str] | None:
        """Return different numbers within the bounds at these places; None where they are not."""
        assert feature.low is not None and feature.high is not None
        scale = Scale.of(feature)
        texts = [feature.number(scale.value(place)) for place in places]
        inside = all(feature.low <= float(text) <= feature.high and math.isfinite(float(text)) for text in texts)
        return texts if inside and len(set(texts)) == _CHOICES else None

    def _asked(
        self,
        kind: Kind,
        name: str,
        values: dict[str, str],
        text: str,
        right: str,
        others: list[str],
        stream: Stream,
        said: str | None = None,
    ) -> Lesson:
        feature = self._book.by_name[name]
        choices = stream.shuffled([right, *others])
        question = Question(
            patient="",
            item=name,
            kind="numeric" if feature.kind == "numeric" else "categorical",
            record=record_lines(self._book, self._view, values),
            text=text.replace("{}", label_of(feature, self._view), 1),
            choices=tuple(choices),
            answer=choices.index(right),
        )
        return Lesson(kind, question, said or values[name])


def _one(names: list[str], stream: Stream) -> str:
    return names[stream.below(len(names))]
