"""Column names that fill several rows, and where those of a codebook stand that are not where they should be."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

JOINED = " / "
"""What stands between the parts of a column's name."""

LOOKED_AT = 40
"""Rows from the first among which a header is looked for."""
_MOST_ROWS = 3


class Header(NamedTuple):
    """Where names stand: the row, from 1, how many rows they fill, and how many of the wanted names are there."""

    row: int
    rows: int
    found: int

    @property
    def keys(self) -> str:
        """What to say in site.toml."""
        return f"header_row = {self.row}" + (f" and header_rows = {self.rows}" if self.rows > 1 else "")


def joined_names(header: Sequence[Sequence[str]]) -> list[str]:
    """Join the rows of a header; of merged cells the first alone holds the text, so a blank above goes on with it.

    Columns behind the last one that any row names are left out.
    """
    columns: list[str] = []
    above: list[str] = []
    width = max((place for row in header for place, cell in enumerate(row, 1) if cell), default=0)
    for column in range(width):
        *upper, own = (row[column] if column < len(row) else "" for row in header)
        first = next((level for level, cell in enumerate(upper) if cell), len(upper))
        above = above[:first] + upper[first:]
        columns.append(JOINED.join(part for part in (*above, own) if part))
    return columns


def beside_told(places: Sequence[int], unit: str) -> list[str]:
    """Say how many rows hold more than the named columns; nothing where none does."""
    if not places:
        return []
    return [
        f"{len(places):,} rows hold cells right of the last column name that were not read, the first {unit} "
        f"{places[0]}: name every column, or delete what stands beside the table"
    ]


def find_header(rows: Sequence[Sequence[str]], wanted: Collection[str]) -> Header | None:
    """Return where most of the wanted names stand among the first rows of a table; None where half of them do not."""
    names = set(wanted)
    best: Header | None = None
    for count in range(1, _MOST_ROWS + 1):
        for place in range(len(rows) - count + 1):
            columns = joined_names([[cell.strip() for cell in row] for row in rows[place : place + count]])
            found = len(names.intersection(columns))
            if 2 * found >= len(names) and found > (best.found if best else 0):
                best = Header(place + 1, count, found)
    return best


def loose(name: str) -> str:
    """Return a name without what is easily written otherwise: capitals, blanks, and signs that take their place."""
    return "".join(sign for sign in name.casefold() if sign.isalnum())
