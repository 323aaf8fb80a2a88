"""Laws of both choice builders: the truth once, no duplicates, as the registry writes it, at every letter alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.questions.empirical import EmpiricalChoices
from common import synthetic
from common.codebook import Codebook
from common.feature import JOINED, OTHER, Feature
from common.questions.choices import codebook_choices
from common.questions.question import ChoiceBuilder, Patient, QuestionMaker
from common.stream import Stream
from tests.examples import examples
from tests.small import shown

LETTERS = [chr(ord("a") + place) for place in range(9)]
WORDS = {"neg": "negative", "<1": "below 1", "clot": "clotted"}


def feature(**content: object) -> Feature:
    return Feature.model_validate({"name": "x", "section": "S", "label": "X", **content})


def number(decimals: int, low: int, width: int, step: int, words: int, ratio: float) -> Feature:
    """Return a feature whose bounds and step are multiples of its precision; by ratio where that is above 1."""
    unit = 10**-decimals
    low_, high_ = round(low * unit, decimals), round((low + width) * unit, decimals)
    log = ratio > 1 and low >= 0 and high_ >= ratio * max(low_, unit)
    scale = {"scale": "log", "step": ratio} if log else {"step": round(step * unit, decimals)}
    return feature(
        kind="numeric",
        low=low_,
        high=high_,
        decimals=decimals,
        **scale,
        words=dict(list(WORDS.items())[:words]),
    )


numbers = st.builds(
    number,
    st.integers(0, 2),
    st.integers(-40, 40),
    st.integers(1, 300),
    st.integers(1, 60),
    st.integers(0, 3),
    st.sampled_from([0, 1.1, 1.5, 3.0]),
)
categories = st.builds(lambda count: feature(kind="categorical", categories=LETTERS[:count]), st.integers(2, 9))
several = st.builds(
    lambda count: feature(kind="categorical", categories=LETTERS[:count], separator=";"), st.integers(2, 9)
)


def cells(asked: Feature) -> st.SearchStrategy[str]:
    """Texts that a registry can hold of a feature."""
    if asked.separator:
        texts = list(asked.categories.values())
        return st.sets(st.sampled_from(texts), min_size=1).map(lambda chosen: JOINED.join(sorted(chosen)))
    if asked.kind == "categorical":
        return st.sampled_from([*asked.categories.values()])
    assert asked.low is not None and asked.high is not None
    numbers = st.floats(asked.low, asked.high).map(asked.number)
    return st.one_of(numbers, st.sampled_from(sorted(asked.words.values()))) if asked.words else numbers


def many(asked: Feature, seed: int) -> list[str]:
    """Return cells of 200 patients; the numbers crowd in three places, some narrow."""
    random = Random(seed)
    texts = sorted({*asked.categories.values(), *asked.words.values()})
    if asked.kind == "categorical":
        return random.choices(texts, k=200)
    assert asked.low is not None and asked.high is not None
    width = asked.high - asked.low
    places = [(random.uniform(asked.low, asked.high), width * 10 ** random.uniform(-3, -1)) for _ in range(3)]
    values = (min(asked.high, max(asked.low, random.gauss(*random.choice(places)))) for _ in range(200))
    return [*map(asked.number, values), *texts]


@st.composite
def questions(draw: st.DrawFn) -> tuple[Feature, str, list[str], Stream]:
    """Return a feature, the truth, the cells of a training split, and a stream."""
    asked = draw(st.one_of(numbers, categories, several))
    observed = draw(st.one_of(st.lists(cells(asked), max_size=8), st.integers(0, 99).map(lambda i: many(asked, i))))
    return asked, draw(cells(asked)), observed, Stream.named(draw(st.integers()))


def empirical(asked: Feature, observed: list[str]) -> EmpiricalChoices:
    codebook = Codebook(title="t", patient="id", features=(asked,))
    return EmpiricalChoices.fitted(codebook, [Patient(str(i), {"x": text}) for i, text in enumerate(observed)])


def builders(asked: Feature, observed: list[str]) -> Iterator[ChoiceBuilder]:
    yield codebook_choices
    yield empirical(asked, observed)


@examples(300)
@given(questions())
def test_the_truth_is_there_once_among_at_most_five_distinct_choices(
    question: tuple[Feature, str, list[str], Stream],
) -> None:
    asked, truth, observed, stream = question
    for build in builders(asked, observed):
        choices = build(asked, truth, stream)
        assert len(set(choices)) == len(choices) <= 5
        assert choices.count(truth) == 1 or len(choices) < 2


@examples(300)
@given(questions())
def test_every_choice_is_what_a_cell_could_read(question: tuple[Feature, str, list[str], Stream]) -> None:
    asked, truth, observed, stream = question
    for build in builders(asked, observed):
        for choice in build(asked, truth, stream):
            if asked.separator:
                parts = choice.split(JOINED)
                assert parts == sorted(set(parts)) and set(parts) <= set(asked.categories.values())
            elif choice not in asked.words.values():
                assert asked.shown(choice) == choice


@examples(100)
@given(questions(), st.randoms())
def test_the_order_of_the_training_patients_does_not_matter(
    question: tuple[Feature, str, list[str], Stream], random: Random
) -> None:
    asked, truth, observed, _ = question
    other = random.sample(observed, len(observed))
    draws = [empirical(asked, rows)(asked, truth, Stream.named("order")) for rows in (observed, other)]
    assert draws[0] == draws[1]


@pytest.mark.long
@pytest.mark.long
@pytest.mark.parametrize(
    ("asked", "truth"),
    [
        (feature(kind="numeric", low=0, high=100, step=5), "50"),
        (feature(kind="numeric", low=0, high=100, step=5), "0"),
        (feature(kind="numeric", low=0, high=100, step=1.3, scale="log"), "50"),
        (feature(kind="numeric", low=0, high=100, step=5, words=WORDS), "below 1"),
        (feature(kind="categorical", categories=LETTERS), "c"),
        (feature(kind="categorical", categories=LETTERS, separator=";"), "a; d"),
    ],
)
def test_the_truth_stands_at_every_letter_alike(asked: Feature, truth: str) -> None:
    observed = [str(value) for value in range(101)] if asked.kind == "numeric" else LETTERS
    for build in builders(asked, observed):
        drawn = (build(asked, truth, Stream.named("letter", i)) for i in range(4000))
        places = Counter((len(choices), choices.index(truth)) for choices in drawn if choices)
        assert places.total() >= 700
        for count in {count for count, _ in places}:
            total = sum(places[count, place] for place in range(count))
            expected = total / count
            if count > 1 and expected > 20:
                squared = sum((places[count, place] - expected) ** 2 / expected for place in range(count))
                assert squared < 22  # p = 0.0002 at 4 degrees of freedom


@examples(50)
@given(size=st.integers(1, 6), seed=st.integers())
def test_sets_are_offered_beside_sets_of_the_same_size(size: int, seed: int) -> None:
    asked = feature(kind="categorical", categories=LETTERS[:6], separator=";")
    choices = codebook_choices(asked, JOINED.join(LETTERS[:size]), Stream.named(seed))
    assert {len(choice.split(JOINED)) for choice in choices} == {size}
    assert len(choices) == (5 if size < 6 else 1)


def test_every_other_set_is_drawn_alike() -> None:
    asked = feature(kind="categorical", categories=LETTERS[:5], separator=";")
    drawn = Counter(choice for i in range(3000) for choice in codebook_choices(asked, "a; b", Stream.named("sets", i)))
    assert drawn.pop("a; b") == 3000
    assert len(drawn) == 9
    assert all(abs(count - 3000 * 4 / 9) < 120 for count in drawn.values())


def test_a_code_that_stands_alone_is_a_choice_by_itself_and_never_beside_another() -> None:
    asked = feature(kind="categorical", categories=LETTERS[:6], separator=";", alone=["a"])
    for truth, choices in (("b; d", 5), ("b; c; d; f", 5), ("b; c; d; e; f", 1)):
        for i in range(50):
            drawn = codebook_choices(asked, truth, Stream.named("alone", i))
            assert len(drawn) == choices and truth in drawn and not any("a" in each for each in drawn)
    singles = {choice for i in range(50) for choice in codebook_choices(asked, "b", Stream.named("alone", i))}
    assert singles == set(LETTERS[:6]) and "a" in codebook_choices(asked, "a", Stream.named("alone"))
    assert codebook_choices(asked, "a; b", Stream.named("alone")) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"alone": ["z"]},
        {"separator": None},
        {"categories": ["a", "b"]},
        {"kind": "text", "categories": [], "separator": None},
    ],
)
def test_codes_that_stand_alone_are_listed_and_leave_two_others(changes: dict[str, object]) -> None:
    given = {"kind": "categorical", "categories": LETTERS[:3], "separator": ";", "alone": ["a"]}
    assert feature(**given).beside == ("b", "c")
    with pytest.raises(ValueError, match="alone"):
        feature(**given | changes)


@pytest.mark.parametrize("truth", [OTHER, "a; unlisted"])
def test_what_is_not_listed_is_not_asked(truth: str) -> None:
    for separator in (None, ";"):
        asked = feature(kind="categorical", categories=LETTERS, separator=separator)
        assert codebook_choices(asked, truth, Stream.named(0)) == []
    assert empirical(asked, LETTERS)(asked, OTHER, Stream.named(0)) == []


def test_free_text_is_not_asked() -> None:
    asked = feature(kind="text")
    for build in builders(asked, ["seen once", "seen twice"]):
        assert build(asked, "seen once", Stream.named(0)) == []


def synthetic_patients(count: int) -> list[Patient]:
    return [Patient(row["patient_id"], shown(row)) for row in synthetic.registry("north", count, seed=2)]


@pytest.mark.parametrize("name", ["codebook", "empirical"])
def test_a_question_has_two_choices_at_least_and_shows_nothing_of_the_leak_group(name: str) -> None:
    codebook, patients = synthetic.codebook(), synthetic_patients(60)
    build = codebook_choices if name == "codebook" else EmpiricalChoices.fitted(codebook, patients[:40])
    leaks = {"lactate": frozenset({"platelets"}), "hospital_outcome": frozenset({"creatinine"})}
    maker = QuestionMaker(codebook, "full", choices=build, leaks=leaks)
    hidden = {item: codebook.hidden_for(item) for item in codebook.by_name}
    hidden |= {name: codebook.hidden_for_task(task) for name, task in maker.tasks.items()}
    hidden["lactate"] |= {"platelets"}
    hidden["mortality"] |= {"creatinine"}
    asked = Counter[str]()
    for patient in patients[40:]:
        for item in maker.items(patient):
            question = maker.make(patient, item, Stream.named(patient.id, item))
            if question is None:
                continue
            asked[item] += 1
            assert 2 <= len(question.choices) <= 5 and question.truth == patient.values[maker.feature_of(item).name]
            labels = {codebook.by_name[other].label for other in hidden[item]}
            assert not {line.partition(":")[0].partition(" (")[0] for line in question.record} & labels
    assert asked.total() > 200 and all(asked[task] for task in maker.tasks)


def test_another_patient_changes_no_choice_of_the_codebook_and_does_change_the_empirical_ones() -> None:
    codebook, patients = synthetic.codebook(), synthetic_patients(40)
    lactate = codebook.by_name["lactate"]
    draws = [
        [
            [build(lactate, patient.values["lactate"], Stream.named(patient.id)) for patient in patients[:20]]
            for build in (codebook_choices, EmpiricalChoices.fitted(codebook, patients[:count]))
        ]
        for count in (39, 40)
    ]
    assert draws[0][0] == draws[1][0]
    assert draws[0][1] != draws[1][1]
