"""Bounds, step and decimals of a number, rounded outward so that they are no one's value."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from client.draft.doubts import Numbers
from client.registry.quantity import by_ratio, ratio_within

PARTS = 4
"""Steps to a standard deviation; from three on no rule that ignores the record gets far above chance."""


def bounds_of(numbers: Numbers, digits: int, unit: str) -> dict[str, Any] | None:
    """Bounds beyond the middle 99 %, a step of a quarter of a standard deviation, and the decimals that they need.

    Whether the step is a ratio is told by unit and bounds; then it is that of the logarithms.
    """
    first, last = (float(place) for place in np.percentile(numbers, [0.5, 99.5]))
    spread = float(numbers[(numbers >= first) & (numbers <= last)].std())
    if spread < 1e-6:
        return None
    decimals = min(digits, max(0, 1 - math.floor(math.log10(spread))), 6)
    low, high = _outer(numbers, first, last, decimals)
    if by_ratio(unit, low, high, digits):
        least = max(float(np.percentile(numbers, 10)), 10.0**-digits)
        decimals = min(digits, max(0, 1 - math.floor(math.log10(least))), 6)
        low, high = _outer(numbers, first, last, decimals)
        logarithms = np.log(np.maximum(numbers[(numbers >= first) & (numbers <= last)], 10.0**-decimals))
        ratio = ratio_within(math.exp(float(logarithms.std()) / PARTS))
        return {"low": low, "high": high, "step": ratio, "scale": "log", "decimals": decimals}
    step = max(10.0**-decimals, *(nice for nice in _nice(spread / PARTS) if nice <= 1.1 * spread / PARTS))
    return {"low": low, "high": high, "step": round(step, decimals), "decimals": decimals}


def _outer(numbers: Numbers, first: float, last: float, decimals: int) -> tuple[float, float]:
    """Bounds beyond these two numbers, at a precision."""
    unit = 10.0**-decimals
    high = _beyond(last, numbers.max(), unit)
    low = 0.0 if 0 <= first <= high / 10 else -_beyond(-first, -numbers.min(), unit)
    return round(low, decimals), round(high, decimals)


def _beyond(value: float, extreme: float, unit: float) -> float:
    """Return a larger 1, 2 or 5 times a power of ten, of either sign, in whole units; never the extreme itself."""
    if value > 0:
        found = min(nice for nice in _nice(value) if nice > value * (1 + 1e-9))
    else:
        found = -max(nice for nice in _nice(-value) if nice < -value * (1 - 1e-9)) if value else unit
    found = math.ceil(found / unit - 1e-9) * unit
    return found if abs(found - extreme) > unit / 2 else _beyond(found, extreme, unit)


def _nice(value: float) -> list[float]:
    """Return the numbers 1, 2 and 5 times a power of ten around a positive value."""
    power = math.floor(math.log10(value))
    return [digit * 10.0**exponent for exponent in (power - 1, power, power + 1) for digit in (1, 2, 5)]
