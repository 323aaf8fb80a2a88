"""How a site writes numbers, and when its registry has no value: what a cell means, or why it is no number.

A number is ASCII digits with the site's decimal sign, and with its thousands separator where site.toml declares one and
the groups are right. Anything else is no number and is counted by what it looks like, so that a person can say why.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from common.codebook import Feature, number_of

GROUPINGS = {",": ",", ".": ".", "'": "'\u2019", " ": " \u00a0\u2009\u202f"}
"""Thousands separators that site.toml may declare, and the signs that are taken for each."""

_SIGN = "[+-]?"
_NUMBER = r"[+-]?(?:\d[\d.,' \u00a0\u2009\u202f\u2019]*|[.,]\d+)(?:[eE][+-]?\d+)?"
_DATE = re.compile(
    r"\d{4}[-/.]\d\d?[-/.]\d\d?(?:[T ].*)?|\d\d?[-/.]\d\d?[-/.]\d{2,4}(?: .*)?|\d\d?:\d\d(?::\d\d.*)?|"
    r"\d\d?[-. ](?:jan|feb|ma|apr|jun|jul|aug|sep|o[ck]t|nov|de[cz])\w*.*",
    re.ASCII | re.IGNORECASE | re.DOTALL,
)
_PLACES = 3
_THREE = re.compile(r"[+-]?[1-9]\d{0,2}[.,]\d{3}", re.ASCII)

GROUPED, CENSORED, PERCENT, UNIT, DATE, SIGNS, THREE = (
    "thousands",
    "censored",
    "percent",
    "unit",
    "date",
    "signs",
    "three",
)
ADVICE = {
    GROUPED: (
        "hold a sign that may separate thousands",
        "Say in site.toml, [registry], what it is: thousands = ..., or decimal = ...",
    ),
    CENSORED: (
        "hold a number behind < or >",
        "Describe these as words of the feature, or leave them out in the export.",
    ),
    PERCENT: (
        "hold a percent sign, or are formatted as percent",
        "Export plain numbers in the codebook's unit; in Excel, multiply by 100 and format the column as a number.",
    ),
    UNIT: (
        "hold a number with a unit, a flag or a remark",
        "Export the number alone; a flag belongs into a column of its own.",
    ),
    DATE: (
        "hold a date or a time where a number is expected",
        "Excel makes dates of numbers such as 1.5 or 3/4: format the column as text before the values are entered.",
    ),
    SIGNS: (
        "hold a number in signs other than 0-9, point and hyphen",
        "Export plain digits: a typographic minus or full-width digits are no number.",
    ),
    THREE: (
        "have exactly three digits behind the decimal sign and were read as they stand",
        "If these are thousands, say so in site.toml, [registry]: thousands = ..., decimal = ...",
    ),
}
"""What cells look like that are no number, or may be another one: how it is told, and what to do about it."""


class Meaning(NamedTuple):
    """What a cell of a feature says: the text shown, whether it is a number, and a key of ADVICE where in doubt.

    `shown` is None where nothing can be made of it: no number, or one outside the bounds.
    """

    shown: str | None
    number: bool
    doubt: str | None = None


@dataclass(frozen=True)
class Numerals:
    """How numbers are written: the decimal sign, and the thousands separator where there is one."""

    decimal: str = "."
    thousands: str | None = None

    def plain(self, raw: str) -> str | None:
        """Return a number with a decimal point and no separators; None for what is no number here."""
        text = raw
        if self.thousands is not None:
            signs = re.escape(GROUPINGS[self.thousands])
            grouped = rf"({_SIGN}\d{{1,3}})((?:[{signs}]\d{{3}})+)((?:{re.escape(self.decimal)}\d*)?)"
            if found := re.fullmatch(grouped, text, re.ASCII):
                text = found[1] + re.sub(f"[{signs}]", "", found[2]) + found[3]
        if self.decimal != ".":
            if "." in text:
                return None
            text = text.replace(self.decimal, ".")
        return text if number_of(text) is not None else None


def meaning(feature: Feature, raw: str, numerals: Numerals) -> Meaning:
    """Say what a cell means; it may be in doubt also where it was read, and may have been meant otherwise."""
    if feature.kind != "numeric":
        return Meaning(feature.shown(raw), number=False)
    plain = numerals.plain(raw)
    if plain is None:
        pointed = raw.replace(numerals.decimal, ".")
        words = [each for each in (raw, pointed) if number_of(each) is None or each in feature.words]
        word = next((shown for each in words if (shown := feature.shown(each)) is not None), None)
        return Meaning(word, number=False, doubt=None if word else _looks(raw))
    ambiguous = numerals.thousands is None and feature.decimals < _PLACES and _THREE.fullmatch(raw)
    return Meaning(feature.shown(plain), number=True, doubt=THREE if ambiguous else None)


def _looks(raw: str) -> str | None:
    """Return what a cell that is no number looks like; None where nothing in it is one."""
    if _DATE.fullmatch(raw):
        return DATE
    if raw.startswith(("<", ">", "≤", "≥", "=<", "=>")):
        return CENSORED
    if "%" in raw and re.search(r"\d", raw):
        return PERCENT
    if re.fullmatch(_NUMBER, raw, re.ASCII):
        return GROUPED
    if re.fullmatch(r"[-+\u2212\u2010-\u2015\ufe63\uff0d]?[\d.,\uff0e]+", raw) and re.search(r"\d", raw):
        return SIGNS
    return UNIT if re.match(r"[~≈]?\s*[+-]?\d", raw, re.ASCII) else None


PLAIN = Numerals()
"""Numbers with a point and no separator."""


class Absent:
    """What means that there is no value: texts, and numbers however they are written (999, 999.0)."""

    def __init__(self, codes: Iterable[str], numerals: Numerals) -> None:
        self.texts = frozenset(codes) | {""}
        self._numerals = numerals
        self._numbers = {number for code in self.texts if (number := number_of(code)) is not None}

    def __contains__(self, raw: str) -> bool:
        if raw in self.texts:
            return True
        if not self._numbers:
            return False
        plain = self._numerals.plain(raw)
        return number_of(raw) in self._numbers or (plain is not None and number_of(plain) in self._numbers)


def absent_of(
    feature: Feature, codes: Iterable[str], of_feature: Mapping[str, Iterable[str]], numerals: Numerals
) -> Absent:
    """Return what means no value of a feature: the codebook's codes, and this site's own for it."""
    return Absent((*codes, *of_feature.get(feature.name, ())), numerals)
