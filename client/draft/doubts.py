"""What a person should look at in a drafted column: numbers that may stand for no value, ways to write one category.

The rules are public, and none of them goes by what a column means.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from common.alike import bare

Numbers = NDArray[np.float64]

_CODE = re.compile(r"-?(9+([.,]9+)?|([78])\3+)|-[1789]|0([.,]0+)?")
"""How registries write that there is no value: 9, 99, 9999, 99.9, 888, 77, -1, -9, 0."""

_OFTEN = 3

_MOMENTS = {
    "the numbers lie where Excel, SAS or Stata keep dates as days": (14_000, 65_000),
    "the numbers lie where programs keep times as seconds since 1970": (6e8, 2.3e9),
    "the numbers lie where programs keep times as milliseconds since 1970": (6e11, 2.3e12),
}
"""Numbers that nearly all dates of a registry have: from 1938 to 2077 as days, from 1989 to 2042 as seconds."""
_EARLIEST = 1_000
"""What a birth of 1902 is as days; of a column that is named like a date."""
_DATED = re.compile(
    r"\b(?:\w*(?:date|datum|dato|fecha|zeitpunkt|timestamp|birthday)|data|dt|dat|dob|dod|born|geb|geboren)\b",
    re.IGNORECASE,
)
_FEW_MOMENTS = 3
_HIGHEST_DAY = 1e5
_CLOSE = 2.0

_SAME = (
    (
        ("male", "man", "m", "männlich", "homme", "masculino", "남성", "남자", "남"),
        ("female", "woman", "f", "w", "weiblich", "femme", "femenino", "여성", "여자", "여"),
    ),
    (("yes", "y", "true", "t", "ja", "j", "oui", "sí", "si", "1"), ("no", "n", "false", "f", "nein", "non", "0")),
)
"""Two answers each, and the words for either, in small letters, the clearest first."""


def is_code(cell: str) -> bool:
    """Whether a number is written as codes for no value are."""
    return _CODE.fullmatch(cell) is not None


def stand_ins(numbers: Numbers, codes: Iterable[float], *, few: bool = False) -> list[float]:
    """Return those of the codes that hardly are values: at the column's end, several times, and far off all the rest.

    Far is farther from the next number than the middle half of the others is wide, or, with `few` different numbers,
    than all the others are, 0 but for that; and a negative number where no other is.
    """
    found: list[float] = []
    left, waiting = np.sort(numbers), {code for code in codes if code or not few}
    while len(left) and (ends := waiting & {float(left[0]), float(left[-1])}):
        taken = None
        for code in sorted(ends, reverse=True):
            others = left[left != code]
            if len(others) < 2 or len(left) - len(others) < _OFTEN:
                continue
            first, last = others[[0, -1]] if few else np.percentile(others, [25, 75])
            if np.abs(others - code).min() > max(last - first, float(few)) or (code < 0 <= others[0]):
                taken = code
                break
        if taken is None:
            break
        found.append(taken)
        waiting.discard(taken)
        left = left[left != taken]
    return found


def moments(name: str, numbers: Numbers) -> str:
    """Say what dates or times the numbers of a column may be; "" where they look like none.

    They lie close together for their size: counts of that size are spread more widely.
    """
    if len(np.unique(numbers)) < _FEW_MOMENTS:
        return ""
    low, high = (float(place) for place in np.percentile(numbers, [2, 98]))
    for told, (first, last) in _MOMENTS.items():
        dated = first < _HIGHEST_DAY and _DATED.search(name.replace("_", " "))
        if (_EARLIEST if dated else first) <= low and high <= last and (dated or high < _CLOSE * low):
            return told
    return ""


def same(texts: Iterable[str]) -> dict[str, str]:
    """Return for each text, in small letters, the one that it is taken for: words for one answer are alike.

    Only where the column has words for both answers.
    """
    found = {bare(text) for text in texts}
    taken = {text: text for text in found}
    for answers in _SAME:
        present = [[word for word in words if word in found] for words in answers]
        if all(present):
            for words in present:
                taken |= dict.fromkeys(words, words[0])
            break
    return taken


def strangers(texts: Iterable[str]) -> list[str]:
    """Return texts that answer another question than the rest do, such as TRUE beside male and female."""
    found = {bare(text): text for text in texts}
    for answers in _SAME:
        if all(found.keys() & set(words) for words in answers):
            others = {word for pair in _SAME for words in pair for word in words} - {*answers[0], *answers[1]}
            return [text for key, text in found.items() if key in others]
    return []


def spelt_alike(categories: Mapping[str, str]) -> list[Sequence[str]]:
    """Return the codes of each category that is written in several ways."""
    ways: dict[str, list[str]] = {}
    for code, text in categories.items():
        ways.setdefault(text, []).append(code)
    return [codes for codes in ways.values() if len(codes) > 1]
