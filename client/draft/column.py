"""What a column of a table looks like: a number, codes, a list of codes; or nothing that a codebook should hold.

A text is told only where 10 patients share it, and bounds are rounded outward, so that no one's value is written.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from client.draft.bounds import bounds_of
from client.draft.doubts import Numbers, is_code, moments, spelt_alike, stand_ins, strangers
from client.draft.name import read_name, tells_who
from client.draft.texts import LEAST, Texts
from client.registry.absent import SIGNS, WORDS
from client.registry.absent import bare as bare_word
from client.registry.cells import Percent, Stored
from client.registry.folding import is_identifier
from client.registry.numerals import GROUPED, Numerals, in_three, looks
from common.alike import as_one
from common.codebook import ROW
from common.feature import JOINED, Feature, number_of

_MOST_CODES = 30
_FEW_NUMBERS = 6
"""So many different whole numbers are codes."""
_ENOUGH = 0.8
"""Share of the cells that the written codes must cover."""
_LARGEST = 1e15

_DATE = re.compile(
    r"\d{4}-\d\d?-\d\d?([T ].*)?|\d\d?[./-]\d\d?[./-](\d\d){1,2}( .*)?|\d\d?:\d\d(:\d\d.*)?", re.ASCII | re.DOTALL
)
_ABSENT_NUMBERS = (-99.0, -999.0, -9999.0)
"""Mean that there is no value, in a column where nothing else is below zero."""
_WHOLLY = 1.0
"""Share beyond which what a workbook shows in percent may be a code."""
_SEPARATORS = (";", "|", ",")
_WITH_UNIT = re.compile(r"[<>=~]*\s*[+-]?\d+([.,]\d+)?\s*[^\d\s][^\d]{0,11}", re.ASCII)
_WORDY = 25.0
"""Letters of a text, on average, from which it is prose."""


class Column:
    """What is seen of a column, cell by cell; `absent` are the texts in it that stand for no value."""

    def __init__(self, name: str, numerals: Numerals) -> None:
        self.name = name
        self.numerals = numerals
        self.unit = read_name(name).unit
        self.filled = 0
        self.dates = 0
        self.patients: set[int] = set()
        self.identifiers: set[str] | None = set() if is_identifier(name) else None
        self.numbers = array("d")
        self.digits: Counter[int] = Counter()
        self.codes: dict[float, set[int]] = {}
        self.texts = Texts()
        self.whole = self.in_three = self.otherwise = 0
        """Texts that are whole numbers, those with three digits behind their sign, and with a fraction that is none."""
        self.groups: set[int] = set()
        self._absent: set[str] = set()
        self._below: set[str] = set()

    def take(self, cell: str, patient: int) -> None:
        """Look at a cell of a patient."""
        if not cell or cell in self._absent or cell in self._below:
            return
        if cell.casefold() in SIGNS:
            self._absent.add(cell)
            return
        plain = self._plain(cell)
        number = None if plain is None else float(plain)
        if number is not None and number in _ABSENT_NUMBERS:
            self._below.add(f"{number:g}" if isinstance(cell, Percent) else cell)
            return
        self.filled += 1
        self.patients.add(patient)
        if self.identifiers is not None:
            self.identifiers.add(cell)
        if plain is None and _DATE.fullmatch(cell):
            self.dates += 1
        elif number is None or plain is None:
            self.texts.take(cell, {patient})
        elif abs(number) < _LARGEST:
            self.numbers.append(number)
            self._see_sign(cell)
            if is_code(plain) and len(whose := self.codes.setdefault(number, set())) < LEAST:
                whose.add(patient)
            self.digits[len(plain.lower().partition("e")[0].partition(".")[2])] += 1
            self.texts.take(
                str(int(number)) if number.is_integer() else plain.replace(".", self.numerals.decimal), {patient}
            )

    def _plain(self, cell: str) -> str | None:
        """Read a number; what a workbook shows as -9900% is the code that the cell holds."""
        if isinstance(cell, Percent) and is_code(held := cell.number(hundred=False)) and abs(float(held)) > _WHOLLY:
            return held
        return self.numerals.plain(cell, self.unit)

    def _see_sign(self, cell: str) -> None:
        """Count how numbers are written that a file has as text."""
        if isinstance(cell, Percent | Stored):
            return
        if cell.lstrip("+-").isdigit():
            self.whole += 1
        elif in_three(cell):
            self.in_three += 1
            self.groups.add(len(re.split("[.,]", cell.lstrip("+-"))[0]))
        else:
            self.otherwise += 1

    @property
    def may_be_thousands(self) -> bool:
        """Whether all signs have three digits behind them, beside numbers without one, or behind one to three."""
        undeclared = self.numerals.thousands is None and self.in_three and not self.otherwise
        return bool(undeclared and (self.whole or len(self.groups) > 1))

    @property
    def absent(self) -> set[str]:
        """Words for no value; -99 and the like only where nothing else is below zero."""
        return self._absent if min(self.numbers, default=0) < 0 else self._absent | self._below


def describe(column: Column) -> Feature | str:
    """Describe a column, or say why it is left out."""
    numbers = np.array(column.numbers)
    if column.name == ROW or not read_name(column.name).label:
        return "it has no name"
    if not column.filled:
        return "empty"
    if tells_who(column.name):
        return "by its name it tells who the patient is"
    if len(column.patients) < LEAST:
        return f"fewer than {LEAST} patients have a value"
    if column.dates > column.filled / 2 or _are_days(numbers):
        return "dates or times"
    if identifies := _identifies(column, numbers):
        return identifies
    return _as_list(column) or _as_number(column, _values(column)) or _as_codes(column)


def doubts(column: Column, feature: Feature) -> list[str]:
    """Return what a person should look at in what was made of a column, a line each."""
    numbers = np.array(column.numbers)
    told = [
        f"{_visible(text)} may stand for no value: then take it out here, and add it to `missing`"
        for text in (*feature.words, *feature.categories)
        if bare_word(text) in WORDS
    ]
    if feature.kind == "numeric":
        if said := moments(column.name, _values(column)):
            told.append(f"{said}: not asked for. If it is a measurement, take `ask = false` away")
        if column.may_be_thousands:
            told.append(
                "three digits stand behind the decimal sign wherever there is one: where these are thousands, draft it "
                "again with --decimal and --thousands"
            )
        for code in _stand_ins(column, numbers):
            named = f"{code:g}" if len(column.codes[code]) >= LEAST else "a number of 9s, 8s or 7s, -1 or 0"
            told.append(
                f"{named} is taken for no value: it repeats at the end of the column, far off the rest. If it is one, "
                "widen the bounds"
            )
        return told + _alike(feature.words)
    few = stand_ins(numbers, column.codes, few=True)
    told += [
        f"{code:g} may stand for no value: it is apart from the other codes. If it does, take it out"
        for code in few
        if f"{code:g}" in feature.categories
    ]
    told += _alike(feature.categories)
    told += [
        f"{_visible(text)} answers another question than the other codes do" for text in strangers(feature.categories)
    ]
    return told


def _alike(shown: Mapping[str, str]) -> list[str]:
    return [f"taken for one: {', '.join(map(_visible, codes))}" for codes in spelt_alike(shown)]


def _visible(code: str) -> str:
    """Write a code on one line, signs without width too."""
    return code if code.isprintable() else ascii(code)


def _stand_ins(column: Column, numbers: Numbers) -> list[float]:
    return stand_ins(numbers, column.codes)


def _values(column: Column) -> Numbers:
    """Return the numbers of a column but for those that stand for no value."""
    numbers = np.array(column.numbers)
    return numbers[~np.isin(numbers, _stand_ins(column, numbers))]


def _are_days(numbers: Numbers) -> bool:
    """Whether all are days written as one number, such as 20260131."""
    return bool(len(numbers) and ((numbers > 1900_01_00) & (numbers < 2100_00_00)).all())


def _identifies(column: Column, numbers: Numbers) -> str:
    """Say why it is an identifier: nearly every value is another, by name, as running numbers, or as long ones."""
    if column.identifiers is not None and len(column.identifiers) > 0.9 * column.filled:
        return "an identifier: named like one, and nearly every value is another"
    if len(numbers) < 3 * LEAST or np.mod(numbers, 1).any() or len(np.unique(numbers)) < len(numbers):
        return ""
    alike = np.ptp(numbers) < 2 * len(numbers) or numbers.min() >= 1e5
    return "an identifier: running or long whole numbers that never repeat" if alike else ""


def _says(code: str) -> bool:
    """Whether a code beside others stands for more than no value."""
    return bool(code) and code.casefold() not in SIGNS and number_of(code) not in _ABSENT_NUMBERS


def _as_list(column: Column) -> Feature | None:
    """Cells such as "1;3" that list several codes: most of the codes also stand alone."""
    for separator in _SEPARATORS:
        if separator == column.numerals.decimal:
            continue
        several = [text for text in column.texts.cells if separator in text]
        if len(set[int]().union(*(column.texts.patients[text] for text in several))) < LEAST:
            continue
        of = {text: set(filter(_says, map(str.strip, text.split(separator)))) for text in column.texts.cells}
        pieces = Texts()
        for text, parts in of.items():
            for part in parts:
                pieces.take(part, column.texts.patients[text])
        shown = {code: text for code, text in pieces.shared().items() if JOINED not in text}
        codes = list(shown)
        alone = [code for code in codes if code in of]
        covered = sum(column.texts.cells[text] for text, parts in of.items() if parts <= set(codes))
        if 2 * len(alone) >= len(codes) and covered >= _ENOUGH * column.filled and _MOST_CODES >= len(codes) > 1:
            return _feature(column, kind="categorical", categories=shown, separator=separator)
    return None


def _as_number(column: Column, numbers: Numbers) -> Feature | None:
    """Mostly numbers, and not a few whole ones; the words among them are shared."""
    shared = column.texts.shared()
    words = {word: shown for word, shown in shared.items() if _is_word(column, word)}
    nothing = sum(count for text, count in column.texts.cells.items() if bare_word(text) in WORDS and text not in words)
    filled = column.filled - (len(column.numbers) - len(numbers)) - nothing
    few = len(np.unique(numbers)) <= _FEW_NUMBERS and not np.mod(numbers, 1).any()
    told = len(numbers) + sum(column.texts.cells[word] for word in words)
    none = sum(column.texts.cells[word] for word in words if bare_word(word) in WORDS)
    if few or 2 * len(numbers) < filled - none or told < 0.9 * filled or len(words) > _MOST_CODES:
        return None
    usual = [digits for digits, count in column.digits.items() if count >= 0.05 * len(numbers)]
    bounds = bounds_of(numbers, max(usual, default=0), read_name(column.name).unit)
    if bounds is None:
        return None
    unit = 10.0 ** -int(bounds["decimals"])
    for code in _stand_ins(column, np.array(column.numbers)):
        side, inner = ("high", code - unit) if code > numbers.max() else ("low", code + unit)
        bounds[side] = round(min(bounds[side], inner) if side == "high" else max(bounds[side], inner), 6)
    decimal = column.numerals.decimal
    pointed = as_one({word.replace(decimal, "."): shown.replace(decimal, ".") for word, shown in words.items()})
    asked = {"ask": False} if moments(column.name, numbers) else {}
    return _feature(column, kind="numeric", words=pointed, **bounds, **asked)


def _is_word(column: Column, text: str) -> bool:
    """Whether a text is no number, in whatever way one is written."""
    return column.numerals.plain(text) is None and looks(text) != GROUPED


def _as_codes(column: Column) -> Feature | str:
    shown = column.texts.shared()
    covered = sum(column.texts.cells[code] for code in shown)
    if (
        _unread_numbers(column)
        or covered < _ENOUGH * column.filled
        or len(shown) > _MOST_CODES
        or len(set(shown.values())) < 2
    ):
        return _no_codes(column, shown, covered)
    return _feature(column, kind="categorical", categories=shown)


def _unread_numbers(column: Column) -> str:
    """Say what keeps the cells of a column from being numbers; "" where they are none, or few different ones."""
    texts, total = column.texts.cells, sum(column.texts.cells.values())
    decimal = column.numerals.decimal
    other = f"numbers with another decimal sign than '{decimal}', or with a separator: say --decimal, --thousands"
    for matching, why in (
        ([text for text in texts if column.numerals.plain(text) is None and looks(text) == GROUPED], other),
        ([text for text in texts if _WITH_UNIT.fullmatch(text)], "numbers with a unit or a flag in the cell"),
    ):
        if len(matching) > _FEW_NUMBERS and 2 * sum(texts[text] for text in matching) > total:
            return why
    return ""


def _no_codes(column: Column, shown: Mapping[str, str], covered: int) -> str:
    """Say why nothing is made of a column that is neither numbers nor codes."""
    texts, total = column.texts.cells, sum(column.texts.cells.values())
    if len(texts) == 1:
        return "one value only"
    if unread := _unread_numbers(column):
        return unread
    if len(shown) > _MOST_CODES:
        return f"more than {_MOST_CODES} different codes"
    if covered >= _ENOUGH * column.filled:
        return "nearly everyone has the same value"
    if 2 * len(column.numbers) >= column.filled:
        return "numbers among words that few patients share"
    if sum(len(text) * count for text, count in texts.items()) > _WORDY * total:
        return "free text"
    return "codes or words that few patients share"


def _feature(column: Column, **what: Any) -> Feature:
    return Feature.model_validate({"name": column.name} | read_name(column.name)._asdict() | what)
