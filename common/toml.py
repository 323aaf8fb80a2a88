"""Reading TOML into pydantic models, with errors that name the file, the key and its line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from common.access import forbidden
from common.errors import Code, FedReasonError

_Model = TypeVar("_Model", bound=BaseModel)

_NAME = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_DOTTED = rf"({_NAME}(?:\s*\.\s*{_NAME})*)"
_HEADER = re.compile(rf"\s*(\[\[?)\s*{_DOTTED}\s*\]")
_ASSIGNMENT = re.compile(rf"\s*{_DOTTED}\s*=")
_TRIPLE = ('"""', "'''")
_TOKEN = re.compile(rf"""{"|".join(_TRIPLE)}|"(?:[^"\\]|\\.)*"|'[^']*'|#.*|[\[\]{{}}]""")


class Strict(BaseModel):
    """Base of everything read from a file: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy without what was computed from the old values."""
        copy = super().model_copy(update=update, deep=deep)
        for name in set(copy.__dict__) - set(type(self).model_fields):
            del copy.__dict__[name]
        return copy


def read_toml(path: Path, *, missing: Code, syntax: Code) -> tuple[dict[str, Any], str]:
    """Return the parsed table and the text of a TOML file, without the byte order mark that Windows puts before it.

    Raises
    ------
    FedReasonError
        With code `missing` where the file cannot be read, `syntax` where it is not TOML; FILE_FORBIDDEN where this user
        may not read it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise FedReasonError(missing, f"{path} does not exist.", "Check the path.") from None
    except PermissionError as error:
        raise forbidden(error) from None
    except (OSError, UnicodeDecodeError) as error:
        raise FedReasonError(
            missing, f"{path} cannot be read ({type(error).__name__}).", "It must be a readable UTF-8 file."
        ) from None
    try:
        return tomllib.loads(text), text
    except tomllib.TOMLDecodeError as error:
        raise FedReasonError(syntax, f"{path} is not valid TOML: {error}.", "Correct that line.") from None
    except (ValueError, RecursionError):
        raise FedReasonError(
            syntax, f"{path} is not valid TOML.", "It is nested too deep, or has too long a number."
        ) from None


def line_of(text: str, place: tuple[str | int, ...]) -> int | None:
    """Line (from 1) at which the key at `place` is set, or of the nearest table that holds it; None if not found."""
    table: list[str | int] = []
    counts: dict[tuple[str | int, ...], int] = {}
    best: tuple[int, int] | None = None
    quote, depth = "", 0
    for number, line in enumerate(text.split("\n"), start=1):
        here: tuple[str | int, ...] | None = None
        if quote or depth > 0:
            quote, depth = _open_after(line, quote, depth)
        elif header := _HEADER.match(line):
            names = _names(header[2])
            table = []
            for level, name in enumerate(names, start=1):
                table.append(name)
                if header[1] == "[[" and level == len(names):
                    counts[tuple(table)] = counts.get(tuple(table), -1) + 1
                if tuple(table) in counts:
                    table.append(counts[tuple(table)])
            here = tuple(table)
        elif key := _ASSIGNMENT.match(line):
            here = (*table, *_names(key[1]))
            quote, depth = _open_after(line[key.end() :], "", 0)
        if here and here == place[: len(here)] and (best is None or len(here) > best[0]):
            best = (len(here), number)
    return best[1] if best else None


def _names(dotted: str) -> list[str]:
    """Return the names of a dotted key; a quoted name may hold dots of its own."""
    return [name.strip("\"'") for name in re.findall(_NAME, dotted)]


def _open_after(text: str, quote: str, depth: int) -> tuple[str, int]:
    """Return which triple quote and how many brackets are open behind a line of a value."""
    at = 0
    while True:
        if quote:
            end = text.find(quote, at)
            if end < 0:
                return quote, depth
            at, quote = end + len(quote), ""
        token = _TOKEN.search(text, at)
        if token is None:
            return quote, depth
        at = token.end()
        if token[0] in _TRIPLE:
            quote = token[0]
        else:
            depth += (token[0] in "[{") - (token[0] in "]}")


def _place(place: tuple[str | int, ...], kind: str, table: Any) -> tuple[str | int, ...]:
    """Keep what names a place in the file: behind it pydantic says which kind of value it tried there."""
    if kind == "missing":
        return place
    for depth, part in enumerate(place):
        inside = dict(enumerate(table)) if isinstance(table, list) else table
        if not isinstance(inside, dict) or part not in inside:
            return place[:depth]
        table = inside[part]
    return place


def validated(
    model: type[_Model], table: dict[str, Any], *, path: Path, text: str, unknown: Code, value: Code
) -> _Model:
    """Build `model` from a parsed table; every problem is told with its key and line.

    Raises
    ------
    FedReasonError
        With code `unknown` for a key that `model` does not have, `value` for anything else.
    """
    try:
        return model.model_validate(table)
    except ValidationError as error:
        problems = error.errors()
    unknown_keys = [p for p in problems if p["type"] == "extra_forbidden"]
    told = []
    for problem in unknown_keys or problems:
        place = _place(problem["loc"], problem["type"], table)
        line = line_of(text, place)
        where = f"line {line}, " if line else ""
        name = ".".join(str(part) for part in place) or "the file"
        says = "is not a known key" if unknown_keys else problem["msg"][0].lower() + problem["msg"][1:]
        told.append(f"{where}{name}: {says}")
    fix = "Remove or correct the key; docs/configuration.md lists them." if unknown_keys else "Correct the value."
    raise FedReasonError(unknown if unknown_keys else value, f"{path}: {'; '.join(told)}.", fix)
