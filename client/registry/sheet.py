"""What the XML of a sheet says beside its values: hidden rows, merged cells, formulas that nobody has computed.

It is searched as bytes, which takes a fraction of the time of reading the cells.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from xml.etree import ElementTree
from zipfile import ZipFile

_PIECE = 2**20
_ENDS = re.compile(rb"</(?:\w+:)?c>|</(?:\w+:)?row>|/>")
_ROW = re.compile(rb"<(?:\w+:)?row\b[^>]*>")
_NUMBER = re.compile(rb'\br="(\d+)"')
_HIDDEN = re.compile(rb'\bhidden="(?:1|true)"')
_FORMULA = re.compile(
    rb"(<(?:\w+:)?c\b[^>]*>)\s*<(?:\w+:)?f\b(?:[^>]*/>|[^>]*>[^<]*</(?:\w+:)?f>)\s*"
    rb"(?:<(?:\w+:)?v\s*/>|<(?:\w+:)?v>\s*</(?:\w+:)?v>)?\s*</(?:\w+:)?c>"
)
_COMPUTED_TEXT = re.compile(rb'\bt="str"')
"""A formula that gave an empty text: that is a value."""
_MERGED = re.compile(rb'<(?:\w+:)?mergeCell\b[^>]*\bref="[A-Z]+(\d+):')


@dataclass(frozen=True)
class Marks:
    """Counts of a sheet below its header: rows that are hidden, areas of merged cells, formulas without a value."""

    hidden: int = 0
    merged: int = 0
    uncomputed: int = 0

    def told(self) -> list[str]:
        """Say what is there, and what to do."""
        told = []
        if self.uncomputed:
            told.append(
                f"{self.uncomputed:,} formulas have no value in the file and are taken as missing: open it in Excel or "
                "LibreOffice, which compute them, and save it"
            )
        if self.hidden:
            told.append(
                f"{self.hidden:,} rows are hidden and read as the others are: where a filter was to leave them out, "
                "delete them"
            )
        if self.merged:
            told.append(
                f"{self.merged:,} areas of cells are merged below the names, where the first cell alone holds the "
                "value: unmerge them and fill them in"
            )
        return told


def marks_of(path: Path, sheet: str, first: int) -> Marks:
    """Search a sheet of a workbook; rows and areas count from the row `first` on."""
    with ZipFile(path) as archive:
        part = _part(archive, sheet)
        if part is None:
            return Marks()
        with archive.open(part) as content:
            return _marks(content, first)


def _part(archive: ZipFile, sheet: str) -> str | None:
    """Name of the file of a sheet; None where it is not where spreadsheets put it."""
    names = frozenset(archive.namelist())
    if not names >= {"xl/workbook.xml", "xl/_rels/workbook.xml.rels"}:
        return None
    key = next(
        (
            value
            for element in ElementTree.fromstring(archive.read("xl/workbook.xml")).iterfind(".//{*}sheet")
            for name, value in element.items()
            if element.get("name") == sheet and name.endswith("}id")
        ),
        None,
    )
    for relation in ElementTree.fromstring(archive.read("xl/_rels/workbook.xml.rels")).iterfind("{*}Relationship"):
        if relation.get("Id") == key:
            part = posixpath.normpath(posixpath.join("/xl", relation.get("Target", ""))).lstrip("/")
            return part if part in names else None
    return None


def _marks(content: IO[bytes], first: int) -> Marks:
    hidden = merged = uncomputed = 0
    rest = b""
    while piece := content.read(_PIECE):
        rest += piece
        ends = [match.end() for match in _ENDS.finditer(rest, max(0, len(rest) - _PIECE))]
        if not ends:
            continue
        whole, rest = rest[: ends[-1]], rest[ends[-1] :]
        for row in _ROW.finditer(whole):
            number = _NUMBER.search(row[0])
            hidden += bool(_HIDDEN.search(row[0])) and (number is None or int(number[1]) >= first)
        merged += sum(int(match[1]) >= first for match in _MERGED.finditer(whole))
        uncomputed += sum(not _COMPUTED_TEXT.search(match[1]) for match in _FORMULA.finditer(whole))
    return Marks(hidden, merged, uncomputed)
