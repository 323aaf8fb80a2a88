"""Excel workbooks (XLSX): one sheet, its column names in a row of choice, the table ending at the first empty row."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from openpyxl import load_workbook

from client.registry.cells import cell_text
from client.registry.table import Table
from common.errors import Code, FedReasonError

_ERRORS = frozenset({"#DIV/0!", "#N/A", "#NAME?", "#NULL!", "#NUM!", "#REF!", "#VALUE!", "#GETTING_DATA"})
"""What Excel shows where a formula has no value; taken as missing."""

JOINED = " / "
"""What stands between the parts of a column's name where they fill several rows."""

Rows = Generator[tuple[int, list[str]], None, None]


def read_workbook(path: Path, *, sheet: str | None, header_row: int, header_rows: int = 1) -> Table:
    """Open a workbook; its rows are parsed as they are taken. Values are those that Excel last computed.

    Parameters
    ----------
    sheet
        Name of the sheet; None where there is only one.
    header_row
        Row that holds the column names, from 1; the table goes on below it to the first empty row.
    header_rows
        How many rows they fill from there: what stands above a name goes before it, as in "Labs / Sodium".

    Raises
    ------
    FedReasonError
        REGISTRY_MISSING where the file or the sheet cannot be found, REGISTRY_TORN where it is no workbook,
        REGISTRY_EMPTY without column names in those rows.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        what = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({type(error).__name__})"
        raise FedReasonError(
            Code.REGISTRY_MISSING, f"{path} {what}.", "Check `registry.path` in site.toml and the file's permissions."
        ) from None
    warnings.filterwarnings("ignore", module="openpyxl")  # one of them tells a cell
    rows = _rows(path, file, sheet, header_row, header_rows)
    _, columns = next(rows)
    return Table(str(path), tuple(columns), rows, unit="row")


def _rows(path: Path, file: BinaryIO, sheet: str | None, header_row: int, header_rows: int) -> Rows:
    """Give the column names, then the rows; damaged bytes make openpyxl fail in every way there is."""
    try:
        with file, closing(load_workbook(file, read_only=True, data_only=True)) as book:
            cells = book[_sheet_of(path, book.sheetnames, sheet)]
            cells.reset_dimensions()  # some programs write a size that is too small
            rows = ([_text(cell) for cell in row] for row in cells.iter_rows(min_row=header_row, values_only=True))
            columns = _names([[cell.strip() for cell in row] for row in islice(rows, header_rows)])
            if not columns:
                raise _unnamed(path, header_row, header_rows)
            yield header_row, columns
            width = len(columns)
            for place, row in enumerate(rows, header_row + header_rows):
                if not any(cell.strip() for cell in row):
                    return
                yield place, [*row[:width], *[""] * (width - len(row))]
            return
    except FedReasonError:
        raise
    except Exception as error:
        kind = type(error).__name__
    raise FedReasonError(
        Code.REGISTRY_TORN,
        f"{path} is not a whole XLSX workbook ({kind}).",
        "Save it again in Excel as .xlsx, without a password.",
    )


def _names(header: Sequence[Sequence[str]]) -> list[str]:
    """Join the rows of a header; of merged cells the first alone holds the text, so a blank above goes on with it."""
    columns: list[str] = []
    above: list[str] = []
    width = max((place for row in header for place, cell in enumerate(row, 1) if cell), default=0)
    for column in range(width):
        *upper, own = (row[column] if column < len(row) else "" for row in header)
        first = next((level for level, cell in enumerate(upper) if cell), len(upper))
        above = above[:first] + upper[first:]
        columns.append(JOINED.join(part for part in (*above, own) if part))
    return columns


def _unnamed(path: Path, header_row: int, header_rows: int) -> FedReasonError:
    where = f"row {header_row} is" if header_rows == 1 else f"rows {header_row} to {header_row + header_rows - 1} are"
    return FedReasonError(
        Code.REGISTRY_EMPTY,
        f"{path}: {where} empty.",
        "Say in site.toml, [registry], in which row the column names stand: header_row = ...",
    )


def _sheet_of(path: Path, names: Sequence[str], wanted: str | None) -> str:
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted in names:
        return str(wanted)
    found = f"has {len(names)} sheets" if wanted is None else f"has no sheet '{wanted}'"
    raise FedReasonError(
        Code.REGISTRY_MISSING,
        f"{path} {found}: {', '.join(names)}.",
        "Say in site.toml, [registry], which one it is: sheet = ...",
    )


def _text(cell: Any) -> str:
    text = cell_text(cell) or ""
    return "" if text in _ERRORS else text
