"""Values of workbooks, columnar files and databases as the text that a CSV export would have.

A number that a workbook shows in percent stays one: its text is what is shown, and no text of a file is the same. Any
other number with a fraction is marked as one, so that nobody wonders what its point separates.
"""

from __future__ import annotations

import datetime as dt
import math
from decimal import Decimal
from typing import Any
from uuid import UUID

_EXACT = 2.0**53
"""Whole numbers below it are exact as floats."""


class Percent(str):
    """A number that a workbook shows in percent: 21% where the cell holds 0.21; with a point, and equal to no text."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Percent) and str(self) == str(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((Percent, str(self)))

    def strip(self, chars: str | None = None, /) -> Percent:
        """Return it as it is: there is nothing around it."""
        return self

    def number(self, *, hundred: bool) -> str:
        """Return the number, with a point: of the hundred as shown, or the one that the cell holds."""
        shown = Decimal(str(self)[:-1])
        return f"{shown if hundred else shown / 100:f}"


class Stored(str):
    """A number with a fraction that the source holds as a number; otherwise as good as the text of a file."""

    __slots__ = ()

    def strip(self, chars: str | None = None, /) -> Stored:
        """Return it as it is: there is nothing around it."""
        return self


def cell_text(value: Any, decimal: str = ".") -> str | None:
    """Return a value as text: nothing as "", yes and no as "1" and "0", whole numbers without a point, ISO dates.

    A number has this decimal sign, so that it reads like those of the same table that are given as text. None for what
    is neither text, number, date, yes nor no.
    """
    match value:
        case None:
            return ""
        case str():
            return value
        case bool():
            return str(int(value))
        case int() | UUID():
            return str(value)
        case float() | Decimal() if math.isnan(value):
            return ""
        case Decimal() if value.is_finite():
            return Stored(f"{value:f}".replace(".", decimal))
        case float() if value.is_integer() and abs(value) < _EXACT:
            return str(int(value))
        case float() | Decimal():
            return Stored(repr(float(value)).replace(".", decimal))
        case dt.date() | dt.time():
            return value.isoformat()
    return None


def percent_text(value: float) -> str:
    """Return a number as a workbook shows it in percent; an infinite one as it stands."""
    if not math.isfinite(value):
        return cell_text(value) or ""
    return Percent(f"{(Decimal(repr(value)) * 100).normalize():f}%")
