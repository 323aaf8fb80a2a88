"""How well an event is foretold: discrimination, calibration, and what acting on the probabilities would be worth.

From the probability that an arm gives the letter of the event. Each figure is of one seed, and then the mean over
seeds: probabilities of different seeds' models are not ranked against each other. Those of an arm with an adapter for
each site are, since it is what all hospitals together would see.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from simulation.statistics.resampling import Integers, Statistic

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Probabilities from which one would act, of the decision curve."""
BINS = 5
"""Of the reliability curve: as many groups at the most, of equal size."""
_CERTAIN = 1e-6
"""Probabilities are kept that far from 0 and 1 where their logit is taken."""


@dataclass(frozen=True)
class Foretold:
    """Events and their probabilities by patient and seed: [patients, seeds]; `there` says who was asked."""

    events: Bools
    probabilities: Floats
    there: Bools

    @property
    def by_seed(self) -> list[tuple[Bools, Floats]]:
        """Events and probabilities of each seed in which anybody was asked."""
        asked = [self.there[:, seed] for seed in range(self.there.shape[1])]
        return [(self.events[a, seed], self.probabilities[a, seed]) for seed, a in enumerate(asked) if a.any()]

    def mean(self, figure: Callable[[Bools, Floats], float], *, both: bool = True) -> float | None:
        """Return the mean of a figure over the seeds that have it; with `both` those with and without the event."""
        seeds = [(events, chances) for events, chances in self.by_seed if not both or 0 < events.sum() < len(events)]
        found = [value for events, chances in seeds if np.isfinite(value := figure(events, chances))]
        return float(np.mean(found)) if found else None


def foretold(rows: pd.DataFrame, patients: Sequence[int], seeds: Sequence[int]) -> Foretold:
    """Return what one arm says of one item: at most one row for each patient and seed."""
    asked = rows[rows["event"].notna() & rows["p_event"].notna()]
    shape = (len(patients), len(seeds))
    events, chances, there = np.zeros(shape, bool), np.zeros(shape), np.zeros(shape, bool)
    at = (np.searchsorted(patients, asked["patient"]), [seeds.index(seed) for seed in asked["seed"]])
    events[at], chances[at], there[at] = asked["event"].astype(bool), asked["p_event"], True
    return Foretold(events, chances, there)


def auroc(events: Bools, chances: Floats) -> float:
    """Area under the receiver operating characteristic."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(events, chances))


def average_precision(events: Bools, chances: Floats) -> float:
    """Average precision."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(events, chances))


def brier(events: Bools, chances: Floats) -> float:
    """Mean squared difference of probability and event (Brier 1950, Mon Weather Rev 78, 1-3)."""
    from sklearn.metrics import brier_score_loss

    return float(brier_score_loss(events, chances, pos_label=True))


def calibration_slope(events: Bools, chances: Floats) -> float:
    """Slope of the events on the logits of their probabilities: 1 is right, less is too extreme (Cox 1958)."""
    from sklearn.linear_model import LogisticRegression

    logits = logits_of(chances)
    if np.ptp(logits) < 1e-9 or separated(events, logits):
        return float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(logits[:, None], events)
    return float(fitted.coef_[0, 0])


def calibration_intercept(events: Bools, chances: Floats) -> float:
    """Shift of the logits with which as many events are foretold as there are: 0 is right, above it too few."""
    from scipy.optimize import brentq
    from scipy.special import expit

    logits = logits_of(chances)
    return float(brentq(lambda shift: float(np.sum(expit(logits + shift)) - events.sum()), -40, 40))


def separated(events: Bools, logits: Floats) -> bool:
    """Whether a threshold parts events from others, so that no slope is the likeliest."""
    with_event, without = logits[events], logits[~events]
    return bool(with_event.min() >= without.max() or with_event.max() <= without.min())


def logits_of(chances: Floats) -> Floats:
    """Return log odds, of probabilities kept within bounds."""
    from scipy.special import logit

    return np.asarray(logit(np.clip(chances, _CERTAIN, 1 - _CERTAIN)))


def net_benefit(events: Bools, chances: Floats, threshold: float) -> float:
    """Right actions less wrong ones weighted by the threshold's odds, per patient (Vickers 2006, Med Decis Mak 26)."""
    act = chances >= threshold
    right, wrong = np.sum(act & events), np.sum(act & ~events)
    return float((right - wrong * threshold / (1 - threshold)) / len(events))


def reliability(events: Bools, chances: Floats) -> list[tuple[float, float, int]]:
    """Mean probability, share of events and number of patients, in groups of equal size by probability.

    Equal probabilities are in one group, which may then be larger (as scikit-learn's calibration_curve has it).
    """
    edges = np.quantile(chances, np.linspace(0, 1, BINS + 1)[1:-1])
    place = np.searchsorted(edges, chances)
    groups = [place == each for each in np.unique(place)]
    return [(float(chances[g].mean()), float(events[g].mean()), int(g.sum())) for g in groups]


def figures(told: Foretold) -> dict[str, Any]:
    """Return everything of one arm and item; the reliability curve is of the patients of all seeds."""
    events, chances = told.events[told.there], told.probabilities[told.there]

    def worth(threshold: float, everybody: bool) -> float | None:
        """Net benefit of acting by the probabilities, or on everybody."""

        def figure(events: Bools, chances: Floats) -> float:
            return net_benefit(events, np.ones_like(chances) if everybody else chances, threshold)

        return told.mean(figure, both=False)

    return {
        "asked": len(events),
        "events": int(events.sum()),
        "auroc": told.mean(auroc),
        "average_precision": told.mean(average_precision),
        "brier": told.mean(brier, both=False),
        "calibration_slope": told.mean(calibration_slope),
        "calibration_intercept": told.mean(calibration_intercept),
        "net_benefit": {f"{at:g}": worth(at, False) for at in THRESHOLDS},
        "net_benefit_all": {f"{at:g}": worth(at, True) for at in THRESHOLDS},
        "reliability": reliability(events, chances) if len(events) else [],
    }


def drawn_auroc(told: Foretold) -> Statistic:
    """Return AUROC of draws of patients, mean over seeds: by ranks, each draw's at once."""
    from scipy.stats import rankdata

    def statistic(places: Integers) -> Floats:
        found = []
        for seed in range(told.there.shape[1]):
            there, events = told.there[places, seed], told.events[places, seed] & told.there[places, seed]
            ranks = rankdata(np.where(there, told.probabilities[places, seed], -1.0), axis=-1)
            absent, positive = (~there).sum(-1), events.sum(-1)
            negative = there.sum(-1) - positive
            above = np.where(events, ranks, 0.0).sum(-1) - absent * positive - positive * (positive + 1) / 2
            with np.errstate(invalid="ignore", divide="ignore"):
                found.append(np.where(positive * negative > 0, above / (positive * negative), np.nan))
        return mean_of(found)

    return statistic


def drawn_brier(told: Foretold) -> Statistic:
    """Return the Brier score of draws of patients, mean over seeds."""
    squares = np.where(told.there, (told.probabilities - told.events) ** 2, 0.0)

    def statistic(places: Integers) -> Floats:
        found = []
        for seed in range(told.there.shape[1]):
            asked = told.there[places, seed].sum(-1)
            with np.errstate(invalid="ignore", divide="ignore"):
                found.append(np.where(asked > 0, squares[places, seed].sum(-1) / asked, np.nan))
        return mean_of(found)

    return statistic


def mean_of(figures_of_seeds: Sequence[Floats]) -> Floats:
    """Return the mean over the seeds in which a draw has a figure."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(np.nanmean(figures_of_seeds, axis=0))
