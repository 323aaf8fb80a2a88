"""How a site writes numbers, and when its registry has no value: what a cell means, or why it is no number.

A number is ASCII digits with the site's decimal sign, and with its thousands separator where site.toml declares one and
the groups are right. Anything else is no number and is counted by what it looks like, so that a person can say why.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from client.registry.cells import Percent, Stored
from common.feature import OTHER, Feature, number_of

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
_HUNDRED, _WIDE = 100, 20
"""Upper bound of percent, and the least one of a feature in percent of which shares would be told apart."""
_THREE = re.compile(r"[+-]?[1-9]\d{0,2}[.,]\d{3}", re.ASCII)
_NEAR, _GOES_ON = 3, 0.2
"""How far above 1 numbers are near to shares, and how many different ones to each share show that it is none."""
_MOST_NUMBERS = 4096
_BOX_LABELS = frozenset({"checked", "unchecked"})
"""How REDCap labels a box."""

GROUPED, CENSORED, PERCENT, UNIT, DATE, SIGNS, THREE, CONTRARY, SHARE, CODED, LABEL = (
    "thousands",
    "censored",
    "percent",
    "unit",
    "date",
    "signs",
    "three",
    "contrary",
    "share",
    "coded",
    "label",
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
        "hold a percent sign",
        "Export plain numbers in the codebook's unit.",
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
    CONTRARY: (
        "lie outside the bounds as site.toml says numbers are written, and within them with the signs the other way",
        "Compare thousands and decimal in site.toml, [registry], with the export; where both ways occur, export plain "
        "numbers.",
    ),
    SHARE: (
        "lie between 0 and 1, and hardly any number of the feature is just above",
        "Where these are shares and the codebook means percent, multiply by 100 in the export.",
    ),
    CODED: (
        "hold a number that stands for no value and lies within the bounds",
        "Where it is a measurement, take the number out of the codebook's `missing`, and say in site.toml, "
        "[registry.missing], which features it stands for no value of.",
    ),
    LABEL: (
        "hold the text of a category in place of its code",
        "Export raw data: codes and not labels (in REDCap: CSV / Microsoft Excel (raw data)).",
    ),
}
"""What cells look like that are no number, or may be another one: how it is told, and what to do about it."""


class Meaning(NamedTuple):
    """What a cell of a feature says: the text shown, the number with a point, and a key of ADVICE where in doubt.

    `shown` is None where nothing can be made of it: no number, or one outside the bounds. `settles` are the doubts
    about other cells of the feature that this one ends; `beside` is a number that may tell whether others are shares.
    """

    shown: str | None
    number: str | None
    doubt: str | None = None
    settles: tuple[str, ...] = ()
    beside: float | None = None


class Doubts:
    """Doubtful cells by feature and key of ADVICE, but for those that other cells of the feature settle.

    A number up to 1 is no share where the numbers go on above it: percents that small are measured, and so are some a
    little larger. Shares among percents leave a gap.
    """

    def __init__(self) -> None:
        self._met = Counter[tuple[str, str]]()
        self._settled: set[tuple[str, str]] = set()
        self._beside: dict[str, set[float]] = {}

    def take(self, feature: str, doubt: str | None, settles: Iterable[str] = (), beside: float | None = None) -> None:
        """Count a cell."""
        if doubt is not None:
            self._met[feature, doubt] += 1
        self._settled.update((feature, each) for each in settles)
        if beside is not None and len(numbers := self._beside.setdefault(feature, set())) < _MOST_NUMBERS:
            numbers.add(beside)

    def counts(self) -> dict[tuple[str, str], int]:
        """Return what is still in doubt once all cells were taken."""
        settled = self._settled | {(feature, SHARE) for feature in self._beside if not self._are_shares(feature)}
        return {key: count for key, count in self._met.items() if key not in settled}

    def _are_shares(self, feature: str) -> bool:
        shares = {number for number in self._beside[feature] if number <= 1}
        return shares != {1.0} and len(self._beside[feature] - shares) < _GOES_ON * len(shares)


@dataclass(frozen=True)
class Numerals:
    """How numbers are written: the decimal sign, and the thousands separator where there is one."""

    decimal: str = "."
    thousands: str | None = None

    def plain(self, raw: str, unit: str = "") -> str | None:
        """Return a number with a decimal point and no separators; None for what is no number here.

        What a workbook shows as 21% is 21 where the unit is percent, and 0.21 in any other.
        """
        if isinstance(raw, Percent):
            return raw.number(hundred=is_percent(unit))
        text = raw
        if self.thousands is not None:
            signs = re.escape(GROUPINGS[self.thousands])
            grouped = rf"({_SIGN}[1-9]\d{{0,2}})((?:[{signs}]\d{{3}})+)((?:{re.escape(self.decimal)}\d*)?)"
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
        shown = feature.shown(raw)
        if shown == OTHER and not feature.separator and (plain := numerals.plain(raw)) is not None:
            shown = feature.shown(plain)
        return Meaning(shown, number=None, doubt=LABEL if _is_label(feature, raw) else None)
    plain = numerals.plain(raw, feature.unit)
    if plain is None:
        pointed = raw.replace(numerals.decimal, ".")
        words = [each for each in (raw, pointed) if number_of(each) is None or each in feature.words]
        word = next((shown for each in words if (shown := feature.shown(each)) is not None), None)
        return Meaning(word, number=None, doubt=None if word else looks(raw))
    shown, value = feature.shown(plain), float(plain)
    if shown is None and _is_contrary(feature, raw, numerals):
        return Meaning(None, number=plain, doubt=CONTRARY)
    doubt = THREE if _is_three(feature, raw, numerals) else None
    # a fraction of another length shows that the point is no separator
    settles = (THREE,) if doubt is None and numerals.decimal == "." and "." in raw and _is_text(raw) else ()
    if _may_be_share(feature, raw) and 0 < value <= _NEAR:
        return Meaning(shown, plain, SHARE if value <= 1 else doubt, settles, beside=value)
    other_unit = feature.unit and not is_percent(feature.unit) and value > 1
    return Meaning(shown, plain, doubt, (*settles, SHARE) if other_unit else settles)


def is_percent(unit: str) -> bool:
    """Whether a unit counts parts of a hundred."""
    return "%" in unit or "percent" in unit.casefold()


def in_three(raw: str) -> bool:
    """Whether a text has one sign with three digits behind it, which may be thousands; a number of a source is none."""
    return _is_text(raw) and _THREE.fullmatch(raw) is not None


def _is_text(raw: str) -> bool:
    return not isinstance(raw, Percent | Stored)


def _is_label(feature: Feature, raw: str) -> bool:
    """Whether it is how a category is shown and no code of one."""
    texts = {text.casefold() for text in feature.categories.values()}
    return raw not in feature.categories and raw.casefold() in texts | _BOX_LABELS


def _is_three(feature: Feature, raw: str, numerals: Numerals) -> bool:
    """Whether a number that was read with its sign as the decimal one may be thousands, as far as site.toml says."""
    finer = feature.decimals >= _PLACES and numerals.decimal == "."
    return numerals.thousands is None and not finer and in_three(raw)


def _is_contrary(feature: Feature, raw: str, numerals: Numerals) -> bool:
    """Whether a number beyond the bounds lies within them where its sign is the other one of decimal and thousands."""
    assert feature.low is not None and feature.high is not None
    if numerals.thousands is None or not in_three(raw):
        return False
    sign = next(sign for sign in raw if sign in ".,")
    other = raw.replace(sign, "" if sign == numerals.decimal else ".")
    return feature.low <= float(other) <= feature.high


def _may_be_share(feature: Feature, raw: str) -> bool:
    """Whether the codebook means parts of a hundred, and the source does not say that the cell is such."""
    assert feature.low is not None and feature.high is not None
    hundred = feature.low >= 0 and (feature.high == _HUNDRED or (feature.high >= _WIDE and is_percent(feature.unit)))
    return hundred and not (isinstance(raw, Percent) and is_percent(feature.unit))


def looks(raw: str) -> str | None:
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
    """What means that a feature has no value: texts in any capitals, and numbers however they are written (999, 999.0).

    What the feature lists as a category or a word is no such text, unless the site names it for the feature.
    """

    def __init__(self, feature: Feature, codes: Iterable[str], own: Iterable[str], numerals: Numerals) -> None:
        own = frozenset(own)
        listed = frozenset((*feature.categories, *feature.words))
        self.texts = frozenset(codes) - listed | own | {""}
        self._feature, self._numerals = feature, numerals
        self._folded = {text.casefold() for text in self.texts}
        self._numbers = self._of(self.texts)
        low, high = feature.low, feature.high
        within = {each for each in self._numbers if low is not None and high is not None and low <= each <= high}
        self._measurable = within - self._of(own)

    def __contains__(self, raw: str) -> bool:
        if raw in self.texts:
            return True
        if raw in self._feature.categories or raw in self._feature.words:
            return False
        return raw.casefold() in self._folded or bool(self._numbers and self._of([raw]) & self._numbers)

    def measurable(self, raw: str) -> bool:
        """Whether it is a number that could be a measurement, and that the site has not named for this feature."""
        return bool(self._measurable and self._of([raw]) & self._measurable)

    def _of(self, texts: Iterable[str]) -> set[float]:
        """Numbers that texts stand for: as they are written here, or with a point."""
        plain = (each for text in texts for each in self._ways(text))
        return {number for each in plain if each is not None and (number := number_of(each)) is not None}

    def _ways(self, text: str) -> tuple[str | None, ...]:
        """Ways to read a text; a number in percent that is shown beyond the bounds may be a code: -99 as -9900%."""
        read = self._numerals.plain(text, self._feature.unit)
        beyond = isinstance(text, Percent) and read is not None and self._feature.shown(read) is None
        return str(text), read, text.number(hundred=False) if isinstance(text, Percent) and beyond else None


def absent_of(
    feature: Feature, codes: Iterable[str], of_feature: Mapping[str, Iterable[str]], numerals: Numerals
) -> Absent:
    """Return what means no value of a feature: the codebook's codes, and this site's own for it."""
    return Absent(feature, codes, of_feature.get(feature.name, ()), numerals)
