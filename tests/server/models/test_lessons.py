"""Lessons of a warm-up: the right choice follows from what is shown, and no rule that ignores it does well."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

from common import synthetic
from common.codebook import Codebook, load_codebook
from common.model.base import load_base
from common.questions.answer import parse_answer
from common.questions.question import MASK, Question, QuestionMaker, label_of
from common.stream import Stream
from common.tasks import Knowledge
from server.models.course import Course
from server.models.lessons import BINDING, Kind, Lesson, Lessons
from server.models.practice import Practice
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
def test_a_worked_completion_says_first_what_the_record_shows(registry: str, kind: Kind) -> None:
    book, view = REGISTRIES[registry]
    drawn = [Lessons(book, view).draw(kind, Stream.named("test", number), 99) for number in range(10)]
    found = [lesson for lesson in drawn if lesson is not None]
    assert found
    for lesson in found:
        value, *compared = lesson.said.split(" < " if " < " in lesson.said else " > ")
        assert value == shown(lesson.question, book, view)
        if compared:
            assert kind == "rule" and f"is below {compared[0]} " in lesson.question.text
            assert (" < " in lesson.said) == (float(value) < float(compared[0]))


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
def test_the_form_is_practised_on_masked_values_and_tasks_as_they_are_asked_in_training(registry: str) -> None:
    book, view = REGISTRIES[registry]
    tasks = QuestionMaker(book, view).tasks
    asked = lessons(registry, "form", count=3 * COUNT)
    assert len(asked) >= 0.9 * 3 * COUNT
    hidden = Counter(sum(line.endswith(MASK) for line in question.record) for question in asked)
    assert set(hidden) == ({0, 1} if tasks else {1})
    for name, task in tasks.items():
        own = [question for question in asked if question.item == name]
        assert {question.text for question in own} == {task.question}
        assert len({question.truth for question in own}) > 1 and len({question.answer for question in own}) > 1
        hidden_labels = {label_of(book.by_name[each], book.view(view)) for each in book.hidden_for_task(task)}
        assert not hidden_labels & {line.partition(": ")[0] for question in own for line in question.record}


@pytest.mark.parametrize("registry", ["support2", "physionet2019"])
def test_knowledge_is_asked_without_a_record_and_its_answer_can_be_read_from_a_box(registry: str) -> None:
    book, _ = REGISTRIES[registry]
    asked = lessons(registry, "knowledge")
    assert {question.text for question in asked} == {line.question for line in book.knowledge}
    for question in asked:
        (line,) = [line for line in book.knowledge if line.question == question.text]
        assert question.record == () and question.truth == line.right
        assert sorted(question.choices) == sorted([line.right, *line.wrong])
        boxed = f" \\boxed{{{question.truth}}}"
        assert parse_answer(boxed, question.choices, form="text").chosen == question.answer
    assert max(Counter(question.answer for question in asked).values()) < len(asked) / 2


def test_lines_of_knowledge_change_no_question_of_a_run_and_are_another_warm_up() -> None:
    book, _ = REGISTRIES["support2"]
    none = book.model_copy(update={"knowledge": ()})
    assert book.knowledge and Codebook.model_validate(none.model_dump()).sha256 == book.sha256
    course = Course.model_validate({"model": {"base": "./base"}, "sources": [{"codebook": "x"}]})
    assert course.identity("base", [book]) != course.identity("base", [none])


@pytest.fixture(scope="module")
def practice(small_model: Path) -> Practice:
    course = Course.model_validate(
        {"model": {"base": str(small_model)}, "sources": [{"view": "bedside"}, {"view": "full"}], "form": 1}
        | {"batch": 8, "max_prompt_tokens": 100_000, "lengthen": 1}
    )
    _, tokenizer = load_base(course.model)
    return Practice(course, [REGISTRIES["support2"][0], REGISTRIES["eicu"][0]], tokenizer)


def kinds_of(
    practice: Practice, monkeypatch: pytest.MonkeyPatch, steps: range, known: dict[Kind, float]
) -> Counter[tuple[str, Kind]]:
    """Count the lessons of some steps by codebook and kind."""
    drawn = list[tuple[str, Kind]]()
    real = Lessons.on

    def on(self: Lessons, values: dict[str, str], kind: Kind, stream: Stream) -> Lesson | None:
        lesson = real(self, values, kind, stream)
        if lesson is not None:
            drawn.append((self._book.title, kind))
        return lesson

    with monkeypatch.context() as patch:
        patch.setattr(Lessons, "on", on)
        rows = [row for step in steps for row in practice.rows(step, known)]
    assert len(rows) == len(steps) * 8 <= len(drawn)
    return Counter(drawn)


def test_lessons_come_in_the_shares_that_are_meant(practice: Practice, monkeypatch: pytest.MonkeyPatch) -> None:
    """Binding alike while nothing is known, knowledge a tenth where the codebook has some, the form at first."""
    assert {kind for _, kind in kinds_of(practice, monkeypatch, range(1), {})} == {"form"}
    drawn = kinds_of(practice, monkeypatch, range(2, 202), {})
    told, count = REGISTRIES["support2"][0].title, drawn.total()
    others = sum(number for (title, kind), number in drawn.items() if title == told and kind != "form")
    assert drawn[told, "knowledge"] / others == pytest.approx(0.1, abs=0.03)
    assert not drawn[REGISTRIES["eicu"][0].title, "knowledge"]
    kinds = {kind: sum(number for (_, one), number in drawn.items() if one == kind) for kind in (*BINDING, "form")}
    assert kinds.pop("form") / count == pytest.approx(0.1, abs=0.03)
    for kind, number in kinds.items():
        assert number / sum(kinds.values()) == pytest.approx(1 / len(BINDING), abs=0.04), kind
    assert all(lesson.kind != "knowledge" for part in practice.exam("probe") for lesson in part)


def test_what_is_known_is_practised_less_and_never_left(practice: Practice, monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[Kind, float] = {"copy": 1.0, "find": 1.0, "nearest": 0.7, "next": 0.5, "rule": 0.5}
    drawn = kinds_of(practice, monkeypatch, range(2, 202), known)
    kinds = {kind: sum(number for (_, one), number in drawn.items() if one == kind) for kind in BINDING}
    meant = {"copy": 0.1, "find": 0.1, "nearest": 0.4, "next": 0.6, "rule": 0.6}
    for kind, share in meant.items():
        assert kinds[kind] / sum(kinds.values()) == pytest.approx(share / sum(meant.values()), abs=0.03), kind


def test_a_codebook_without_knowledge_has_no_lesson_of_it() -> None:
    assert lessons("eicu", "knowledge", count=2) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("140", []),
        ("140", ["1", "2", "3", "4", "5"]),
        ("Sodium", ["sodium "]),
        ("a\nb", ["c"]),
        ("{}", ["c"]),
        (" ", ["c"]),
    ],
)
def test_a_line_of_knowledge_whose_choices_cannot_be_told_apart_is_refused(right: str, wrong: list[str]) -> None:
    with pytest.raises(ValidationError):
        Knowledge.model_validate({"question": "Which?", "right": right, "wrong": wrong})


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
