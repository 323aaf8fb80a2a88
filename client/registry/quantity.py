"""Which quantities are compared by ratio, told from unit and bounds alone: for drafts, since no record may say it."""

from __future__ import annotations

import math
import re

_AMOUNT = re.compile(
    r"(.*(g|mol|eq|u|iu|cells|count|copies|cfu|10\^\d+|)/(k|d|c|m|u|n)?l"  # concentration, activity, count
    r"|(k|d|c|m|u)?l(/.+)?"  # volume, flow
    r"|(per|/)(microlitre|microliter|ul|mm3)"
    r"|(s|sec|secs|seconds?|mins?|minutes?|h|hrs?|hours?|d|days?)"  # how long
    r"|usd|eur|gbp)"
)
_LEAST_SPAN = 50
"""Highest over lowest value from which on equal differences mean little."""
RATIOS = (1.05, 1.08, 1.1, 1.15, 1.2, 1.25, 1.3, 1.4, 1.5, 1.7, 2.0, 2.5, 3.0, 4.0, 5.0)
"""Ratios of neighbouring choices that a draft or an advice proposes."""


def by_ratio(unit: str, low: float, high: float, decimals: int) -> bool:
    """Whether values are likely skewed: an amount, a volume or a time without sign whose bounds lie far apart.

    Where `low` is 0 the least value that can be shown stands in for it.
    """
    written = re.sub(r"\s", "", unit).replace("μ", "u").replace("µ", "u").replace("³", "3").lower()
    return low >= 0 and _AMOUNT.fullmatch(written) is not None and high / max(low, 10.0**-decimals) >= _LEAST_SPAN


def ratio_within(most: float) -> float:
    """Largest ratio proposed that is not above `most`; the least one where all are."""
    return max((ratio for ratio in RATIOS if ratio <= most), default=RATIOS[0])


def ratio_of_bounds(low: float, high: float, decimals: int, rungs: int) -> float:
    """Ratio that takes about so many choices from the lowest value to the highest."""
    return ratio_within(math.exp(math.log(high / max(low, 10.0**-decimals)) / rungs))
