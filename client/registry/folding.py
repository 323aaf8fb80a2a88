"""One folding for identifiers everywhere: rows of a registry, time-stamped values, records of REDCap, opt-outs.

A spreadsheet drops leading zeros, a float gains a `.0`, a person types a letter small. Two ways to write an identifier
that fold to the same are one patient to opt-outs and joins; in one table they are refused, for they may be two. A sign
that may separate thousands stays: 10.000 is neither 10 nor 10000, and so no two numbers meet.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from client.registry.cells import Stored
from client.registry.table import Table, first_of
from common.errors import Code, FedReasonError

_EXACT = 2**53
"""Whole numbers from here on are not exact as floats."""
_WHOLE = re.compile(r"(\d+)(?:\.(?!000$)0*|,00?)", re.ASCII)
_WHOLE_NUMBER = re.compile(r"(\d+)[.,]0+", re.ASCII)
"""Also with three zeros, where the source says that it is a number."""
_FORMULA = re.compile(r'=\s*"(.*)"', re.DOTALL)
_NAMED = re.compile(
    r"(.*[\W_])?(id|no|nr|number|identifier|key|mrn|pid)|\w*(patient|subject|person|stay|visit|encounter|unique)\w*id",
    re.IGNORECASE | re.DOTALL,
)
_PLAIN = re.compile(r"[A-Za-z0-9]+([_/-][A-Za-z0-9]+)*", re.ASCII)
"""As nearly all identifiers are; nothing in them changes."""
_POWER = re.compile(r"[+-]?\d(\.\d+[eE][+-]?|[eE]\+)\d+", re.ASCII)


def plain(text: str) -> str:
    """Return an identifier as it is written, without what no one sees or means.

    Blanks around it, signs without width, quotes, the `="..."` of a spreadsheet and a whole number's `.0` go, but for
    three zeros in a text, which may be thousands; letters
    of full width and the sorts of dashes become the plain ones. Zeros in front and capitals stay.
    """
    if isinstance(text, Stored) and (whole := _WHOLE_NUMBER.fullmatch(text)):
        return whole[1]
    return text if _PLAIN.fullmatch(text) else _settled(_plainer, text)


def identity(text: str) -> str:
    """Return what a patient is known by: `plain`, a number without zeros in front, so that 00123 is 123."""
    written = plain(text)
    if not written.isdecimal():
        return written
    return "".join(str(unicodedata.decimal(sign)) for sign in written).lstrip("0") or "0"


def folded(text: str) -> str:
    """Return what identifiers are compared by: `identity` in small letters; the text itself where nothing is left."""
    return _settled(lambda known: identity(known.casefold()), identity(text)) or text.strip()


def lost(text: str) -> bool:
    """Whether digits of a number were lost: it has a power of ten, or was a float beyond what floats count exactly."""
    written = text.strip()
    float_ = _WHOLE.fullmatch(written)
    return bool(_POWER.fullmatch(written) or (float_ and int(float_[1][:20]) >= _EXACT))


def is_identifier(column: str) -> bool:
    """Whether a column is named like an identifier."""
    return _NAMED.fullmatch(column) is not None


class Spellings:
    """Identifiers of a column as they come, folded; refused in the end where that may have merged two patients."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[str, int]] = {}
        self._known: dict[str, str] = {}
        self._two: list[tuple[int, int]] = []
        self._lost: list[int] = []

    def take(self, place: int, text: str) -> str:
        """Return an identifier folded."""
        known = self._known.get(text)
        if known is not None:
            return known
        key = self._known[text] = folded(text)
        written, before = self._first.setdefault(key, (plain(text), place))
        if written != plain(text):
            self._two.append((before, place))
        if lost(text):
            self._lost.append(place)
        return key

    def refuse(self, table: Table, column: str) -> None:
        """Raise REGISTRY_IDENTIFIER where one identifier was written in two ways, or digits of one were lost."""
        found, fix, unit = [], [], table.unit
        if self._two:
            pairs = [f"{before} and {after}" for before, after in self._two]
            found.append(f"{unit}s {first_of(pairs)} differ by zeros in front, capitals or the like alone")
            fix.append("Write it one way where it is one patient; where they are two, put a letter before one of them.")
        if self._lost:
            found.append(f"on {unit} {first_of(self._lost)} a long number has lost digits (1.2E+15)")
            fix.append("Export it as text.")
        if found:
            raise FedReasonError(
                Code.REGISTRY_IDENTIFIER, f"{table.name}, identifier {column}: {'; '.join(found)}.", " ".join(fix)
            )


def _plainer(text: str) -> str:
    signs = (_sign(sign) for sign in " ".join(unicodedata.normalize("NFKC", text).split()))
    text = "".join(signs).strip()
    if formula := _FORMULA.fullmatch(text):
        text = formula[1]
    text = text.strip("\"' ")
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def _sign(sign: str) -> str:
    category = unicodedata.category(sign)
    return "" if category in ("Cf", "Cc") else "-" if category == "Pd" or sign == "\N{MINUS SIGN}" else sign


def _settled(step: Callable[[str], str], text: str) -> str:
    """Repeat a step until it changes nothing."""
    while (after := step(text)) != text:
        text = after
    return text
