"""What the ratings say: who is preferred, how surely, and how far raters agree. Patients count, not clicks.

Several ratings of one patient are not independent. So a patient has one vote, the sign of the mean of all ratings of
theirs, and the votes are tested by the exact sign test (Bradley and Terry's model of two has no other parameter than
the log-odds of their share). The mean of the ratings has two intervals by the bootstrap: one draws patients, with all
that was said of them, and is about these raters; the other draws raters too, and is wider where raters differ.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

RESAMPLES = 10_000
LEVEL = 0.95
FEWEST_DRAWN = 10
"""Patients that an interval is drawn from at the least: of five it holds the truth too seldom (tests)."""
_AT_A_TIME = 500


@dataclass(frozen=True)
class Rating:
    """What one rater said of one case on one axis: above 0 where the first model is better, 2 where much better."""

    rater: str
    case: int
    patient: str
    kind: str
    axis: str
    value: int


@dataclass(frozen=True)
class Preference:
    """Ratings and patients by whom they prefer, on one axis.

    Attributes
    ----------
    better, alike, worse
        Ratings: the first model is better, both are alike, the second is better.
    patients
        Patients with ratings.
    first, second
        Patients whose ratings prefer the one or the other on the average; the rest are undecided.
    share, share_interval
        Of the decided patients those who prefer the first, with the exact interval; None where nobody is decided.
    p
        Of the exact two-sided sign test on the decided patients.
    mean, mean_interval, wide_interval
        Of all ratings, from -2 to 2, with the interval for other patients, None where patients do not differ, and that
        for other patients and raters, None where fewer than two raters rated or nobody differs. Both are None of fewer
        than `FEWEST_DRAWN` patients.
    """

    better: int
    alike: int
    worse: int
    patients: int
    first: int
    second: int
    share: float | None
    share_interval: tuple[float, float] | None
    p: float | None
    mean: float
    mean_interval: tuple[float, float] | None
    wide_interval: tuple[float, float] | None

    @property
    def ratings(self) -> int:
        """All ratings."""
        return self.better + self.alike + self.worse


def preference(ratings: Sequence[Rating], seed: int = 0) -> Preference | None:
    """Return what ratings of one axis say; None where there are none."""
    if not ratings:
        return None
    sums, counts = _table(ratings)
    of_patient = sums.sum(axis=1)
    first, second = int((of_patient > 0).sum()), int((of_patient < 0).sum())
    tested = binomtest(first, first + second) if first + second else None
    exact = None if tested is None else tested.proportion_ci(LEVEL, method="exact")
    values = [rating.value for rating in ratings]
    return Preference(
        better=sum(value > 0 for value in values),
        alike=sum(value == 0 for value in values),
        worse=sum(value < 0 for value in values),
        patients=len(sums),
        first=first,
        second=second,
        share=None if tested is None else first / (first + second),
        share_interval=None if exact is None else (float(exact.low), float(exact.high)),
        p=None if tested is None else float(tested.pvalue),
        mean=float(sums.sum() / counts.sum()),
        mean_interval=_interval(of_patient[:, None], counts.sum(axis=1)[:, None], seed),
        wide_interval=_interval(sums, counts, seed) if sums.shape[1] > 1 else None,
    )


def _table(ratings: Sequence[Rating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return sums and numbers of the ratings, [patients, raters]."""
    patients = {name: place for place, name in enumerate(sorted({rating.patient for rating in ratings}))}
    raters = {name: place for place, name in enumerate(sorted({rating.rater for rating in ratings}))}
    sums, counts = np.zeros((2, len(patients), len(raters)))
    for rating in ratings:
        place = patients[rating.patient], raters[rating.rater]
        sums[place] += rating.value
        counts[place] += 1
    return sums, counts


def _interval(sums: NDArray[np.float64], counts: NDArray[np.float64], seed: int) -> tuple[float, float] | None:
    """Return the percentile interval of the mean rating; None where all say the same, or of too few patients.

    Patients and raters are drawn with replacement, each for themselves: the pigeonhole bootstrap (Owen, Annals of
    Applied Statistics 1 (2007), 386-411), which with one column is that of patients alone. A draw in which nobody rated
    anybody is drawn anew.
    """
    patients, raters = sums.shape
    there = counts > 0
    if patients < FEWEST_DRAWN or len(np.unique(sums[there] / counts[there])) < 2:
        return None
    random, means = np.random.default_rng(seed), np.empty(0)
    while len(means) < RESAMPLES:
        rows = random.multinomial(patients, np.full(patients, 1 / patients), size=_AT_A_TIME)
        columns = random.multinomial(raters, np.full(raters, 1 / raters), size=_AT_A_TIME)
        total = ((rows @ sums) * columns).sum(axis=1)
        number = ((rows @ counts) * columns).sum(axis=1)
        means = np.concatenate([means, total[number > 0] / number[number > 0]])
    low, high = np.quantile(means[:RESAMPLES], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Agreement:
    """Krippendorff's alpha, and of how many patients the cases are that several raters rated."""

    alpha: float
    patients: int


def agreement(ratings: Sequence[Rating]) -> Agreement | None:
    """Return alpha of one axis over the cases that several rated, with the interval metric.

    1 is agreement, 0 what chance gives; None where no case has two ratings, or all ratings are the same. Krippendorff,
    Content Analysis (2004), chapter 11: 1 - Do/De, the mean squared difference within cases over that among all.
    """
    cases: dict[int, list[Rating]] = defaultdict(list)
    for rating in ratings:
        cases[rating.case].append(rating)
    several = [theirs for theirs in cases.values() if len(theirs) > 1]
    found = alpha([[rating.value for rating in theirs] for theirs in several])
    return None if found is None else Agreement(found, len({theirs[0].patient for theirs in several}))


def alpha(units: Iterable[Sequence[float]]) -> float | None:
    """Return alpha of units with two values or more each; see `agreement`."""
    pairable = [np.asarray(values, dtype=np.float64) for values in units]
    if not pairable:
        return None
    everything = np.concatenate(pairable)
    total = len(everything)
    within = sum(_squares(values) / (len(values) - 1) for values in pairable) / total
    among = _squares(everything) / (total * (total - 1))
    return None if among == 0 else float(1 - within / among)


def _squares(values: NDArray[np.float64]) -> float:
    """Sum of squared differences over all ordered pairs."""
    return float(2 * (len(values) * (values**2).sum() - values.sum() ** 2))


def by(ratings: Iterable[Rating], what: str) -> Mapping[str, list[Rating]]:
    """Return the ratings by axis, kind or rater, in the order of the alphabet."""
    found: dict[str, list[Rating]] = defaultdict(list)
    for rating in ratings:
        found[getattr(rating, what)].append(rating)
    return dict(sorted(found.items()))
