"""How a number is shown and asked for, guessed from the unit and bounds of its data entry: decimals, scale and step."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

from client.registry.quantity import by_ratio, ratio_of_bounds
from client.registry.redcap.dictionary import Field

_PLACES = re.compile(r"number_([1-4])dp")
_FEWEST_VALUES = 200
_MOST_DECIMALS = 6
_RUNGS = 25


@dataclass(frozen=True)
class Scale:
    """Bounds, decimals and step of a numeric feature; the step is a ratio where `log`."""

    low: Decimal
    high: Decimal
    decimals: int
    step: Decimal
    log: bool


def scale_of(field: Field, unit: str) -> Scale:
    """Return the scale of a number with bounds.

    Decimals are those of its validation; a plain number has those of its bounds, and enough for 200 values between
    them. The step is the largest of 1, 2, 5 times a power of ten within a fortieth of the range, at least one unit
    shown; of a skewed quantity it is a ratio that leads in 25 steps or more from the lowest value to the highest.
    """
    assert field.low is not None and field.high is not None
    width = field.high - field.low
    needed = max(_places(field.low), _places(field.high))
    if given := _PLACES.match(field.validation):
        needed = max(needed, int(given[1]))
    elif field.validation.startswith("number"):
        while needed < _MOST_DECIMALS and width * 10**needed < _FEWEST_VALUES:
            needed += 1
    decimals = min(needed, _MOST_DECIMALS)
    low, high = float(field.low), float(field.high)
    if by_ratio(unit, low, high, decimals):
        ratio = Decimal(str(ratio_of_bounds(low, high, decimals, _RUNGS)))
        return Scale(field.low, field.high, decimals, ratio, True)
    return Scale(field.low, field.high, decimals, max(_round_down(width / 40), Decimal(1).scaleb(-decimals)), False)


def _round_down(width: Decimal) -> Decimal:
    """Largest of 1, 2, 5 times a power of ten that is not above `width`."""
    power = Decimal(1).scaleb(width.adjusted())
    return max(power * factor for factor in (1, 2, 5) if power * factor <= width)


def _places(bound: Decimal) -> int:
    exponent = bound.normalize().as_tuple().exponent
    assert isinstance(exponent, int)
    return max(0, -exponent)
