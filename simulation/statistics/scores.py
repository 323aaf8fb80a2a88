"""Right answers of every side of a comparison, question by question, and their sums by patient.

A side is an arm; `alone` is the mean over the sites' own adapters, each asked everywhere, `own` each site's own adapter
on its own patients, and `chance` what drawing a letter gets right on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from simulation.study.config import CHANCE, OWN

KEY = ["seed", "site", "patient", "item"]
"""What a question is told by: nobody is asked the same twice."""
MEASURES = {"free": "correct", "forced": "forced_correct"}
Floats = NDArray[np.float64]


def scores(rows: pd.DataFrame, measure: str, sides: Sequence[str]) -> pd.DataFrame:
    """Return one row for each question, a column for each side, how right it was: 0 to 1, or missing."""
    column = MEASURES[measure]
    found = {str(arm): part.groupby(KEY, sort=True)[column].mean().astype(float) for arm, part in rows.groupby("arm")}
    own = rows[(rows["arm"] == "alone") & (rows["trained_at"] == rows["site"])]
    if len(own):
        found[OWN] = own.set_index(KEY)[column].astype(float).sort_index()
    found[CHANCE] = 1.0 / rows.groupby(KEY, sort=True)["choices"].first().astype(float)
    return pd.DataFrame(found).reindex(columns=list(sides)).astype(float)


@dataclass(frozen=True)
class Sums:
    """Sums over each patient's questions of all seeds, by item: [patients, items] of right answers and of questions."""

    patients: tuple[int, ...]
    items: tuple[str, ...]
    right: dict[str, Floats]
    asked: Floats

    @property
    def whole(self) -> Sums:
        """The same over all items."""
        total = {side: each.sum(1, keepdims=True) for side, each in self.right.items()}
        return Sums(self.patients, ("all",), total, self.asked.sum(1, keepdims=True))


def sums(table: pd.DataFrame, sides: Sequence[str]) -> Sums:
    """Add up the scores of some sides, over the questions that all of them were asked."""
    answered = table[list(sides)].dropna()
    patients, rows = np.unique(answered.index.get_level_values("patient"), return_inverse=True)
    items, columns = np.unique(answered.index.get_level_values("item"), return_inverse=True)

    def added(values: Floats) -> Floats:
        total = np.zeros((len(patients), len(items)))
        np.add.at(total, (rows, columns), values)
        return total

    right = {side: added(answered[side].to_numpy(dtype=float)) for side in sides}
    asked = added(np.ones(len(answered)))
    return Sums(tuple(patients.tolist()), tuple(map(str, items)), right, asked)
