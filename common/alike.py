"""Texts that a reader takes for the same: offered beside each other, two choices would be right."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping


def bare(text: str) -> str:
    """Return a text without capitals, signs without width and blanks that mean nothing."""
    signs = (sign for sign in unicodedata.normalize("NFKC", text) if unicodedata.category(sign) != "Cf")
    return " ".join("".join(signs).casefold().split())


def as_one(shown: Mapping[str, str]) -> dict[str, str]:
    """Return texts by code with those that read the same written as the first of them is."""
    first: dict[str, str] = {}
    return {code: first.setdefault(bare(text), text) for code, text in shown.items()}


def spelt_in_ways(shown: Mapping[str, str]) -> list[list[str]]:
    """Return the codes of each text that is written in several ways, such as yes and Yes."""
    ways: dict[str, list[str]] = {}
    for code, text in shown.items():
        ways.setdefault(bare(text), []).append(code)
    return [codes for codes in ways.values() if len({shown[code] for code in codes}) > 1]
