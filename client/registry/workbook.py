"""Excel workbooks (XLSX): one sheet, its column names in a row of choice, the table ending at the first empty row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

from openpyxl import load_workbook

from client.registry.cells import cell_text
from client.registry.table import Table
from common.errors import Code, FedReasonError

_ERRORS = frozenset({"#DIV/0!", "#N/A", "#NAME?", "#NULL!", "#NUM!", "#REF!", "#VALUE!", "#GETTING_DATA"})
"""What Excel shows where a formula has no value; taken as missing."""


def read_workbook(path: Path, *, sheet: str | None, header_row: int) -> Table:
    """Open a workbook; its rows are parsed as they are taken. Values are those that Excel last computed.

    Parameters
    ----------
    sheet
        Name of the sheet; None where there is only one.
    header_row
        Row that holds the column names, from 1; the table goes on below it to the first empty row.

    Raises
    ------
    FedReasonError
        REGISTRY_MISSING where the file or the sheet cannot be found, REGISTRY_TORN where it is no workbook,
        REGISTRY_EMPTY without column names in that row.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        what = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({type(error).__name__})"
        raise FedReasonError(
            Code.REGISTRY_MISSING, f"{path} {what}.", "Check `registry.path` in site.toml and the file's permissions."
        ) from None
    rows = _rows(path, file, sheet, header_row)
    header = next(rows, [])
    width = max((place for place, cell in enumerate(header, 1) if cell.strip()), default=0)
    if not width:
        raise FedReasonError(
            Code.REGISTRY_EMPTY,
            f"{path}: row {header_row} is empty.",
            "Say in site.toml, [registry], in which row the column names stand: header_row = ...",
        )
    return Table(
        str(path), tuple(cell.strip() for cell in header[:width]), _below(rows, width, header_row + 1), unit="row"
    )


def _rows(path: Path, file: BinaryIO, sheet: str | None, first: int) -> Iterator[list[str]]:
    """Yield the rows of a sheet from the `first` on; damaged bytes make openpyxl fail in every way there is."""
    try:
        with file, closing(load_workbook(file, read_only=True, data_only=True)) as book:
            for row in book[_sheet_of(path, book.sheetnames, sheet)].iter_rows(min_row=first, values_only=True):
                yield [_text(cell) for cell in row]
    except FedReasonError:
        raise
    except Exception as error:
        raise FedReasonError(
            Code.REGISTRY_TORN,
            f"{path} is not a whole XLSX workbook ({type(error).__name__}).",
            "Save it again in Excel as .xlsx, without a password.",
        ) from None


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


def _below(rows: Iterator[list[str]], width: int, first: int) -> Iterator[tuple[int, list[str]]]:
    for place, cells in enumerate(rows, first):
        if not any(cell.strip() for cell in cells):
            return
        yield place, [*cells[:width], *[""] * (width - len(cells))]
