"""One column of a registry: what its cells mean, and how they are shown."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from common.alike import spelt_in_ways
from common.toml import Strict

OTHER = "(unlisted)"
"""Text of a category that the codebook does not list; shown, never asked."""

JOINED = "; "
"""What stands between the texts of several codes of one cell."""

_LEAST_RATIO = 1.01
"""Of neighbouring choices on a logarithmic scale."""

_EXACT = 2**53
"""Whole numbers from here on are not exact as floats."""

_INTEGER = re.compile(r"([+-]?)0*(\d+)(?:\.0*)?", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


class Feature(Strict):
    """One column of the registry.

    A numeric feature has bounds (a value outside counts as missing), `decimals` to print with and `step`, the distance
    between neighbouring choices, or with `scale = "log"` their ratio; `words` maps codes that stand in place of a
    number to the text shown. A categorical one maps codes to the text shown; with a `separator` a cell may list
    several, but for codes that stand `alone`, such as "none". A text is shown as it stands and never asked. The values
    of a `series` come with their times from a table of their own.
    """

    name: str = Field(min_length=1, description="column of the registry")
    section: str = Field(min_length=1)
    label: str = Field(min_length=1)
    short: str = ""
    kind: Literal["numeric", "categorical", "text"]
    unit: str = ""
    low: float | None = None
    high: float | None = None
    step: float | None = Field(default=None, gt=0)
    scale: Literal["linear", "log"] = "linear"
    decimals: int = Field(default=0, ge=0, le=6)
    words: dict[str, str] = {}
    categories: dict[str, str] = {}
    separator: str | None = Field(default=None, min_length=1)
    alone: tuple[str, ...] = ()
    series: bool = False
    known_later: bool = False
    ask: bool = True

    @field_validator("categories", "words", mode="before")
    @classmethod
    def _from_list(cls, value: Any) -> Any:
        return {str(text): str(text) for text in value} if isinstance(value, list) else value

    @model_validator(mode="after")
    def _complete(self) -> Feature:
        others = {"numeric": ("categories", "separator", "alone"), "categorical": ("words",)}
        keys = others.get(self.kind, ("categories", "separator", "alone", "words"))
        wrong = [key for key in keys if getattr(self, key)]
        if self.kind != "numeric":
            wrong += [key for key in ("low", "high", "step") if getattr(self, key) is not None]
            wrong += ["scale"] if self.scale != "linear" else []
        if wrong:
            raise ValueError(f"{self.kind} feature {self.name} has {' and '.join(wrong)}")
        if ways := spelt_in_ways(self.categories or self.words):
            codes = ", ".join(map(repr, ways[0]))
            raise ValueError(f"the codes {codes} of {self.name} have one text in several spellings: give them one text")
        if self.kind == "numeric":
            self._complete_number()
        elif self.kind == "categorical":
            self._complete_texts()
        return self

    def _complete_number(self) -> None:
        if self.low is None or self.high is None or not self.low < self.high:
            raise ValueError(f"numeric feature {self.name} needs low < high")
        if self.step is None and self.ask:
            raise ValueError(f"numeric feature {self.name} needs step, or ask = false")
        if self.scale == "log":
            self._complete_log()
        shown = ("low", "high", "step") if self.scale == "linear" else ("low", "high")
        finer = [n for n in shown if getattr(self, n) not in (None, round(getattr(self, n) or 0, self.decimals))]
        if finer:
            raise ValueError(f"{' and '.join(finer)} of {self.name} finer than its decimals")
        if any(_NUMBER.fullmatch(text) for text in self.words.values()):
            raise ValueError(f"a word of {self.name} is shown as a number")

    def _complete_log(self) -> None:
        assert self.low is not None and self.high is not None
        if self.low < 0:
            raise ValueError(f'scale = "log" of {self.name} needs low of 0 or more, not {self.low:g}')
        if self.step is None:
            return
        if self.step < _LEAST_RATIO:
            raise ValueError(f'with scale = "log" step of {self.name} is a ratio, such as 1.5; not {self.step:g}')
        if self.step * max(self.low, 10.0**-self.decimals) > self.high:
            raise ValueError(f'with scale = "log" step of {self.name} is a ratio: that times the least is above high')

    def _complete_texts(self) -> None:
        texts = set(self.categories.values())
        if len(texts) < 2:
            raise ValueError(f"categorical feature {self.name} needs at least two categories")
        if OTHER in texts:
            raise ValueError(f"a category of {self.name} is named {OTHER}, which stands for those not listed")
        if self.separator and any(JOINED in text for text in texts):
            raise ValueError(f"a category of {self.name} holds {JOINED!r}, which stands between several of a cell")
        if self.alone and not (self.separator and set(self.alone) <= self.categories.keys() and len(self.beside) > 1):
            raise ValueError(f"alone of {self.name} are codes of a feature with separator that has two others at least")

    @property
    def beside(self) -> tuple[str, ...]:
        """Texts that a cell may list beside others, in the codebook's order."""
        alone = {self.categories[code] for code in self.alone}
        return tuple(text for text in dict.fromkeys(self.categories.values()) if text not in alone)

    @property
    def asked(self) -> bool:
        """Whether its value may be masked and asked for."""
        return self.ask and self.kind != "text"

    def shown(self, raw: str) -> str | None:
        """Text of a registry cell; None where a number is unreadable or outside the bounds."""
        if self.kind == "text":
            return " ".join(raw.split()) or None
        if self.kind == "categorical":
            return self._listed(raw) if self.separator else self._category(raw)
        word = self.words and self.words.get(raw, self.words.get(_without_point(raw)))
        if word:
            return word
        if not _NUMBER.fullmatch(raw):
            return None
        value = float(raw)
        assert self.low is not None and self.high is not None
        return self.number(value) if self.low <= value <= self.high else None

    def _category(self, raw: str) -> str:
        return self.categories.get(raw, self.categories.get(_without_point(raw), OTHER))

    def _listed(self, raw: str) -> str:
        """Texts of the codes in a cell, each once, in the codebook's order; OTHER where one is not listed."""
        found = {self._category(code.strip()) for code in raw.split(self.separator) if code.strip()}
        if OTHER in found or not found:
            return OTHER
        return JOINED.join(text for text in dict.fromkeys(self.categories.values()) if text in found)

    def number(self, value: float) -> str:
        """Text of a number at this feature's precision."""
        text = f"{value:.{self.decimals}f}"
        return text[1:] if text.startswith("-") and float(text) == 0 else text


def number_of(text: str) -> float | None:
    """Return the number that a shown text or a cell stands for; None for a word."""
    return float(text) if _NUMBER.fullmatch(text) else None


def _without_point(raw: str) -> str:
    """Write a whole number without its decimal point, so that the code 1.0 finds the category 1 and none beside it."""
    if whole := _INTEGER.fullmatch(raw):
        sign, digits = whole.groups()
        return f"-{digits}" if sign == "-" and digits != "0" else str(digits)
    value = number_of(raw)
    return raw if value is None or not value.is_integer() or abs(value) >= _EXACT else str(int(value))
