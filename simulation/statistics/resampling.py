"""How far a figure of a study can be off: patients are drawn again, with all their questions and all arms' answers.

A patient's questions are not independent, so it is patients that are resampled. Intervals are the bias-corrected and
accelerated ones (BCa: Efron 1987, JASA 82, 171-185), by SciPy; a test exchanges two sides' answers patient by patient.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Statistic = Callable[[Integers], Floats]
"""Of draws [..., patients], each a row of places of patients, to one figure for each row."""

LEVEL = 0.95
SEED = 20
"""Of the draws: the same table gives the same intervals."""
_CELLS = 2_000_000
"""Places drawn at a time."""
_NOTHING = 1e-12
"""By how much a figure differs that does not differ."""


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval; None where the draws give none."""

    estimate: float | None
    low: float | None
    high: float | None

    def rounded(self) -> dict[str, float | None]:
        """Return it for a file."""
        return {name: None if value is None else round(value, 6) for name, value in asdict(self).items()}


def interval(patients: int, statistic: Statistic, resamples: int) -> Interval:
    """Return a statistic of all patients with its BCa interval.

    Where no draw moves it, as for two arms that answer alike, the interval is the figure itself. Of fewer than three
    patients there is none.
    """
    from scipy import stats

    everybody = np.arange(patients)
    if not patients:
        return Interval(None, None, None)
    estimate = float(statistic(everybody[None])[0])
    if not np.isfinite(estimate):
        return Interval(None, None, None)
    if patients < 3:
        return Interval(estimate, None, None)
    left_out = jackknife(patients, statistic)
    if np.ptp(left_out) < _NOTHING:
        return Interval(estimate, estimate, estimate)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = stats.bootstrap(
            (everybody,),
            lambda places, axis: statistic(np.moveaxis(places, axis, -1)),
            vectorized=True,
            axis=-1,
            n_resamples=resamples,
            batch=max(1, _CELLS // patients),
            confidence_level=LEVEL,
            method="BCa",
            rng=np.random.default_rng(SEED),
        ).confidence_interval
    low, high = (None if not np.isfinite(end) else float(end) for end in (found.low, found.high))
    return Interval(estimate, low, high)


def share_interval(patients: int, statistic: Statistic, resamples: int) -> Interval:
    """Return a share of right answers with its interval.

    Where all answers are right, or all wrong, every draw is the same and knows no better: then it is the exact interval
    (Clopper and Pearson 1934, Biometrika 26, 404) of so many patients, each one trial.
    """
    from scipy import stats

    found = interval(patients, statistic, resamples)
    if found.low is None or found.estimate not in (0.0, 1.0) or not found.low == found.high == found.estimate:
        return found
    exact = stats.binomtest(round(patients * found.estimate), patients).proportion_ci(LEVEL, method="exact")
    return Interval(found.estimate, float(exact.low), float(exact.high))


def moved(found: Interval, still: float) -> Interval:
    """Return a figure without its ends where no draw moves it and it is not the `still` one.

    All may well differ alike, or an AUROC be 1, where other patients would not: the draws cannot say. `still` is what
    needs no sample: the difference of two sides that are right alike, the AUROC of one probability for all.
    """
    unmoved = found.low is not None and found.low == found.high == found.estimate
    if unmoved and found.estimate is not None and abs(found.estimate - still) > _NOTHING:
        return Interval(found.estimate, None, None)
    return found


def jackknife(patients: int, statistic: Statistic) -> Floats:
    """Return a statistic with each patient left out in turn."""
    everybody = np.arange(patients)
    rows = max(1, _CELLS // patients)
    found = []
    for first in range(0, patients, rows):
        out = np.arange(first, min(patients, first + rows))
        kept = np.broadcast_to(everybody, (len(out), patients))[everybody != out[:, None]]
        found.append(statistic(kept.reshape(len(out), patients - 1)))
    return np.concatenate(found)


def ratio(numerator: Floats, denominator: Floats) -> Statistic:
    """Return the mean over columns of sums of `numerator` over those of `denominator`, [patients, columns] each.

    One column gives a share over all questions, a column for each item the macro average. A column of which nothing
    was drawn is left out.
    """

    def statistic(places: Integers) -> Floats:
        times = counts(places, len(numerator))
        over, under = times @ numerator, times @ denominator
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = np.where(under > 0, over / under, np.nan)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.asarray(np.nanmean(shares, axis=-1))

    return statistic


def counts(places: Integers, patients: int) -> Floats:
    """Return how often each patient stands in each row of draws: [..., patients]."""
    rows = places.reshape(-1, places.shape[-1])
    flat = rows + patients * np.arange(len(rows))[:, None]
    times = np.bincount(flat.ravel(), minlength=patients * len(rows)).reshape(len(rows), patients)
    return times.reshape(*places.shape[:-1], patients).astype(float)


def exchanged(one: Floats, other: Floats, resamples: int) -> float:
    """Return the two-sided p of two sides' right answers by patient, were it chance whose answers are whose.

    Each patient's two sums are exchanged or not (a paired permutation test, SciPy's). 1 where all are equal but for
    one patient at the most: exchanged or not, the difference is as large.
    """
    from scipy import stats

    differ = one != other
    if differ.sum() < 2:
        return 1.0
    pair = (one[differ], other[differ])
    return float(
        stats.permutation_test(
            pair,
            lambda a, b, axis: (a - b).sum(axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=resamples,
            batch=max(1, _CELLS // int(differ.sum())),
            rng=np.random.default_rng(SEED),
        ).pvalue
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values so that the chance of any false finding among them is bounded (Holm 1979, Scand J Stat 6, 65)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
