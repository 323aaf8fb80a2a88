"""Excel workbooks (XLSX): one sheet, its column names in a row of choice, the table ending at the first empty row.

What stands below the first empty row or beside the table is not read, and counted: it may be a remark or half of it.
So are formulas that nobody has computed, hidden rows and merged cells.
"""

from __future__ import annotations

import json
import re
import warnings
from collections import Counter
from collections.abc import Collection, Generator, Sequence
from contextlib import closing
from datetime import timedelta
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal

from openpyxl import load_workbook

from client.registry.cells import cell_text, percent_text
from client.registry.header import LOOKED_AT, beside_told, find_header, joined_names
from client.registry.sheet import marks_of
from client.registry.table import Table
from common.errors import Code, FedReasonError

_ERRORS = frozenset({"#DIV/0!", "#N/A", "#NAME?", "#NULL!", "#NUM!", "#REF!", "#VALUE!", "#GETTING_DATA"})
"""What Excel shows where a formula has no value; taken as missing."""

_PERCENT = re.compile(r'^(?:[^"%\\_]|"[^"]*"|\\.|_.)*%')
"""A number format with a percent sign that is no text of it."""

Rows = Generator[tuple[int, list[str]], None, None]


def read_workbook(
    path: Path,
    *,
    sheet: str | None,
    header_row: int,
    header_rows: int = 1,
    blank_rows: Literal["end", "skip"] = "end",
    decimal: str = ".",
) -> Table:
    """Open a workbook; its rows are parsed as they are taken. Values are those that Excel last computed.

    Parameters
    ----------
    sheet
        Name of the sheet; None where there is only one.
    header_row
        Row that holds the column names, from 1; the table goes on below it to the first empty row.
    header_rows
        How many rows they fill from there: what stands above a name goes before it, as in "Labs / Sodium".
    blank_rows
        Whether the table ends at an empty row or goes on below it.
    decimal
        What stands for the point in the numbers that are given as text.

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
    remarks: list[str] = []
    rows = _rows(path, file, sheet, header_row, header_rows, blank_rows == "skip", decimal, remarks)
    _, columns = next(rows)
    elsewhere = partial(_elsewhere, path, sheet, header_row, header_rows)
    return Table(str(path), tuple(columns), rows, unit="row", remarks=remarks, elsewhere=elsewhere)


def _rows(
    path: Path,
    file: BinaryIO,
    sheet: str | None,
    header_row: int,
    header_rows: int,
    past_blank: bool,
    decimal: str,
    remarks: list[str],
) -> Rows:
    """Give the column names, then the rows; damaged bytes make openpyxl fail in every way there is."""
    try:
        with file, closing(load_workbook(file, read_only=True, data_only=True)) as book:
            chosen = _sheet_of(path, book.sheetnames, sheet)
            cells = book[chosen]
            cells.reset_dimensions()  # some programs write a size that is too small
            errors = Counter[str]()
            rows = ([_text(cell, decimal, errors) for cell in row] for row in cells.iter_rows(min_row=header_row))
            columns = joined_names([[cell.strip() for cell in row] for row in islice(rows, header_rows)])
            if not columns:
                raise _unnamed(path, header_row, header_rows)
            yield header_row, columns
            width, blank, unread, beside = len(columns), 0, 0, list[int]()
            for place, row in enumerate(rows, header_row + header_rows):
                if not any(cell.strip() for cell in row):
                    blank = blank or place
                elif blank and not past_blank:
                    unread += 1
                else:
                    if any(cell.strip() for cell in row[width:]):
                        beside.append(place)
                    yield place, [*row[:width], *[""] * (width - len(row))]
            if unread:
                remarks.append(
                    f"{unread:,} filled rows below the empty row {blank} were not read: delete that row, or say in "
                    'site.toml, [registry], blank_rows = "skip"'
                )
            remarks += beside_told(beside, "row")
            if errors:
                told = ", ".join(f"{count:,} {error}" for error, count in sorted(errors.items()))
                remarks.append(f"cells with an error of Excel are taken as missing: {told}")
            remarks += marks_of(path, chosen, header_row + header_rows).told()
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


def _elsewhere(path: Path, sheet: str | None, header_row: int, header_rows: int, wanted: Collection[str]) -> str | None:
    """Say in which rows, of which sheet, the wanted names stand; None where nothing is seen, in a damaged file too."""
    try:
        with path.open("rb") as file, closing(load_workbook(file, read_only=True, data_only=True)) as book:
            chosen = _sheet_of(path, book.sheetnames, sheet)
            for cells in sorted(book.worksheets, key=lambda each: each.title != chosen):
                cells.reset_dimensions()
                rows = [[_text(cell, ".", Counter()) for cell in row] for row in islice(cells.iter_rows(), LOOKED_AT)]
                found = find_header(rows, wanted)
                if found is None or (cells.title == chosen and found[:2] == (header_row, header_rows)):
                    continue
                named = "" if cells.title == chosen else f"sheet = {json.dumps(cells.title, ensure_ascii=False)}, "
                where = f"row {found.row}{' of another sheet' if named else ''}"
                return f"The column names seem to stand on {where}: {named}{found.keys} in site.toml, [registry]."
    except Exception:
        return None
    return None


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


def _text(cell: Any, decimal: str, errors: Counter[str]) -> str:
    """Text of a cell, a number in percent as it is shown, a duration as no number; errors are counted and blank."""
    value = cell.value
    if type(value) in (int, float) and _in_percent(cell.number_format or ""):
        return percent_text(value)
    text = str(value) if isinstance(value, timedelta) else cell_text(value, decimal) or ""
    if text in _ERRORS:
        errors[text] += 1
        return ""
    return text


@lru_cache
def _in_percent(number_format: str) -> bool:
    return _PERCENT.search(number_format) is not None
