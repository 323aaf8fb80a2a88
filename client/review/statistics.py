"""What the ratings say: who is preferred, how surely, and how far raters agree. Patients count, not clicks.

Several ratings of one patient are not independent. So a patient has one vote, the sign of the mean of all ratings of
theirs, and the votes are tested by the exact sign test (Bradley and Terry's model of two has no other parameter than
the log-odds of their share). The mean of the ratings has an interval by a bootstrap that draws patients, with all that
was said of them. Both are about these raters: others may see it otherwise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, bootstrap

RESAMPLES = 10_000
LEVEL = 0.95


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
    mean, mean_interval
        Of all ratings, from -2 to 2; the interval by the bootstrap over patients, None where they do not differ.
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

    @property
    def ratings(self) -> int:
        """All ratings."""
        return self.better + self.alike + self.worse


def preference(ratings: Sequence[Rating], seed: int = 0) -> Preference | None:
    """Return what ratings of one axis say; None where there are none."""
    if not ratings:
        return None
    by_patient: dict[str, list[int]] = defaultdict(list)
    for rating in ratings:
        by_patient[rating.patient].append(rating.value)
    sums = np.array([sum(by_patient[patient]) for patient in sorted(by_patient)], dtype=np.float64)
    counts = np.array([len(by_patient[patient]) for patient in sorted(by_patient)], dtype=np.float64)
    first, second = int((sums > 0).sum()), int((sums < 0).sum())
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
        mean_interval=_interval(sums, counts, seed),
    )


def _interval(sums: np.ndarray, counts: np.ndarray, seed: int) -> tuple[float, float] | None:
    """Return the percentile interval of the mean rating over drawn patients, None where all of them say the same."""
    if len(np.unique(sums / counts)) < 2:
        return None

    def mean(sums: np.ndarray, counts: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray(sums.sum(axis=axis) / counts.sum(axis=axis))

    found = bootstrap(
        (sums, counts),
        mean,
        n_resamples=RESAMPLES,
        paired=True,
        vectorized=True,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def agreement(ratings: Iterable[Rating]) -> float | None:
    """Return Krippendorff's alpha of one axis over cases that several rated, with the interval metric.

    1 is agreement, 0 what chance gives; None where no case has two ratings, or all ratings are the same. Krippendorff,
    Content Analysis (2004), chapter 11: 1 - Do/De, the mean squared difference within cases over that among all.
    """
    cases: dict[int, list[int]] = defaultdict(list)
    for rating in ratings:
        cases[rating.case].append(rating.value)
    return alpha([values for values in cases.values() if len(values) > 1])


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


def _squares(values: np.ndarray) -> float:
    """Sum of squared differences over all ordered pairs."""
    return float(2 * (len(values) * (values**2).sum() - values.sum() ** 2))


def by(ratings: Iterable[Rating], what: str) -> Mapping[str, list[Rating]]:
    """Return the ratings by axis, kind or rater, in the order of the alphabet."""
    found: dict[str, list[Rating]] = defaultdict(list)
    for rating in ratings:
        found[getattr(rating, what)].append(rating)
    return dict(sorted(found.items()))
