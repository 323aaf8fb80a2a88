"""Delimited text files (CSV): any encoding, with or without a byte-order mark, any line end, quoted fields.

A file that was cut off or whose quotes do not match is refused with the line at which the bad row begins. The file is
read a line at a time, so what is wrong further down is told while the rows are taken.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Generator
from io import BufferedReader, TextIOWrapper
from itertools import chain
from pathlib import Path

from client.registry.table import Table
from common.errors import Code, FedReasonError

DELIMITERS = (",", ";", "\t")
_QUOTED = re.compile(r'"[^"]*"')
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # begins with the mark of UTF-16: asked for first
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}

Rows = Generator[tuple[int, list[str]], None, None]


def read_delimited(path: Path, *, encoding: str = "utf-8") -> Table:
    """Open a delimited file; its rows are parsed as they are taken. A byte-order mark counts before `encoding`.

    Raises
    ------
    FedReasonError
        REGISTRY_EMPTY without a header; here or while the rows are taken REGISTRY_MISSING where it cannot be read,
        REGISTRY_ENCODING where it is not in that encoding, REGISTRY_TORN for a row that is not as wide as the header.
    """
    rows = _rows(path, encoding)
    first = next(rows, None)
    if first is None:
        raise FedReasonError(
            Code.REGISTRY_EMPTY, f"{path} is empty.", "Export the registry again, with its header line."
        )
    return Table(str(path), tuple(cell.strip() for cell in first[1]), rows)


def delimiter_of(header_line: str) -> str:
    """Of comma, semicolon and tab the one seen most often outside quotes; a tie goes to the first of them."""
    bare = _QUOTED.sub("", header_line)
    return max(DELIMITERS, key=bare.count)


def _rows(path: Path, encoding: str) -> Rows:
    """Give the header and the rows; a refusal holds nothing of the file, not even as its context."""
    try:
        with path.open("rb") as file:
            encoding = _marked(file) or encoding
            with TextIOWrapper(file, encoding, newline="") as text:
                try:
                    yield from _records(text, str(path))
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
    raise FedReasonError(
        Code.REGISTRY_ENCODING,
        f"{path} is not {encoding.upper()}: {place}.",
        "Export it again as UTF-8 (in Excel: CSV UTF-8), or say in site.toml, [registry], what it is: encoding = ...",
    )


def _marked(file: BufferedReader) -> str | None:
    """Return the encoding that a byte-order mark names, with the mark read; None without one."""
    begins = file.peek(4)
    for mark, encoding in _MARKS.items():
        if begins.startswith(mark):
            file.read(len(mark))
            return encoding
    return None


def _records(text: TextIOWrapper, name: str) -> Rows:
    """Line at which each record begins, and its fields, all as many as in the first; blank lines are skipped."""
    above: list[str] = []
    for line in text:
        above.append(line)
        if line.strip():
            break
    delimiter = delimiter_of(above[-1]) if above else DELIMITERS[0]
    reader = csv.reader(chain(above, text), delimiter=delimiter, skipinitialspace=True, strict=True)
    width = 0
    while True:
        place = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error:
            raise _torn(name, place, "is cut off, or its quotes do not match") from None
        if fields is None:
            return
        if not any(fields) and len(fields) <= 1:
            continue
        width = width or len(fields)
        if len(fields) != width:
            raise _torn(name, place, f"has not as many fields as the header ({len(fields)}, not {width})")
        yield place, fields


def _torn(name: str, line: int, what: str) -> FedReasonError:
    return FedReasonError(
        Code.REGISTRY_TORN, f"{name}: the row at line {line} {what}.", "Export the registry again: nothing was read."
    )
