"""The figures of a review: a patient has one vote, intervals are the exact ones, agreement is Krippendorff's."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap

from client.review import statistics
from client.review.statistics import Agreement, Preference, Rating, agreement, alpha, by, preference

NAN = math.nan
OPPOSED = {"kim": 2, "lee": -2}
PUBLISHED = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
    [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
]
"""Observers by units: the example of Krippendorff, Computing Krippendorff's Alpha-Reliability (2011)."""


def rating(patient: str, value: int, *, case: int = 1, rater: str = "kim", axis: str = "overall") -> Rating:
    return Rating(rater, case, patient, "numeric", axis, value)


def units(observers: Sequence[Sequence[float]]) -> list[list[float]]:
    columns = ([value for value in column if not math.isnan(value)] for column in zip(*observers, strict=True))
    return [column for column in columns if len(column) > 1]


def test_figures_are_those_counted_by_hand() -> None:
    said = {"P1": (2, 1), "P2": (-1, 0), "P3": (0, 0), "P4": (1, -1), "P5": (1,)}
    by_rater = [(patient, zip(("kim", "lee"), values, strict=False)) for patient, values in said.items()]
    found = preference([rating(patient, value, rater=rater) for patient, pairs in by_rater for rater, value in pairs])
    assert found is not None
    assert (found.better, found.alike, found.worse, found.ratings) == (4, 3, 2, 9)
    assert (found.patients, found.first, found.second) == (5, 2, 1)
    assert found.share == 2 / 3 and found.p == 1.0
    assert found.share_interval == pytest.approx((0.094299, 0.991596), abs=1e-6)
    assert found.mean == pytest.approx(3 / 9)


def test_the_sign_test_is_that_of_the_tables() -> None:
    """15 of 20: twice the binomial tail 0.020695, and the interval of Clopper and Pearson."""
    found = preference([rating(f"P{number}", 1 if number < 15 else -2) for number in range(20)])
    assert found is not None
    assert found.p == pytest.approx(2 * sum(math.comb(20, k) for k in range(6)) / 2**20)
    assert found.share_interval == pytest.approx((0.5090, 0.9134), abs=1e-4)


def test_one_patient_rated_often_has_one_vote() -> None:
    often = [rating("P1", 1, case=case) for case in range(50)]
    found = preference([*often, rating("P2", -1)])
    assert found is not None
    assert (found.first, found.second, found.p) == (1, 1, 1.0)


def test_the_mean_has_the_interval_of_patients_drawn_anew() -> None:
    random = np.random.default_rng(3)
    said = {f"P{number}": random.integers(-2, 3, size=1 + number % 3).tolist() for number in range(30)}
    found = preference([rating(patient, value) for patient, values in said.items() for value in values])
    drawn = random.integers(0, 30, size=(40_000, 30))
    sums, counts = (np.array([take(values) for values in said.values()]) for take in (sum, len))
    ends = np.quantile(sums[drawn].sum(1) / counts[drawn].sum(1), [0.025, 0.975])
    assert found is not None and found.mean_interval is not None
    assert found.mean_interval == pytest.approx(tuple(ends), abs=0.03)
    assert found.wide_interval is None
    single = preference([rating(patient, value) for patient, values in said.items() for value in values[:1]])
    assert single is not None and single.mean_interval is not None
    assert np.diff(single.mean_interval) > np.diff(found.mean_interval)


def test_the_mean_has_the_interval_of_scipy_s_bootstrap() -> None:
    random = np.random.default_rng(4)
    said = random.integers(-2, 3, size=40)
    found = preference([rating(f"P{number}", int(value)) for number, value in enumerate(said)])
    other = bootstrap((said,), np.mean, method="percentile", n_resamples=20_000, rng=random).confidence_interval
    assert found is not None and found.mean_interval is not None
    assert found.mean_interval == pytest.approx((other.low, other.high), abs=0.03)


def test_raters_who_differ_widen_the_interval_for_other_raters_and_those_who_agree_do_not() -> None:
    """Of two raters who say 2 and -2 of all, a quarter of the draws each has one of them alone: -2 to 2."""

    def said(by_rater: dict[str, int]) -> Preference:
        everyone = [
            rating(f"P{number}", value + number % 2, rater=rater)
            for rater, value in by_rater.items()
            for number in range(20)
        ]
        found = preference(everyone)
        assert found is not None and found.mean_interval is not None and found.wide_interval is not None
        return found

    apart, alike = said({"kim": 1, "lee": -2}), said({"kim": 1, "lee": 1})
    assert apart.wide_interval is not None and alike.wide_interval is not None and alike.mean_interval is not None
    low, high = apart.wide_interval
    assert low < -1.2 and high > 1.2
    assert alike.wide_interval == pytest.approx(alike.mean_interval, abs=0.06)


