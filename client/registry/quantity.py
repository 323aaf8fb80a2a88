"""Which quantities are compared by ratio, told from unit and bounds alone: for drafts, since no record may say it."""

from __future__ import annotations

import math
import re

_SPELT = (
    ("international unit", "iu"),
    ("enzyme unit", "u"),
    ("unit", "u"),
    ("milli", "m"),
    ("micro", "u"),
    ("nano", "n"),
    ("pico", "p"),
    ("deci", "d"),
    ("gram", "g"),
    ("mole", "mol"),
    ("equivalent", "eq"),
    ("litre", "l"),
    ("liter", "l"),
    (" per ", "/"),
)
_AMOUNT = re.compile(
    r".*/(k|d|c|m|u|n)?l"  # concentration, activity, count
    r"|(k|d|c|m|u)?l(/.+)?"  # volume, flow
    r"|(.*)(/|per)(u?l|mm3)"
    r"|(m|u|n)?g/kg(/(min|h|d|day))?"  # dose
    r"|(s|secs?|seconds?|mins?|minutes?|h|hrs?|hours?|d|days?)"  # how long
    r"|usd|eur|gbp"
)
_STEADY = re.compile(r"(m?mol|meq|g|kg)/d?l")
"""Concentrations that the body may hold within narrow limits, as it does sodium: their bounds have to tell."""
_LEAST_SPAN = 50
"""Highest over lowest value from which on equal differences mean little."""
RATIOS = (1.05, 1.08, 1.1, 1.15, 1.2, 1.25, 1.3, 1.4, 1.5, 1.7, 2.0, 2.5, 3.0, 4.0, 5.0)
"""Ratios of neighbouring choices that a draft or an advice proposes."""


def by_ratio(unit: str, low: float | None, high: float | None, decimals: int = 0) -> bool:
    """Whether values are likely skewed: an amount, a volume or a time without sign whose bounds lie far apart.

    Where `low` is 0 the least value that can be shown stands in for it; without bounds the unit decides.
    """
    written = unit.replace("μ", "u").replace("µ", "u").replace("³", "3").lower()
    for word, symbol in _SPELT:
        written = written.replace(word, symbol)
    written = re.sub(r"\s", "", written)
    if _AMOUNT.fullmatch(written) is None:
        return False
    if low is None or high is None:
        return _STEADY.fullmatch(written) is None
    return low >= 0 and high / max(low, 10.0**-decimals) >= _LEAST_SPAN


def ratio_within(most: float) -> float:
    """Largest of the ratios that is not above `most`; the least one where all are."""
    return max((ratio for ratio in RATIOS if ratio <= most * (1 + 1e-9)), default=RATIOS[0])


def ratio_of_bounds(low: float, high: float, decimals: int, rungs: int) -> float:
    """Ratio that takes at least so many choices from the lowest value to the highest."""
    return ratio_within((high / max(low, 10.0**-decimals)) ** (1 / rungs))


def steps_from(most: float) -> list[float]:
    """Even steps that one would write, from `most` down to a fiftieth of it: 1 to 6 or 8 times a power of ten."""
    powers = [10.0 ** (math.floor(math.log10(most)) - down) for down in range(3)]
    steps = [round(digit * power, 9) for power in powers for digit in (8, 6, 5, 4, 3, 2, 1)]
    return [step for step in steps if most / 50 <= step <= most * (1 + 1e-9)]
