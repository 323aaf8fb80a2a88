"""Values of workbooks, columnar files and databases as the text that a CSV export would have."""

from __future__ import annotations

import datetime as dt
import math
from decimal import Decimal
from typing import Any
from uuid import UUID

_EXACT = 2.0**53
"""Whole numbers below it are exact as floats."""


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
            return f"{value:f}".replace(".", decimal)
        case float() if value.is_integer() and abs(value) < _EXACT:
            return str(int(value))
        case float() | Decimal():
            return repr(float(value)).replace(".", decimal)
        case dt.date() | dt.time():
            return value.isoformat()
    return None
