"""Texts of a column: who has them, and which are shared by so many patients that they may be written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from client.draft.doubts import same
from common.alike import bare
from common.feature import OTHER, number_of

LEAST = 10
"""Patients who share a value before it is written."""

_MOST_TEXTS = 500
"""Different texts of a column that are looked at; free text has more."""


@dataclass
class Texts:
    """Texts of a column: how often each stands there, and whose it is, up to LEAST patients."""

    cells: Counter[str] = field(default_factory=Counter)
    patients: dict[str, set[int]] = field(default_factory=dict)

    def take(self, text: str, patients: Iterable[int]) -> None:
        """Count a cell."""
        if text in self.patients or len(self.patients) < _MOST_TEXTS:
            self.cells[text] += 1
            whose = self.patients.setdefault(text, set())
            if len(whose) < LEAST:
                whose.update(patients)

    def shared(self) -> dict[str, str]:
        """Texts that LEAST patients have, numbers first and in their order, and how each is shown.

        Ways to write one text count together, and are shown as the one among them that stands there most often.
        """
        alike = same(self.patients)
        groups: dict[str, list[str]] = {}
        for text in self.patients:
            if text != OTHER:
                groups.setdefault(alike[bare(text)], []).append(text)
        shown: dict[str, str] = {}
        for key, texts in groups.items():
            if len(set[int]().union(*(self.patients[text] for text in texts))) >= LEAST:
                whole = [text for text in texts if bare(text) == key] or texts
                shown |= dict.fromkeys(texts, max(whole, key=lambda text: (self.cells[text], text)))
        ordered = sorted(shown, key=lambda text: (number_of(text) is None, number_of(text) or 0.0, text))
        return {text: shown[text] for text in ordered}
