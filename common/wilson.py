"""How far an accuracy can be off for the number of questions asked: the one interval shown beside accuracies."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

LEVEL = 0.95
NAME = f"{round(100 * LEVEL)} % interval"
_DEVIATIONS = NormalDist().inv_cdf((1 + LEVEL) / 2)


def interval(share: float, asked: int) -> tuple[float, float]:
    """Wilson score interval of a share of right answers at LEVEL, the questions taken as independent; (0, 1) of none.

    Its ends stay within 0 and 1, and it is no point where none or all are right (Wilson 1927, JASA 22, 209-212).
    """
    if not asked:
        return 0.0, 1.0
    squared = _DEVIATIONS**2 / asked
    middle = (share + squared / 2) / (1 + squared)
    reach = _DEVIATIONS * sqrt(share * (1 - share) / asked + squared / (4 * asked)) / (1 + squared)
    # Where none or all are right an end is 0 or 1, which rounding misses by a little.
    return min(share, max(0.0, middle - reach)), max(share, min(1.0, middle + reach))


def shown(share: float, asked: int) -> str:
    """Text of the interval."""
    low, high = interval(share, asked)
    return f"{low:.3f} to {high:.3f}"
