"""Every figure of an outcome is scikit-learn's, or one worked out by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from simulation.statistics import outcomes
from simulation.statistics.outcomes import Foretold, drawn_auroc, drawn_brier, figures, foretold

EVENTS = np.array([True, False, True, False, False, True, False, True, False, False])
CHANCES = np.array([0.8, 0.3, 0.6, 0.6, 0.1, 0.4, 0.2, 0.9, 0.4, 0.05])


def two_seeds(seed: int, patients: int = 60) -> Foretold:
    """Patients of whom each seed asked some, with ties among the probabilities."""
    random = np.random.default_rng(seed)
    chances = random.integers(1, 10, (patients, 2)) / 10
    return Foretold(random.random((patients, 2)) < chances, chances, random.random((patients, 2)) < 0.7)


def test_discrimination_and_brier_are_scikit_learn_s() -> None:
    told = Foretold(EVENTS[:, None], CHANCES[:, None], np.ones((10, 1), bool))
    found = figures(told)
    assert found["auroc"] == roc_auc_score(EVENTS, CHANCES)
    assert found["average_precision"] == average_precision_score(EVENTS, CHANCES)
    assert found["brier"] == pytest.approx(brier_score_loss(EVENTS, CHANCES))
    assert (found["asked"], found["events"]) == (10, 4)


@given(seed=st.integers(0, 500))
def test_draws_have_the_figures_of_the_patients_drawn(seed: int) -> None:
    told = two_seeds(seed)
    places = np.random.default_rng(seed).integers(0, 60, (5, 60))
    aurocs, briers = drawn_auroc(told)(places), drawn_brier(told)(places)
    for row, area, score in zip(places, aurocs, briers, strict=True):
        areas, scores = [], []
        for s in range(2):
            drawn = row[told.there[row, s]]
            events, chances = told.events[drawn, s], told.probabilities[drawn, s]
            scores.append(brier_score_loss(events, chances, pos_label=True))
            if 0 < events.sum() < len(events):
                areas.append(roc_auc_score(events, chances))
        assert area == pytest.approx(np.mean(areas))
        assert score == pytest.approx(np.mean(scores))


def test_slope_and_intercept_are_those_of_the_likelihood() -> None:
    random = np.random.default_rng(5)
    logits = random.normal(0, 1, 3000)
    events = random.random(3000) < expit(0.5 * logits - 0.7)
    chances = expit(logits)

    def less_likely(parameters: np.ndarray, slope: float | None = None) -> float:
        a, b = (parameters[0], slope) if slope is not None else parameters
        return float(np.sum(np.logaddexp(0, a + b * logits) - events * (a + b * logits)))

    both = minimize(less_likely, [0.0, 1.0]).x
    shift = minimize(less_likely, [0.0], args=(1.0,)).x
    assert outcomes.calibration_slope(events, chances) == pytest.approx(both[1], abs=1e-3)
    assert outcomes.calibration_intercept(events, chances) == pytest.approx(shift[0], abs=1e-3)
    assert both[1] == pytest.approx(0.5, abs=0.1), "too extreme by half"


def test_a_slope_that_is_infinite_is_none() -> None:
    told = Foretold(EVENTS[:, None], EVENTS[:, None] * 0.5 + 0.25, np.ones((10, 1), bool))
    found = figures(told)
    assert found["calibration_slope"] is None and found["auroc"] == 1.0
    constant = figures(Foretold(EVENTS[:, None], np.full((10, 1), 0.4), np.ones((10, 1), bool)))
    assert constant["calibration_slope"] is None and constant["auroc"] == 0.5
    assert constant["calibration_intercept"] == pytest.approx(0.0, abs=1e-6), "as many as foretold"


def test_an_outcome_that_nobody_had_cannot_be_told_apart() -> None:
    found = figures(Foretold(np.zeros((8, 1), bool), np.full((8, 1), 0.4), np.ones((8, 1), bool)))
    assert found["auroc"] is found["average_precision"] is found["calibration_intercept"] is None
    assert found["brier"] == pytest.approx(0.16) and found["net_benefit"]["0.1"] == pytest.approx(-1 / 9)
    nobody = figures(Foretold(np.zeros((8, 1), bool), np.zeros((8, 1)), np.zeros((8, 1), bool)))
    assert nobody["asked"] == 0 and nobody["reliability"] == []


def test_net_benefit_worked_out_by_hand() -> None:
    # From 0.4 on one acts on six patients, of whom four have the event: (4 - 2 * 0.4 / 0.6) / 10.
    assert outcomes.net_benefit(EVENTS, CHANCES, 0.4) == pytest.approx((4 - 2 * 2 / 3) / 10)
    # From 0.5 on three of four: (3 - 1) / 10.
    assert outcomes.net_benefit(EVENTS, CHANCES, 0.5) == pytest.approx(0.2)
    found = figures(Foretold(EVENTS[:, None], CHANCES[:, None], np.ones((10, 1), bool)))
    assert found["net_benefit"]["0.5"] == pytest.approx(0.2)
    assert found["net_benefit_all"]["0.5"] == pytest.approx((4 - 6) / 10), "acting on everybody"


def test_the_reliability_curve_is_scikit_learn_s() -> None:
    random = np.random.default_rng(2)
    chances = random.random(500)
    events = random.random(500) < chances**2
    share, mean = calibration_curve(events, chances, n_bins=outcomes.BINS, strategy="quantile")
    found = outcomes.reliability(events, chances)
    assert [group[0] for group in found] == pytest.approx(mean.tolist())
    assert [group[1] for group in found] == pytest.approx(share.tolist())
    assert [group[2] for group in found] == [100] * 5


@given(seed=st.integers(0, 500), patients=st.integers(1, 40))
def test_equal_probabilities_are_in_one_group_whoever_comes_first(seed: int, patients: int) -> None:
    random = np.random.default_rng(seed)
    chances, events = random.integers(1, 6, patients) / 10, random.random(patients) < 0.4
    share, mean = calibration_curve(events, chances, n_bins=outcomes.BINS, strategy="quantile")
    found = outcomes.reliability(events, chances)
    assert [group[:2] for group in found] == [pytest.approx(pair) for pair in zip(mean, share, strict=True)]
    assert sum(group[2] for group in found) == patients
    order = random.permutation(patients)
    again = outcomes.reliability(events[order], chances[order])
    assert np.allclose(again, found)


def test_rows_stand_at_their_patient_and_seed_and_those_without_a_probability_nowhere() -> None:
    rows = pd.DataFrame(
        {
            "seed": [11, 12, 12, 11],
            "patient": [7, 7, 3, 3],
            "event": pd.Series([True, False, True, None], dtype=object),
            "p_event": [0.9, 0.2, 0.6, None],
        }
    )
    told = foretold(rows, [3, 7], [11, 12])
    assert told.there.tolist() == [[False, True], [True, True]]
    assert told.events.tolist() == [[False, True], [True, False]]
    assert told.probabilities.tolist() == [[0.0, 0.6], [0.9, 0.2]]
