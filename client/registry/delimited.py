"""Delimited text files (CSV): any encoding, with or without a byte-order mark, any line end, quoted fields.

A file that was cut off or whose quotes do not match is refused as a whole, with the line at which the bad row begins.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from client.registry.table import Table
from common.errors import Code, FedReasonError

DELIMITERS = (",", ";", "\t")
_QUOTED = re.compile(r'"[^"]*"')


def read_delimited(path: Path, *, encoding: str = "utf-8") -> Table:
    """Open a delimited file; its rows are parsed as they are taken.

    Raises
    ------
    FedReasonError
        REGISTRY_MISSING where it cannot be read, REGISTRY_ENCODING where it is not in that encoding, REGISTRY_EMPTY
        without a header; REGISTRY_TORN, here or while the rows are taken, for a row that is not as wide as the header.
    """
    text = _decoded(path, encoding)
    header_line = next((line for line in io.StringIO(text, newline="") if line.strip()), "")
    records = _records(text, delimiter_of(header_line), str(path))
    first = next(records, None)
    if first is None:
        raise FedReasonError(
            Code.REGISTRY_EMPTY, f"{path} is empty.", "Export the registry again, with its header line."
        )
    header = first[1]
    return Table(str(path), tuple(cell.strip() for cell in header), _as_wide(records, len(header), str(path)))


def delimiter_of(header_line: str) -> str:
    """Of comma, semicolon and tab the one seen most often outside quotes; a tie goes to the first of them."""
    bare = _QUOTED.sub("", header_line)
    return max(DELIMITERS, key=bare.count)


def _decoded(path: Path, encoding: str) -> str:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise FedReasonError(
            Code.REGISTRY_MISSING, f"{path} does not exist.", "Check the path of the registry."
        ) from None
    except OSError as error:
        raise FedReasonError(
            Code.REGISTRY_MISSING, f"{path} cannot be read ({type(error).__name__}).", "It must be a readable file."
        ) from None
    mark = len(codecs.BOM_UTF8) if raw.startswith(codecs.BOM_UTF8) else 0
    try:
        return raw[mark:].decode("utf-8" if mark else encoding)
    except UnicodeError as error:
        offset = mark + getattr(error, "start", 0)
    raise FedReasonError(
        Code.REGISTRY_ENCODING,
        f"{path} is not {encoding.upper()}: byte {offset} cannot be decoded.",
        "Export it again as UTF-8 (in Excel: CSV UTF-8), or say in site.toml, [registry], what it is: encoding = ...",
    )


def _records(text: str, delimiter: str, name: str) -> Iterator[tuple[int, list[str]]]:
    """Line at which each record begins, and its fields; blank lines are skipped."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error:
            raise _torn(name, line, "is cut off, or its quotes do not match") from None
        if fields is None:
            return
        if any(fields) or len(fields) > 1:
            yield line, fields


def _as_wide(records: Iterator[tuple[int, list[str]]], width: int, name: str) -> Iterator[tuple[int, list[str]]]:
    for line, fields in records:
        if len(fields) != width:
            raise _torn(name, line, f"has not as many fields as the header ({len(fields)}, not {width})")
        yield line, fields


def _torn(name: str, line: int, what: str) -> FedReasonError:
    return FedReasonError(
        Code.REGISTRY_TORN, f"{name}: the row at line {line} {what}.", "Export the registry again: nothing was read."
    )
