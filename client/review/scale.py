"""What a case is rated on, and the scale: which of two answers is better, and how much."""

from __future__ import annotations

from typing import Literal

Side = Literal["first", "second"]
"""The models of a review in the order that the command named them; no page says so."""
SIDES: tuple[Side, Side] = ("first", "second")

AXES = {
    "reasoning": "Correctness of the reasoning",
    "evidence": "Use of the evidence in the record",
    "therapy": "Empirical therapy",
    "harm": "Freedom from harm",
    "overall": "Overall preference",
}
"""Axes by name, as they are asked; more is always better, so of harm it is the freedom from it."""
ALWAYS = "overall"
"""The axis that applies to every case: with it a case counts as rated."""
SCALE = {
    -2: "Answer 1 much better",
    -1: "Answer 1 better",
    0: "Both alike",
    1: "Answer 2 better",
    2: "Answer 2 much better",
}
LONGEST_COMMENT = 4000
"""Characters."""


def other(side: Side) -> Side:
    """Return the other model."""
    return "second" if side == "first" else "first"
