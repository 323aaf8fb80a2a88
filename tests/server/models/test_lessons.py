"""Lessons of a warm-up: the right choice follows from what is shown, and no rule that ignores it does well."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from common import synthetic
from common.codebook import Codebook, load_codebook
from common.questions.question import MASK, Question, label_of
from common.stream import Stream
from server.models.lessons import BINDING, Kind, Lessons
from tests.paths import ROOT

REGISTRIES = {
    "core": (synthetic.codebook(), "core"),
    **{
        name: (load_codebook(ROOT / "configs" / "registries" / f"{name}.toml"), view)
        for name, view in (("support2", "bedside"), ("physionet2019", "full"), ("eicu", "full"))
    },
}
COUNT = 120


def lessons(registry: str, kind: Kind, seed: int = 0, count: int = COUNT) -> list[Question]:
    book, view = REGISTRIES[registry]
    made = Lessons(book, view)
    drawn = (made.draw(kind, Stream.named("test", seed, number), 99) for number in range(count))
    return [lesson.question for lesson in drawn if lesson is not None]


def shown(question: Question, book: Codebook, view: str) -> str:
    """Return the value that the record shows of what is asked for."""
    label = label_of(book.by_name[question.item], book.view(view))
    (line,) = [line for line in question.record if line.startswith(f"{label}: ")]
    return line.removeprefix(f"{label}: ")


@pytest.mark.parametrize("registry", REGISTRIES)
@pytest.mark.parametrize("kind", BINDING)
def test_one_of_five_choices_is_right_by_what_the_record_shows(registry: str, kind: Kind) -> None:
    asked = lessons(registry, kind)
    assert len(asked) >= 0.9 * COUNT
    for question in asked:
        assert len(set(question.choices)) == 5
        value, right = shown(question, *REGISTRIES[registry]), question.truth
        others = [choice for choice in question.choices if choice != right]
        if kind in ("copy", "find"):
            assert right == value
        elif kind == "nearest":
            gaps = [abs(float(choice) - float(value)) for choice in others]
            assert 2 * abs(float(right) - float(value)) <= min(gaps) + 1e-9
        elif kind == "next":
            above = [float(choice) for choice in question.choices if float(choice) > float(value)]
            assert float(right) == min(above)
        elif found := re.match(r"Where .* is below (\S+) the answer is (.*), else (.*)\. Which", question.text):
            assert right == (found[2] if float(value) < float(found[1]) else found[3])
        else:
            assert f"where it is {value} {right}" in question.text


@pytest.mark.parametrize("kind", BINDING)
def test_who_does_not_read_the_record_guesses(kind: Kind) -> None:
    """By letter, by rank among the choices, by the middle of them: a fifth each, within five standard errors."""
    asked = [question for registry in ("core", "support2") for question in lessons(registry, kind, count=400)]
    most = len(asked) * 0.2 + 5 * (len(asked) * 0.16) ** 0.5
    assert max(Counter(question.answer for question in asked).values()) < most
    if kind in ("nearest", "next"):
        ranks = Counter(sorted(map(float, q.choices)).index(float(q.truth)) for q in asked)
        assert max(ranks.values()) < most


@pytest.mark.parametrize("registry", REGISTRIES)
def test_the_form_is_practised_on_masked_values_as_they_are_asked_in_training(registry: str) -> None:
    asked = lessons(registry, "form")
    assert len(asked) >= 0.9 * COUNT
    assert all(sum(line.endswith(MASK) for line in question.record) == 1 for question in asked)


def test_equal_streams_give_equal_lessons_whatever_was_drawn_before() -> None:
    book, view = REGISTRIES["support2"]
    one, two = Lessons(book, view), Lessons(book, view)
    two.draw("rule", Stream.named("another"), 9)
    for kind in BINDING:
        assert one.draw(kind, Stream.named(kind), 9) == two.draw(kind, Stream.named(kind), 9)
        assert one.draw(kind, Stream.named(kind), 9) != two.draw(kind, Stream.named(kind, 1), 9)


def test_a_short_record_shows_no_more_than_so_many_values() -> None:
    book, view = REGISTRIES["support2"]
    made = Lessons(book, view)
    for number in range(50):
        lesson = made.draw("copy", Stream.named(number), 6)
        assert lesson is not None
        assert sum(not line.startswith("[") for line in lesson.question.record) <= 6


def test_a_codebook_that_allows_no_lesson_gives_none(tmp_path: Path) -> None:
    path = tmp_path / "book.toml"
    path.write_text(
        'title = "small"\npatient = "id"\n[[features]]\nname = "sex"\nsection = "S"\nlabel = "Sex"\n'
        'kind = "categorical"\ncategories = ["f", "m"]\n'
    )
    made = Lessons(load_codebook(path), "full")
    assert [made.draw(kind, Stream.named(kind), 9) for kind in BINDING] == [None] * len(BINDING)
