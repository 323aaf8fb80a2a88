"""How a number is shown and asked for, guessed from the bounds of its data entry: decimals and step."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

from client.registry.redcap.dictionary import Field

_PLACES = re.compile(r"number_([1-4])dp")
_FEWEST_VALUES = 200
_MOST_DECIMALS = 6


@dataclass(frozen=True)
class Scale:
    """Bounds, decimals and step of a numeric feature."""

    low: Decimal
    high: Decimal
    decimals: int
    step: Decimal


def scale_of(field: Field) -> Scale:
    """Return the scale of a number with bounds.

    Decimals are those of its validation; a plain number has those of its bounds, and enough for 200 values between
    them. The step is the largest of 1, 2, 5 times a power of ten within a tenth of the range, at least one unit shown.
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
    return Scale(field.low, field.high, decimals, max(_round_down(width / 10), Decimal(1).scaleb(-decimals)))


def _round_down(width: Decimal) -> Decimal:
    """Largest of 1, 2, 5 times a power of ten that is not above `width`."""
    power = Decimal(1).scaleb(width.adjusted())
    return max(power * factor for factor in (1, 2, 5) if power * factor <= width)


def _places(bound: Decimal) -> int:
    exponent = bound.normalize().as_tuple().exponent
    assert isinstance(exponent, int)
    return max(0, -exponent)
