"""What every source of a registry gives: named columns and rows of raw text."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Table:
    """Rows of raw text cells, read once and in order.

    Parameters
    ----------
    name
        File or query, as messages name it.
    columns
        Column names, stripped.
    rows
        Place (line of the file, number of the row) and cells of every row; as many cells as columns.
    unit
        What a place counts: "line" or "row".
    remarks
        What was left out or doubted on the way, in counts, told once all rows are taken.
    notes
        What was left out and hardly is missed, told without a warning.
    elsewhere
        Says where in the source these names seem to stand instead, and what to do; None where nothing is known.
    """

    name: str
    columns: tuple[str, ...]
    rows: Iterator[tuple[int, Sequence[str]]]
    unit: str = "line"
    remarks: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    elsewhere: Callable[[Collection[str]], str | None] = field(default=lambda _: None, compare=False)

    def close(self) -> None:
        """Let go of file or connection, where not all rows were taken."""
        if isinstance(self.rows, Generator):
            self.rows.close()


def first_of(places: Sequence[object], most: int = 10) -> str:
    """Name the first places in a message, and say how many more there are."""
    more = f" and {len(places) - most:,} more" if len(places) > most else ""
    return ", ".join(map(str, places[:most])) + more
