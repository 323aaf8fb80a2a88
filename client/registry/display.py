"""Numbers that a registry tells apart and that look alike as they are shown: wrong decimals, or another unit."""

from __future__ import annotations

from collections import defaultdict

from common.feature import Feature, number_of

_MOST = 4096
"""Different numbers of a feature that are remembered."""
_FINER = 2
"""Digits behind the last one shown that are looked at: what differs later is the rounding of an export."""


class Display:
    """Remembers which numbers stood behind the texts shown."""

    def __init__(self) -> None:
        self._behind: dict[str, dict[str, set[float]]] = defaultdict(lambda: defaultdict(set))
        self._different: dict[str, int] = defaultdict(int)

    def saw(self, feature: Feature, cell: str, text: str) -> None:
        """Take a cell and the text that it is shown as."""
        number = number_of(cell) if feature.kind == "numeric" else None
        if number is None or number_of(text) is None or self._different[feature.name] >= _MOST:
            return
        behind = self._behind[feature.name][text]
        before = len(behind)
        behind.add(round(number, feature.decimals + _FINER))
        self._different[feature.name] += len(behind) - before

    def merged(self) -> dict[str, float]:
        """Share of the different numbers of a feature that are shown as another one is, where there are any."""
        shares = {
            name: sum(len(numbers) for numbers in texts.values() if len(numbers) > 1) / self._different[name]
            for name, texts in self._behind.items()
        }
        return {name: share for name, share in shares.items() if share}
