"""Intervals are of patients, not of questions, and hold the true difference as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from simulation.statistics.resampling import (
    LEVEL,
    SEED,
    Interval,
    counts,
    exchanged,
    holm,
    interval,
    jackknife,
    moved,
    ratio,
    share_interval,
)
from simulation.statistics.tables import p_text


def clustered(random: np.random.Generator, patients: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Differences of two arms' right answers and questions, by patient, and the true difference of accuracy.

    A patient's questions share how hard he is for either arm, so they are far from independent.
    """
    asked = random.integers(1, 9, patients)
    hard = random.normal(0, 1.5, patients)
    first, second = (1 / (1 + np.exp(-(hard + shift))) for shift in (0.8, 0.3))
    both = random.random(patients)
    one, other = (random.binomial(asked, np.where(both < 0.3, (share > 0.5) * 1.0, share)) for share in (first, second))
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()

    def expected(shift: float) -> float:
        share = 1 / (1 + np.exp(-(1.5 * nodes + shift)))
        # A step is not integrated well by a polynomial: the normal distribution has it.
        return float(0.3 * stats.norm.cdf(shift / 1.5) + 0.7 * (weights * share).sum())

    return (one - other).astype(float)[:, None], asked.astype(float)[:, None], expected(0.8) - expected(0.3)


def test_one_question_for_each_patient_gives_scipy_s_own_interval() -> None:
    differences = np.random.default_rng(1).integers(-1, 2, 70).astype(float)
    found = interval(70, ratio(differences[:, None], np.ones((70, 1))), 499)
    scipy_s = stats.bootstrap(
        (differences,), np.mean, n_resamples=499, confidence_level=LEVEL, method="BCa", rng=np.random.default_rng(SEED)
    ).confidence_interval
    assert found.estimate == pytest.approx(differences.mean())
    assert (found.low, found.high) == pytest.approx((scipy_s.low, scipy_s.high))


@given(seed=st.integers(0, 1000), times=st.integers(2, 6))
def test_asking_every_question_several_times_makes_nobody_surer(seed: int, times: int) -> None:
    right, asked, _ = clustered(np.random.default_rng(seed), 30)
    once = interval(30, ratio(right, asked), 199)
    again = interval(30, ratio(times * right, times * asked), 199)
    assert again.low == pytest.approx(once.low) and again.high == pytest.approx(once.high)


def test_more_questions_of_the_same_patients_tell_less_than_as_many_patients() -> None:
    random = np.random.default_rng(3)
    alike = np.repeat(random.integers(0, 2, 40), 10).astype(float)
    by_patient = interval(40, ratio(alike.reshape(40, 10).sum(1, keepdims=True), np.full((40, 1), 10.0)), 499)
    by_question = interval(400, ratio(alike[:, None], np.ones((400, 1))), 499)

    def width(found: Interval) -> float:
        assert found.low is not None and found.high is not None
        return found.high - found.low

    assert width(by_patient) > 2.5 * width(by_question)


def test_the_macro_average_weighs_a_rare_item_like_a_common_one() -> None:
    right = np.array([[9.0, 0.0], [9.0, 1.0], [9.0, 0.0]])
    asked = np.array([[10.0, 1.0], [10.0, 1.0], [10.0, 0.0]])
    assert ratio(right, asked)(np.arange(3)[None])[0] == pytest.approx((0.9 + 0.5) / 2)
    assert ratio(right, asked)(np.array([[2, 2, 2]]))[0] == pytest.approx(0.9), "nobody drawn was asked the rare one"


def test_a_figure_that_no_draw_moves_is_its_own_interval_and_of_two_patients_there_is_none() -> None:
    same = ratio(np.zeros((50, 1)), np.ones((50, 1)))
    assert interval(50, same, 199) == Interval(0.0, 0.0, 0.0)
    assert interval(2, ratio(np.ones((2, 1)), np.ones((2, 1))), 199) == Interval(1.0, None, None)
    assert interval(0, same, 199) == Interval(None, None, None)


def test_draws_are_counted_and_each_patient_is_left_out_once() -> None:
    assert counts(np.array([[0, 2, 2], [1, 1, 1]]), 3).tolist() == [[1, 0, 2], [0, 3, 0]]
    right = np.array([[1.0], [2.0], [6.0]])
    assert jackknife(3, ratio(right, np.ones((3, 1)))).tolist() == [4.0, 3.5, 1.5]


def test_a_p_value_is_the_exact_one_of_few_patients() -> None:
    one, other = np.array([3.0, 2.0, 4.0, 1.0]), np.array([1.0, 1.0, 1.0, 1.0])
    # Three patients differ, all the same way: 2 of the 8 ways to exchange them are as extreme.
    assert exchanged(one, other, 999) == pytest.approx(2 / 8)
    assert exchanged(one, one, 999) == 1.0


@pytest.mark.parametrize("patients", [1, 2, 40])
def test_where_one_patient_alone_differs_nothing_is_shown(patients: int) -> None:
    one, other = np.ones(patients), np.ones(patients)
    one[-1] = 3.0
    assert exchanged(one, other, 199) == 1.0


def test_a_share_that_is_all_or_nothing_has_an_exact_interval() -> None:
    """Of 20 patients without a failure the bound is 1 - 0.025 ** (1 / 20), as far as 20 patients can tell."""
    asked = np.full((20, 1), 3.0)
    none, every = (share_interval(20, ratio(right, asked), 199) for right in (np.zeros((20, 1)), asked))
    assert none.low == 0.0 and none.high == pytest.approx(1 - 0.025 ** (1 / 20))
    assert every.high == 1.0 and every.low == pytest.approx(0.025 ** (1 / 20))
    half = share_interval(20, ratio(asked / 2, asked), 199)
    assert half == Interval(0.5, 0.5, 0.5), "chance, of two choices each, is not drawn"
    right = np.random.default_rng(0).integers(0, 4, (20, 1)).astype(float)
    assert share_interval(20, ratio(right, asked), 199) == interval(20, ratio(right, asked), 199)
    assert share_interval(2, ratio(np.ones((2, 1)), np.ones((2, 1))), 199) == Interval(1.0, None, None)


def test_a_figure_that_no_draw_moves_has_no_interval_but_where_it_needs_no_sample() -> None:
    assert moved(Interval(1.0, 1.0, 1.0), 0.0) == Interval(1.0, None, None)
    assert moved(Interval(1e-17, 1e-17, 1e-17), 0.0).low == 1e-17, "two sides that are right alike"
    assert moved(Interval(0.5, 0.5, 0.5), 0.5) == Interval(0.5, 0.5, 0.5), "one probability for all"
    assert moved(Interval(1.0, 0.8, 1.0), 0.0) == Interval(1.0, 0.8, 1.0)


def test_a_p_value_is_never_told_as_none() -> None:
    assert [p_text(value) for value in (0.00002, 0.0001, 0.04996)] == ["below 0.0001", "0.0001", "0.0500"]


def test_holm_multiplies_by_how_many_are_left() -> None:
    """The worked example of four p values: 0.01, 0.04, 0.03, 0.005."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


@pytest.mark.slow
def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(7)
    held = 0
    for _ in range(1000):
        right, asked, truth = clustered(random, 300)
        found = interval(300, ratio(right, asked), 999)
        assert found.low is not None and found.high is not None
        held += found.low <= truth <= found.high
    assert 930 <= held <= 970
