"""Column names that fill several rows, as in workbooks: what stands above a name goes before it."""

from __future__ import annotations

from collections.abc import Sequence

JOINED = " / "
"""What stands between the parts of a column's name."""


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
