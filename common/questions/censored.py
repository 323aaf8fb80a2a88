"""Words that stand for a number beyond a limit, as "<0.5" and "90 or over" do, and the numbers that they leave."""

from __future__ import annotations

import re
from typing import NamedTuple

from common.feature import Feature

_SPACES = " \u00a0\u2009\u202f"
_GROUPED = rf"[1-9]\d{{0,2}}(?P<sign>[,.'\u2019{_SPACES}])\d{{3}}((?P=sign)\d{{3}})*(?P<rest>[.,]\d+)?"
_THOUSANDTHS = 3
_BEHIND = r"(?<![\d^:/*.,])(?<![\d^][.,'\u2019 ])(?<!\d[eE])"
_BEFORE = r"(?![.,'\u2019]?\d|\s*[\^:*\u2070-\u2079\u00b2\u00b3\u00b9]|\s*/\s*\d|e[+-]?\d|\s*[x\u00d7]\s*10)"
_LESS, _MORE = "less|below|under|lower|fewer|younger", "more|above|over|higher|greater|older"
_NUMBER = rf"{_BEHIND}(?P<limit>[+-]?({_GROUPED}|\d+([.,]\d+)?|[.,]\d+)){_BEFORE}"
"""A number, with thousands apart or not; none within a power, a ratio or a time of day."""
_FORMS = tuple(
    (re.compile(form, re.IGNORECASE), low, included)
    for form, low, included in (
        (rf"(<=|=<|≤|⩽|\b(up to|at most)\b)\s*{_NUMBER}", True, True),
        (rf"{_NUMBER}\D{{0,20}}\b(or|and)\s+({_LESS})\b", True, True),
        (rf"(<|\b(below|under|(less|lower|fewer|smaller|younger) than)\b)\s*{_NUMBER}", True, False),
        (rf"(>=|=>|≥|⩾|\b(at least)\b)\s*{_NUMBER}", False, True),
        (rf"{_NUMBER}\D{{0,20}}\b(or|and)\s+({_MORE})\b", False, True),
        (rf"{_NUMBER}\s*\+", False, True),
        (rf"(>|\b(above|over|(more|greater|higher|larger|older) than)\b)\s*{_NUMBER}", False, False),
    )
)
"""How a limit is written, whether what it stands for is below it, and whether the limit itself is meant too."""
_RANGE = re.compile(
    rf"\d\D{{0,20}}\b(or|and)\s+({_LESS}|smaller|{_MORE}|larger)(\s+than)?\s*[+-]?[.,]?\d", re.IGNORECASE
)
"""Two numbers, as in "5 and under 10": the word belongs to the second."""
_NEGATED = re.compile(r"\b(not?|n't)\b", re.IGNORECASE)


class Limit(NamedTuple):
    """A limit below which (`low`) or above which a number lies, itself included or not, and its decimals as written."""

    value: float
    low: bool
    included: bool
    decimals: int

    def holds(self, number: float) -> bool:
        """Whether the word stands for this number too."""
        beyond = number < self.value if self.low else number > self.value
        return beyond or (self.included and number == self.value)


def limit_of(text: str, feature: Feature) -> Limit | None:
    """Return the limit that a text states for a feature; None where it states none, as "negative" does, or a range."""
    bare = _without_unit(text, feature.unit)
    if _NEGATED.search(text) or _RANGE.search(bare):
        return None
    stated = [(found, low, included) for form, low, included in _FORMS if (found := form.search(bare))]
    if len({low for _, low, _ in stated}) != 1:
        return None
    found, low, included = stated[0]
    number = _number(found, feature)
    return Limit(float(number), low, included, len(number.partition(".")[2]))


def limits_of(feature: Feature) -> dict[str, Limit]:
    """Return the words of a feature that state a limit, as they are shown or as a cell writes them."""
    found: dict[str, Limit] = {}
    for code, word in feature.words.items():
        limit = limit_of(word, feature) or limit_of(code, feature)
        if limit is not None:
            found.setdefault(word, limit)
    return found


def _without_unit(text: str, unit: str) -> str:
    """Return a text without the unit, in which a power may stand; the letters of a unit within a word are none."""
    if not unit:
        return text
    before, behind = (r"(?<![^\W\d_])" * unit[0].isalpha(), r"(?![^\W\d_])" * unit[-1].isalpha())
    return re.sub(f"{before}{re.escape(unit)}{behind}", "", text)


def _number(found: re.Match[str], feature: Feature) -> str:
    """Return the number that was found, with a point.

    One comma or point before three digits may set thousands apart or be the decimal sign: what the feature's decimals
    say, unless only the other lies within its bounds.
    """
    text, sign, rest = found["limit"], found["sign"], found["rest"]
    pointed = text.replace(",", ".")
    if sign is None:
        return pointed
    whole = text.removesuffix(rest or "").replace(sign, "") + (rest or "").replace(",", ".")
    if sign not in ",." or rest is not None or text.count(sign) > 1:
        return whole
    assert feature.low is not None and feature.high is not None
    ways = [whole, pointed] if feature.decimals < _THOUSANDTHS else [pointed, whole]
    return next((way for way in ways if feature.low <= float(way) <= feature.high), ways[0])
