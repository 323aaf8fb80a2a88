"""Questions: the truth is there once, nothing leaks, nobody else's record matters."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import synthetic
from common.codebook import Codebook, View, check_references
from common.errors import Code, FedReasonError
from common.feature import OTHER, Feature
from common.questions.choices import codebook_choices
from common.questions.prompt import question_text
from common.questions.question import MASK, Patient, QuestionMaker, record_lines
from common.stream import Stream
from common.tasks import Task
from tests.small import shown


def numeric(low: float, high: float, step: float, decimals: int) -> Feature:
    return Feature(
        name="x", section="S", label="X", kind="numeric", low=low, high=high, step=step, decimals=decimals, unit="mg"
    )


def patients(count: int = 20, hospital: str = "north") -> list[Patient]:
    return [Patient(row["patient_id"], shown(row)) for row in synthetic.registry(hospital, count, seed=2)]


@given(
    decimals=st.integers(0, 3),
    low=st.integers(-50, 50),
    width=st.integers(1, 400),
    step=st.integers(1, 100),
    place=st.floats(0, 1),
    seed=st.integers(),
)
def test_numeric_choices_hold_the_truth_once_and_stay_in_bounds(
    decimals: int, low: int, width: int, step: int, place: float, seed: int
) -> None:
    unit = 10**-decimals
    feature = numeric(
        round(low * unit, decimals), round((low + width) * unit, decimals), round(step * unit, decimals), decimals
    )
    truth = feature.shown(repr(min(feature.high, feature.low + place * (feature.high - feature.low))))  # type: ignore[operator,type-var]
    assert truth is not None
    choices = codebook_choices(feature, truth, Stream.named(seed))
    rungs = (feature.high - feature.low) / feature.step  # type: ignore[operator]
    middle = min(float(truth) - feature.low, feature.high - float(truth)) >= 4 * feature.step  # type: ignore[operator]
    assert choices or rungs < 1 or not middle
    if not choices:
        return
    assert choices.count(truth) == 1
    assert len(set(choices)) == len(choices) <= 5
    values = sorted(float(choice) for choice in choices)
    assert feature.low - 1e-9 <= values[0] and values[-1] <= feature.high + 1e-9  # type: ignore[operator]
    assert all(abs(b - a - feature.step) < 1e-6 for a, b in itertools.pairwise(values))  # type: ignore[operator]
    assert len(choices) >= min(5, width // step)


@given(count=st.integers(2, 12), seed=st.integers(), which=st.integers(0, 11))
def test_categorical_choices_are_other_categories_and_at_most_five(count: int, seed: int, which: int) -> None:
    texts = [f"c{i}" for i in range(count)]
    feature = Feature(name="x", section="S", label="X", kind="categorical", categories=texts)  # type: ignore[arg-type]
    truth = texts[which % count]
    choices = codebook_choices(feature, truth, Stream.named(seed))
    assert choices.count(truth) == 1
    assert len(set(choices)) == len(choices) == min(5, count)
    assert set(choices) <= set(texts)


def test_the_truth_is_at_every_letter_alike() -> None:
    maker = QuestionMaker(synthetic.codebook(), "core")
    places: Counter[int] = Counter()
    for patient in patients(300):
        for question in maker.draw(patient, 3, Stream.named("place", patient.id)):
            if len(question.choices) == 5:
                places[question.answer] += 1
    total = places.total()
    assert total > 500
    chi_squared = sum((places[i] - total / 5) ** 2 / (total / 5) for i in range(5))
    assert chi_squared < 18.5  # p = 0.001 at 4 degrees of freedom


@pytest.mark.parametrize("view", ["core", "full"])
def test_a_question_shows_the_mask_and_never_the_truth_s_line_or_its_leak_group(view: str) -> None:
    codebook = synthetic.codebook()
    maker = QuestionMaker(codebook, view)
    for patient in patients(5):
        for item in maker.items(patient):
            question = maker.make(patient, item, Stream.named(item, patient.id))
            if question is None:
                continue
            feature = maker.feature_of(item)
            lines = record_lines(codebook, maker.view, patient.values)
            (own,) = [
                line
                for line in record_lines(
                    codebook, View(features=(feature.name,), compact=maker.view.compact), patient.values
                )
                if line[0] != "["
            ]
            assert own not in question.record or lines.count(own) > 1
            assert sum(MASK in line for line in question.record) == (item not in maker.tasks)
            task = maker.tasks.get(item)
            for name in codebook.hidden_for(item) if task is None else codebook.hidden_for_task(task):
                label = codebook.by_name[name].label
                assert not any(line.startswith((f"{label}:", f"{label} (")) for line in question.record)


def test_an_outcome_question_shows_nothing_that_is_known_later() -> None:
    codebook = synthetic.codebook()
    maker = QuestionMaker(codebook, "full")
    later = {codebook.by_name[name].label for name in codebook.later}
    assert later
    asked = 0
    for patient in patients(10):
        for name in maker.tasks:
            question = maker.make(patient, name, Stream.named(name))
            asked += question is not None
            assert question is None or not any(line.split(" (")[0].split(":")[0] in later for line in question.record)
    assert asked >= 10


def test_another_patient_changes_nothing() -> None:
    maker = QuestionMaker(synthetic.codebook(), "core")
    everyone = patients(6)

    def asked(of: list[Patient]) -> list[str]:
        return [question_text(q) for p in of for q in maker.draw(p, 3, Stream.named("draw", p.id))]

    assert asked(everyone[:2]) + asked(everyone[3:]) == [
        text for p in everyone if p is not everyone[2] for text in asked([p])
    ]


def test_an_unlisted_category_is_shown_but_never_asked() -> None:
    codebook = Codebook(
        title="t",
        patient="id",
        features=(
            Feature(name="a", section="S", label="A", kind="categorical", categories={"1": "one", "2": "two"}),
            numeric(0, 10, 1, 0),
        ),
    )
    feature = codebook.by_name["a"]
    assert feature.shown("7") == OTHER
    assert feature.shown("1.0") == "one"
    maker = QuestionMaker(codebook, "full")
    patient = Patient("p", {"a": OTHER, "x": "5"})
    assert maker.items(patient) == ["x"]
    question = maker.make(patient, "x", Stream.named(0))
    assert question is not None
    assert f"A: {OTHER}" in question.record


@pytest.mark.parametrize("raw", ["", "abc", "1_000", "٣", "1,5", "inf", "nan", "11", "-0.1"])
def test_what_is_no_number_within_bounds_counts_as_missing(raw: str) -> None:
    assert numeric(0, 10, 1, 1).shown(raw) is None


def test_minus_zero_is_shown_as_zero() -> None:
    assert numeric(-1, 1, 0.5, 1).shown("-0.01") == "0.0"


def test_weights_set_how_often_an_item_is_asked() -> None:
    maker = QuestionMaker(synthetic.codebook(), "core", weights={"antibiotic": 3.0, "platelets": 1.0})
    drawn = Counter(maker.draw(p, 1, Stream.named("w", p.id))[0].item for p in patients(400))
    assert 260 < drawn["antibiotic"] < 340
    assert set(drawn) == {"antibiotic", "platelets"}


def test_a_record_reads_section_by_section_with_units() -> None:
    maker = QuestionMaker(synthetic.codebook(), "full")
    patient = patients(1)[0]
    question = maker.make(patient, "lactate", Stream.named(0))
    assert question is not None
    assert question.record[0].startswith("[")
    assert "Lactate (mmol/L): [MASK]" in question.record
    assert question_text(question).splitlines()[-len(question.choices)].startswith("A. ")


def test_a_feature_described_twice_is_refused_by_name() -> None:
    feature = numeric(0, 1, 0.1, 1)
    codebook = Codebook(title="t", patient="id", features=(feature, feature))
    with pytest.raises(FedReasonError) as refusal:
        check_references(codebook, "book.toml")
    assert refusal.value.code == Code.CODEBOOK_DUPLICATE
    assert "book.toml describes x" in str(refusal.value)


@pytest.mark.parametrize(
    "change",
    [
        {"views": {"v": View(features=("nope",))}},
        {"leak_groups": (("x", "nope"),)},
        {"tasks": (Task(name="t", feature="nope", question="?"),)},
        {"patient": "x"},
    ],
)
def test_a_codebook_that_names_an_unknown_feature_is_refused(change: dict) -> None:  # type: ignore[type-arg]
    codebook = Codebook(title="t", patient="id", features=(numeric(0, 1, 0.1, 1),)).model_copy(update=change)
    with pytest.raises(FedReasonError) as refusal:
        check_references(codebook, "book.toml")
    assert refusal.value.code == Code.CODEBOOK_REFERENCE