def test_raters_who_differ_alike_of_every_patient_are_an_interval_for_other_raters() -> None:
    found = preference([rating(f"P{n}", value, rater=rater) for n in range(12) for rater, value in OPPOSED.items()])
    assert found is not None and found.mean == 0.0
    assert found.mean_interval is None, "no patient differs"
    assert found.wide_interval == (-2.0, 2.0)


def test_an_interval_of_ten_patients_holds_the_truth_and_one_of_five_would_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 500)
    values, chances = np.arange(-2, 3), [0.05, 0.15, 0.2, 0.35, 0.25]
    random, truth = np.random.default_rng(5), float(values @ chances)

    def holds(patients: int) -> float:
        drawn = [random.choice(values, patients, p=chances)[:, None].astype(float) for _ in range(400)]
        found = [statistics._interval(sums, np.ones_like(sums), 0) for sums in drawn]
        return float(np.mean([ends is not None and ends[0] <= truth <= ends[1] for ends in found]))

    assert holds(statistics.FEWEST_DRAWN) > 0.9
    assert preference([rating(f"P{number}", number % 3) for number in range(9)]).mean_interval is None  # type: ignore[union-attr]
    monkeypatch.setattr(statistics, "FEWEST_DRAWN", 2)
    assert holds(5) < 0.9


def test_what_cannot_be_said_is_not_said() -> None:
    assert preference([]) is None
    alike = preference([rating("P1", 0), rating("P2", 0)])
    assert alike is not None
    assert (alike.share, alike.share_interval, alike.p, alike.mean_interval) == (None, None, None, None)
    alone = preference([rating("P1", 2)])
    assert alone is not None and alone.mean_interval is None
    assert alone.share_interval == pytest.approx((0.025, 1.0))


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(-2, 2)), min_size=1, max_size=12))
def test_models_exchanged_exchange_the_figures(said: list[tuple[int, int]]) -> None:
    one = preference([rating(f"P{patient}", value) for patient, value in said])
    other = preference([rating(f"P{patient}", -value) for patient, value in said])
    assert one is not None and other is not None
    assert (one.better, one.worse, one.first, one.second) == (other.worse, other.better, other.second, other.first)
    assert one.p == other.p and one.mean == -other.mean
    if one.share_interval is not None and other.share_interval is not None:
        low, high = one.share_interval
        assert other.share_interval == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize(
    ("observers", "expected"),
    [
        (PUBLISHED, 0.849),
        ([[NAN, 1.0, NAN, 0.0], [-1.0, 0.0, 2.0, -1.0]], 0.25),
        ([[1, NAN, -1, 1, -2, 1], [NAN, 1, 1, 0, 2, -1]], -0.699029),
        ([[1, 2, 1, 1, NAN, 2, -2, -2], [-1, 1, 0, NAN, 2, NAN, 0, NAN]], 0.239130),
        (
            [
                [-2, 2, 0, 0, NAN, -1, NAN],
                [-2, NAN, -1, 0, NAN, -2, -2],
                [NAN, -2, NAN, 2, -2, NAN, 1],
                [-1, -1, NAN, -1, 2, -2, NAN],
            ],
            -0.167123,
        ),
    ],
)
def test_alpha_is_the_published_one_and_that_of_another_program(observers: list[list[float]], expected: float) -> None:
    """All but the first are figures of the package krippendorff 0.9.0 (interval)."""
    assert alpha(units(observers)) == pytest.approx(expected, abs=5e-4 if observers is PUBLISHED else 1e-6)


def test_agreement_looks_at_cases_that_several_rated() -> None:
    assert agreement([rating("P1", 1, case=1), rating("P2", -1, case=2)]) is None
    same = [rating(f"P{value}", value, case=value + 3, rater=rater) for value in (-2, 0, 2) for rater in ("kim", "lee")]
    assert agreement(same) == Agreement(1.0, 3)
    assert agreement([*same, rating("P", 2, case=9)]) == Agreement(1.0, 3)
    assert agreement([rating("P", 1, rater=rater) for rater in ("kim", "lee")]) is None


def test_groups_are_whole() -> None:
    said = [rating("P1", 1, axis=axis, rater=rater) for axis in ("overall", "harm") for rater in ("lee", "kim")]
    assert list(by(said, "rater")) == ["kim", "lee"]
    assert sum(len(part) for part in by(said, "axis").values()) == len(said)
