"""The records of a registry in little memory: a number for every cell, and each text once.

A record's values are put together when they are asked for, and not kept: 100,000 records of 700 features take 280 MB.
"""

from __future__ import annotations

from array import array
from collections.abc import ItemsView, Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

MISSING = 0
"""Code of a cell without a usable value."""


class Rows:
    """Cells by row and feature, as codes of texts; rows are added one after another, then looked at."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.place = {name: place for place, name in enumerate(self.names)}
        self.texts: list[str] = [""]
        self._codes: dict[str, int] = {}
        self._cells = array("i")

    def code(self, text: str) -> int:
        """Return the code of a text, the same for the same text, and never that of a missing one."""
        code = self._codes.get(text)
        if code is None:
            code = self._codes[text] = len(self.texts)
            self.texts.append(text)
        return code

    def add(self, codes: Sequence[int]) -> Row:
        """Add a row, its codes in the order of the names, and return it."""
        row = Row(self, len(self._cells) // len(self.names))
        self._cells.extend(codes)
        return row

    @cached_property
    def cells(self) -> NDArray[np.int32]:
        """All codes [rows, features]; nothing can be added any more."""
        return np.frombuffer(self._cells, dtype=np.int32).reshape(-1, len(self.names))

    def counts(self) -> dict[str, int]:
        """Count the rows that have a value, by feature."""
        return dict(zip(self.names, np.count_nonzero(self.cells, axis=0).tolist(), strict=True))


class Row(Mapping[str, str]):
    """Shown text by feature of one row; a feature without a usable value is not in it."""

    __slots__ = ("_number", "_rows")

    def __init__(self, rows: Rows, number: int) -> None:
        self._rows, self._number = rows, number

    def __getitem__(self, name: str) -> str:
        code = int(self._rows.cells[self._number, self._rows.place[name]])
        if code == MISSING:
            raise KeyError(name)
        return self._rows.texts[code]

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole())

    def __len__(self) -> int:
        return int(np.count_nonzero(self._rows.cells[self._number]))

    def items(self) -> ItemsView[str, str]:
        """Return all of it at once, which is much faster than one after another."""
        return self._whole().items()

    def __repr__(self) -> str:
        return f"Row({self._number})"

    def _whole(self) -> dict[str, str]:
        texts = self._rows.texts
        codes = self._rows.cells[self._number].tolist()
        return {name: texts[code] for name, code in zip(self._rows.names, codes, strict=True) if code}
