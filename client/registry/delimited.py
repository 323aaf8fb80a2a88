"""Delimited text files (CSV): any encoding, with or without a byte-order mark, any line end, quoted fields.

The names may stand below lines of a title, or fill several lines; a first line `sep=;`, as Excel writes it, names the
delimiter. Blank lines, and those with nothing but delimiters, are passed over; zero characters around a cell go. A file
that was cut off or whose quotes do not match is refused with the line at which the bad row begins. The file is read a
line at a time, so what is wrong further down is told while the rows are taken.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Generator
from contextlib import closing
from io import BufferedReader, TextIOWrapper
from itertools import chain, islice
from pathlib import Path

from client.registry.header import beside_told, joined_names
from client.registry.table import Table
from common.errors import Code, FedReasonError

DELIMITERS = (",", ";", "\t", "|")
_QUOTED = re.compile(r'"[^"]*"')
_SEP = re.compile(r'"?sep\s*=\s*(.?|\\t)"?([;,|\t]*)', re.IGNORECASE)
"""The first line by which Excel is told the delimiter; of a tab nothing is left once blanks are stripped."""
_LONGEST_CELL = 16 * 1024 * 1024
"""Characters: a quote that never closes takes no more of the file into memory."""
_AGAIN = "Export the registry again: nothing was read."
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # begins with the mark of UTF-16: asked for first
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}

Rows = Generator[tuple[int, list[str]], None, None]


def read_delimited(path: Path, *, encoding: str = "utf-8", header_row: int = 1, header_rows: int = 1) -> Table:
    """Open a delimited file; its rows are parsed as they are taken. A byte-order mark counts before `encoding`.

    Parameters
    ----------
    header_row
        Line that holds the column names, from 1; blank lines and `sep=` there are passed over.
    header_rows
        How many lines they fill from there, as in `read_workbook`.

    Raises
    ------
    FedReasonError
        REGISTRY_EMPTY without a header; here or while the rows are taken REGISTRY_MISSING where it cannot be read,
        REGISTRY_ENCODING where it is not in that encoding, REGISTRY_TORN for a row that is not as wide as the header.
    """
    rows = _rows(path, encoding, header_row)
    header = [[cell.strip() for cell in cells] for _, cells in islice(rows, header_rows)]
    if not header:
        raise FedReasonError(
            Code.REGISTRY_EMPTY,
            f"{path} is empty{f' from line {header_row} on' if header_row > 1 else ''}.",
            "Export the registry again, with its header line.",
        )
    columns = header[0] if header_rows == 1 else joined_names(header)
    if any("\0" in name for name in columns):
        raise _encoding(
            path, encoding, "the column names hold zero characters, as UTF-16 without a byte-order mark does"
        )
    remarks: list[str] = []
    rows = rows if header_rows == 1 else _as_wide(rows, len(columns), remarks)
    return Table(str(path), tuple(columns), rows, remarks=remarks)


def _as_wide(rows: Rows, width: int, remarks: list[str]) -> Rows:
    """Give the rows without the fields behind the last name, and say in the end how many had any."""
    beside = []
    with closing(rows):
        for place, cells in rows:
            if any(cell.strip() for cell in cells[width:]):
                beside.append(place)
            yield place, cells[:width]
    remarks += beside_told(beside, "line")


def delimiter_of(header_line: str) -> str:
    """Of comma, semicolon, tab and bar the one seen most often outside quotes; a tie goes to the first of them."""
    bare = _QUOTED.sub("", header_line)
    return max(DELIMITERS, key=bare.count)


def _rows(path: Path, encoding: str, header_row: int) -> Rows:
    """Give the header and the rows; a refusal holds nothing of the file, not even as its context."""
    try:
        with path.open("rb") as file:
            encoding = _marked(file) or encoding
            with TextIOWrapper(file, encoding, newline="") as text:
                try:
                    yield from _records(text, str(path), header_row)
                    return
                except UnicodeDecodeError as error:  # `object` is what was decoded last
                    place = f"byte {file.tell() - len(error.object) + error.start} cannot be decoded"
    except FileNotFoundError:
        raise FedReasonError(
            Code.REGISTRY_MISSING, f"{path} does not exist.", "Check the path of the registry."
        ) from None
    except OSError as error:
        raise FedReasonError(
            Code.REGISTRY_MISSING, f"{path} cannot be read ({type(error).__name__}).", "It must be a readable file."
        ) from None
    except (LookupError, UnicodeError):
        place = "no text can be decoded that way"
    raise _encoding(path, encoding, place)


def _encoding(path: Path, encoding: str, what: str) -> FedReasonError:
    return FedReasonError(
        Code.REGISTRY_ENCODING,
        f"{path} is not {encoding.upper()}: {what}.",
        "Export it again as UTF-8 (in Excel: CSV UTF-8), or say in site.toml, [registry], what it is: encoding = ... "
        "(utf-16-le where it comes from Windows as 'Unicode')",
    )


def _marked(file: BufferedReader) -> str | None:
    """Return the encoding that a byte-order mark names, with the mark read; None without one."""
    begins = file.peek(4)
    for mark, encoding in _MARKS.items():
        if begins.startswith(mark):
            file.read(len(mark))
            return encoding
    return None


def _records(text: TextIOWrapper, name: str, header_row: int) -> Rows:
    """Line at which each record begins, and its fields, all as many as in the first; blank lines are skipped."""
    passed = sum(1 for _ in islice(text, header_row - 1))
    above: list[str] = []
    stated = None
    for line in text:
        if (sep := _SEP.fullmatch(line.strip())) and stated is None:
            stated = "\t" if sep[1] in ("", "\\t") else sep[1]
            passed += len(above) + 1
            above = []
            continue
        above.append(line)
        if line.strip():
            break
    delimiter = stated or (delimiter_of(above[-1]) if above else DELIMITERS[0])
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader(chain(above, text), delimiter=delimiter, skipinitialspace=True, strict=True)
    width = 0
    while True:
        place = passed + reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error:
            wrong = "is cut off, or its quotes do not match, or a cell has more than 16 million characters"
            raise _torn(name, place, wrong) from None
        if fields is None:
            return
        fields = [field.strip("\0") if "\0" in field else field for field in fields]
        if not any(fields) and (width or len(fields) <= 1):
            continue
        if len(fields) != (width or len(fields)):
            title = width == 1 < len(fields)
            raise _torn(
                name,
                place,
                f"has not as many fields as the header ({len(fields)}, not {width})",
                f"If the column names stand there, below a title: header_row = {place} in site.toml, [registry]."
                if title
                else _AGAIN,
            )
        width = width or len(fields)
        yield place, fields


def _torn(name: str, line: int, what: str, fix: str = _AGAIN) -> FedReasonError:
    return FedReasonError(Code.REGISTRY_TORN, f"{name}: the row at line {line} {what}.", fix)
