"""The empirical builder is C-Reason's (arXiv 2505.02722): each of its rules, on values where the outcome is known."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from client.questions.empirical import EmpiricalChoices
from client.questions.mixture import Mixture, fitted_mixture
from common import synthetic
from common.codebook import Codebook
from common.feature import OTHER, Feature
from common.questions.censored import limits_of
from common.questions.question import Patient
from common.stream import Stream
from tests.small import shown

DRAWS = 2000


def feature(**content: object) -> Feature:
    return Feature.model_validate({"name": "x", "section": "S", "label": "X", **content})


def numeric(low: float = -1000, high: float = 1000, decimals: int = 1, **content: object) -> Feature:
    return feature(kind="numeric", low=low, high=high, step=1, decimals=decimals, **content)


def fitted(asked: Feature, cells: Sequence[str]) -> EmpiricalChoices:
    codebook = Codebook(title="t", patient="id", features=(asked,))
    return EmpiricalChoices.fitted(codebook, [Patient(str(i), {"x": text}) for i, text in enumerate(cells)])


def draws(asked: Feature, cells: Sequence[str], truth: str, count: int = DRAWS) -> list[list[str]]:
    build = fitted(asked, cells)
    return [build(asked, truth, Stream.named("draw", i)) for i in range(count)]


def normal(asked: Feature, mean: float, deviation: float, count: int = 500, seed: int = 0) -> list[str]:
    return [asked.number(value) for value in np.random.default_rng(seed).normal(mean, deviation, count)]


def samples() -> dict[str, list[float]]:
    random = np.random.default_rng(1)
    return {
        "three humps": [*random.normal(0, 1, 300), *random.normal(8, 2, 200), *random.normal(30, 4, 100)],
        "one hump": list(random.normal(120, 15, 800)),
        "a long tail": list(random.lognormal(0, 1, 800)),
        "few distinct values": list(np.rint(random.normal(20, 6, 600))),
        "mostly one value": [0.0] * 500 + list(random.normal(5, 2, 100)),
    }


@pytest.mark.parametrize("name", samples())
def test_the_mixture_is_the_one_that_scikit_learn_fits_from_the_same_start(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sklearn = pytest.importorskip("sklearn.mixture")
    values = np.array(samples()[name])
    distinct, counts = np.unique(values, return_counts=True)
    ours = fitted_mixture(distinct.tolist(), counts.tolist())
    monkeypatch.setattr("client.questions.mixture.MOST_STEPS", 0)
    start = fitted_mixture(distinct.tolist(), counts.tolist())
    theirs = sklearn.GaussianMixture(
        3,
        weights_init=start.weights,
        means_init=start.means[:, None],
        precisions_init=(start.deviations**-2)[:, None, None],
    ).fit(values[:, None])
    assert ours.means == pytest.approx(theirs.means_.ravel(), rel=1e-6, abs=1e-9)
    assert ours.weights == pytest.approx(theirs.weights_, rel=1e-6)
    assert ours.deviations == pytest.approx(np.sqrt(theirs.covariances_.ravel()), rel=1e-6)
    point = float(values[7])
    assert ours.responsibilities(point) == pytest.approx(theirs.predict_proba([[point]])[0], abs=1e-6)


@pytest.mark.parametrize("name", samples())
def test_the_start_is_as_good_as_scikit_learn_s(name: str) -> None:
    sklearn = pytest.importorskip("sklearn.mixture")
    values = np.array(samples()[name])
    distinct, counts = np.unique(values, return_counts=True)
    ours = fitted_mixture(distinct.tolist(), counts.tolist())
    likelihood = np.average(np.logaddexp.reduce(ours.log_densities(distinct), axis=1), weights=counts)
    scores = [
        sklearn.GaussianMixture(3, random_state=seed).fit(values[:, None]).score(values[:, None]) for seed in [42]
    ]
    assert likelihood > np.median(scores) - 0.05


def test_a_value_far_out_still_belongs_to_a_component() -> None:
    mixture = Mixture(np.array([0.5, 0.3, 0.2]), np.array([0.0, 1.0, 2.0]), np.array([0.1, 0.1, 1.0]))
    assert mixture.responsibilities(1e6) == pytest.approx([0, 0, 1])


def test_numbers_are_two_standard_deviations_apart_with_the_truth_at_every_rung() -> None:
    asked = numeric()
    cells = [*normal(asked, -300, 5), *normal(asked, 0, 10), *normal(asked, 300, 20)]
    deviations = sorted(fitted(asked, cells).features["x"].numbers.mixture.deviations)  # type: ignore[union-attr]
    assert deviations == pytest.approx([5, 10, 20], rel=0.1)
    rungs: Counter[int] = Counter()
    for choices in draws(asked, cells, "3.0"):
        values = sorted(map(float, choices))
        assert [b - a for a, b in itertools.pairwise(values)] == pytest.approx([2 * deviations[1]] * 4, abs=0.11)
        rungs[values.index(3.0)] += 1
    assert all(abs(rungs[rung] - DRAWS / 5) < 80 for rung in range(5))


def test_the_component_is_drawn_by_its_responsibility_for_the_truth() -> None:
    asked = numeric()
    cells = [*normal(asked, 0, 1, 1000), *normal(asked, 0, 30, 1000, seed=2)]
    mixture = fitted(asked, cells).features["x"].numbers.mixture  # type: ignore[union-attr]
    spacings = Counter(
        int(np.argmin(abs(2 * mixture.deviations - np.diff(sorted(map(float, choices)))[0])))
        for choices in draws(asked, cells, "1.0")
    )
    expected = mixture.responsibilities(1.0)
    assert expected.max() < 0.95
    assert [spacings[place] / DRAWS for place in range(3)] == pytest.approx(expected, abs=0.04)


@pytest.mark.parametrize(("negative", "dropped"), [(2, True), (10, False)])
def test_a_mostly_positive_feature_drops_negative_numbers(negative: int, dropped: bool) -> None:
    asked = numeric(decimals=0)
    cells = [str(value) for value in range(100 - negative)] + [str(-1 - value) for value in range(negative)]
    seen = [float(choice) for choices in draws(asked, cells, "3") for choice in choices]
    assert (min(seen) >= 0) == dropped


@pytest.mark.parametrize(("fractions", "rounded"), [(5, True), (15, False)])
def test_a_mostly_whole_feature_is_rounded(fractions: int, rounded: bool) -> None:
    asked = numeric()
    cells = [f"{value}.0" for value in range(100 - fractions)] + [f"{value}.5" for value in range(fractions)]
    seen = {choice for choices in draws(asked, cells, "40.0") for choice in choices}
    assert all(float(choice).is_integer() for choice in seen) == rounded
    assert all(choice == asked.number(float(choice)) for choice in seen)


@pytest.mark.parametrize(("truth", "told"), [("40.5", "a fraction"), ("-4.0", "below 0")])
def test_a_truth_that_is_no_habit_of_its_feature_is_not_the_only_one(truth: str, told: str) -> None:
    """Whole and positive numbers beside it would tell which it is."""
    asked = numeric()
    cells = [f"{value}.0" for value in range(96)] + [truth] * 4
    odd = {"a fraction": lambda number: not number.is_integer(), "below 0": lambda number: number < 0}[told]
    alone = [sum(odd(float(choice)) for choice in choices) == 1 for choices in draws(asked, cells, truth)]
    assert sum(alone) < 0.5 * len(alone)


def test_below_the_floor_observed_numbers_are_offered() -> None:
    asked = numeric(decimals=3)
    cells = normal(asked, 7.4, 0.05)
    seen = {choice for choices in draws(asked, cells, cells[0]) for choice in choices}
    assert seen == set(cells)
    wider = normal(asked, 7.4, 0.5)
    assert not {choice for choices in draws(asked, wider, wider[0], 100) for choice in choices} <= set(wider)


def test_numbers_that_round_to_the_same_are_offered_once() -> None:
    asked = numeric(decimals=0)
    cells = ["0"] * 400 + ["1"] * 12 + [str(value) for value in range(300, 330)] + ["900", "930"]
    lowest = min(fitted(asked, cells).features["x"].numbers.mixture.deviations)  # type: ignore[union-attr]
    assert 0.1 < lowest < 0.25  # rungs are less than 1 / 2 apart
    offered = draws(asked, cells, "0")
    assert all(len(set(choices)) == len(choices) < 5 for choices in offered)


def test_few_distinct_numbers_are_categories() -> None:
    asked = numeric(decimals=0)
    for count, categories in ((20, True), (21, False)):
        cells = [str(7 * value) for value in range(count)]
        observed = fitted(asked, cells).features["x"]
        assert (observed.numbers is None) == categories
        seen = {choice for choices in draws(asked, cells, "70") for choice in choices}
        assert (seen <= set(cells)) == categories


def test_at_most_five_categories_are_all_offered() -> None:
    asked = feature(kind="categorical", categories=["a", "b", "c", "d", "e", "never seen"])
    cells = ["a"] * 96 + ["b", "c", "d", "e", OTHER]
    assert all(set(choices) == {"a", "b", "c", "d", "e"} for choices in draws(asked, cells, "a"))


def test_more_categories_are_drawn_by_frequency_without_replacement() -> None:
    asked = feature(kind="categorical", categories=list("abcdefg"))
    cells = list("a" * 50 + "b" * 200 + "c" * 100 + "defg")
    seen = Counter(choice for choices in draws(asked, cells, "a") for choice in choices)
    assert seen["a"] == DRAWS
    assert all(len(choices) == 5 for choices in draws(asked, cells, "a"))
    random = np.random.default_rng(0)
    shares = np.array([200, 100, 1, 1, 1, 1]) / 304
    drawn = Counter(
        str(name) for _ in range(DRAWS) for name in random.choice(list("bcdefg"), 4, replace=False, p=shares)
    )
    assert all(abs(seen[name] - drawn[name]) < 120 for name in "bcdefg")


def test_words_and_numbers_are_mixed_by_their_ratio() -> None:
    words = {name: name for name in ("neg", "trace", "low", "high", "clot", "lysed")}
    asked = numeric(words=words)
    cells = normal(asked, 50, 10, 700) + [word for word in words for _ in range(50)]
    assert fitted(asked, cells).features["x"].share_of_words == 0.3
    for truth in (cells[0], "neg"):
        beside = [
            sum(choice in words for choice in choices if choice != truth) for choices in draws(asked, cells, truth)
        ]
        assert np.mean(beside) == pytest.approx(4 * 0.3, abs=0.08)


def test_the_number_of_words_tells_of_the_truth_no_more_than_their_share_among_the_choices() -> None:
    words = {name: name for name in ("neg", "trace", "low", "high", "clot", "lysed")}
    asked = numeric(words=words)
    cells = normal(asked, 50, 10, 700) + [word for word in words for _ in range(50)]
    build = fitted(asked, cells)
    shown_words: Counter[int] = Counter()
    true_words: Counter[int] = Counter()
    for i, truth in enumerate(cells * 4):
        choices = build(asked, truth, Stream.named("share", i))
        if len(choices) == 5:
            count = sum(choice in words for choice in choices)
            shown_words[count] += 1
            true_words[count] += truth in words
    for count in range(1, 4):
        assert true_words[count] / shown_words[count] == pytest.approx(count / 5, abs=0.07)


def test_no_number_outside_the_bounds_is_offered() -> None:
    asked = numeric(low=0, high=100, decimals=0)
    seen = {float(choice) for choices in draws(asked, normal(asked, 90, 4), "92") for choice in choices}
    assert min(seen) >= 0 and 95 < max(seen) <= 100


def test_a_feature_that_no_training_patient_has_cannot_be_asked() -> None:
    asked = numeric()
    assert fitted(asked, [])(asked, "1.0", Stream.named(0)) == []
    assert fitted(asked, ["1.0"])(asked, "1.0", Stream.named(0)) == ["1.0"]


def test_every_visit_of_a_patient_is_counted() -> None:
    asked = feature(kind="categorical", categories=list("abc"))
    codebook = Codebook(title="t", patient="id", features=(asked,))
    visits = (Patient("p", {"x": "b"}), Patient("p", {"x": "b"}))
    build = EmpiricalChoices.fitted(codebook, [Patient("p", {"x": "a"}, visits=visits)])
    assert build.features["x"].words == {"a": 1, "b": 2}


def test_patients_held_out_change_no_choice_unless_they_are_given_for_training() -> None:
    codebook = synthetic.codebook()
    patients = [Patient(row["patient_id"], shown(row)) for row in synthetic.registry("north", 60, seed=2)]
    lactate = codebook.by_name["lactate"]

    def choices(training: Sequence[Patient]) -> list[list[str]]:
        build = EmpiricalChoices.fitted(codebook, training)
        return [build(lactate, patient.values["lactate"], Stream.named(patient.id)) for patient in patients]

    assert choices(patients[:40]) == choices(list(reversed(patients[:40])))
    observed = EmpiricalChoices.fitted(codebook, patients).features.values()
    texts = [one.numbers.texts for one in observed if one.numbers]
    assert texts and all(list(numbers) == sorted(numbers, key=float) for numbers in texts)
    assert choices(patients[:40]) != choices(patients)


def test_on_a_logarithmic_scale_numbers_are_a_ratio_apart() -> None:
    asked = feature(kind="numeric", low=0, high=1e6, step=1.5, scale="log", decimals=2)
    random = np.random.default_rng(3)
    cells = [asked.number(value) for value in np.exp(random.normal(4, 0.3, 600))]
    truth = cells[0]
    for choices in draws(asked, cells, truth, 200):
        values = np.log([float(text) for text in choices])
        spaces = np.diff(np.sort(values))
        assert len(choices) == 5 and spaces == pytest.approx(spaces[:1].repeat(4), abs=0.05)


def test_no_two_choices_could_both_be_right() -> None:
    asked = numeric(low=0, high=100, words={"<5": "below 5", "<2": "<2", ">50": "above 50", "clot": "clotted"})
    random = np.random.default_rng(4)
    cells = [*(asked.number(value) for value in np.exp(random.normal(2, 1, 400)).clip(0, 100)), *["below 5"] * 200]
    cells += ["<2"] * 100 + ["above 50"] * 100 + ["clotted"] * 50
    limits = limits_of(asked)
    assert len(limits) == 3
    for truth in ("below 5", "<2", "above 50", "clotted", "3.0", "60.0", "20.0"):
        for choices in draws(asked, cells, truth, 300):
            stated = [limits[text] for text in choices if text in limits]
            numbers = [float(text) for text in choices if text not in asked.words.values()]
            assert truth in choices and len({limit.low for limit in stated}) == len(stated)
            assert not [number for number in numbers for limit in stated if limit.holds(number)]


def test_a_number_stands_beside_no_word_that_may_mean_it() -> None:
    words = {"r": "at least 5 and under 10", "p": "> 10^1", "clot": "clotted"}
    asked = numeric(low=0, high=100, decimals=0, words=words)
    cells = [*map(str, range(60))] * 4 + [word for word in words.values() for _ in range(100)]
    for truth in ("7", words["r"], words["p"]):
        seen = {text for choices in draws(asked, cells, truth, 300) for text in choices}
        assert seen & set(words.values()) == {truth, "clotted"} - {"7"}, truth
        assert truth == "7" or not any(map(str.isdigit, seen))
