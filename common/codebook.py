"""The public description of a registry: one per federation, the same file at every site.

It holds everything a question may show beside the patient's own record: labels, units, categories, bounds, the spacing
of numeric choices, leak groups, outcome tasks. Its hash stands in the run configuration.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import Field, field_validator, model_validator

from common.alike import spelt_in_ways
from common.errors import Code, FedReasonError
from common.tasks import Knowledge, ShortList, Task
from common.toml import Strict, read_toml, validated

OTHER = "(unlisted)"
"""Text of a category that the codebook does not list; shown, never asked."""

ROW = "#"
"""In place of the patient's column: every row is another person, and its number the identifier."""

JOINED = "; "
"""What stands between the texts of several codes of one cell."""

_LEAST_RATIO = 1.01
"""Of neighbouring choices on a logarithmic scale."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


class Feature(Strict):
    """One column of the registry.

    A numeric feature has bounds (a value outside counts as missing), `decimals` to print with and `step`, the distance
    between neighbouring choices, or with `scale = "log"` their ratio; `words` maps codes that stand in place of a
    number to the text shown. A categorical one maps codes to the text shown; with a `separator` a cell may list
    several. A text is shown as it stands and never asked. The values of a `series` come with their times from a table
    of their own.
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
    series: bool = False
    known_later: bool = False
    ask: bool = True

    @field_validator("categories", "words", mode="before")
    @classmethod
    def _from_list(cls, value: Any) -> Any:
        return {str(text): str(text) for text in value} if isinstance(value, list) else value

    @model_validator(mode="after")
    def _complete(self) -> Feature:
        others = {"numeric": ("categories", "separator"), "categorical": ("words",)}
        wrong = [key for key in others.get(self.kind, ("categories", "separator", "words")) if getattr(self, key)]
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
        word = self.words and self.words.get(raw, self.words.get(_plain(raw)))
        if word:
            return word
        if not _NUMBER.fullmatch(raw):
            return None
        value = float(raw)
        assert self.low is not None and self.high is not None
        return self.number(value) if self.low <= value <= self.high else None

    def _category(self, raw: str) -> str:
        return self.categories.get(raw, self.categories.get(_plain(raw), OTHER))

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


def _plain(raw: str) -> str:
    """Write a whole number without its decimal point, so that the code 1.0 finds the category 1."""
    if not _NUMBER.fullmatch(raw):
        return raw
    value = float(raw)
    return str(int(value)) if value.is_integer() else raw


class View(Strict):
    """A named subset of the features, in display order; `compact` shows short labels without units."""

    features: tuple[str, ...] = Field(min_length=1)
    compact: bool = False


class Codebook(Strict):
    """A whole registry's description.

    `record` is the column that identifies a row where one patient may have several, such as visits. `ignored` names
    columns, or shell patterns of them, that nothing is made of. A `private` one was read off records and holds what no
    one has paid for: no run may use it.
    """

    title: str = Field(min_length=1)
    private: bool = False
    patient: str = Field(min_length=1, description="column that identifies the patient")
    record: str | None = Field(default=None, min_length=1)
    missing: tuple[str, ...] = ("", "NA", "NaN", "nan", "NULL")
    ignored: tuple[str, ...] = ()
    features: tuple[Feature, ...] = Field(min_length=1)
    views: dict[str, View] = {}
    leak_groups: tuple[tuple[str, ...], ...] = ()
    tasks: tuple[Task, ...] = ()
    short_lists: tuple[ShortList, ...] = ()
    knowledge: tuple[Knowledge, ...] = ()

    @field_validator("record")
    @classmethod
    def _named(cls, record: str | None) -> str | None:
        if record == ROW:
            raise ValueError(f"a record is known by a column that tells a patient's rows apart, not by {ROW}")
        return record

    @cached_property
    def by_name(self) -> dict[str, Feature]:
        """Features by column name."""
        return {feature.name: feature for feature in self.features}

    @cached_property
    def sha256(self) -> str:
        """Hash of all that a run's questions follow from, whatever the file's layout: not of `knowledge`."""
        return hashlib.sha256(self.model_dump_json(exclude_defaults=True, exclude={"knowledge"}).encode()).hexdigest()

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Columns that a table of this registry must have."""
        identifiers = [name for name in (self.patient, self.record) if name not in (None, ROW)]
        return (*map(str, identifiers), *(feature.name for feature in self.features if not feature.series))

    def undescribed(self, columns: Iterable[str], ignored: Iterable[str] = ()) -> list[int]:
        """Places, from 1, of the columns that are neither described nor ignored."""
        patterns = (*self.ignored, *ignored)
        known = {*self.columns, *patterns}
        return [
            place
            for place, column in enumerate(columns, start=1)
            if column not in known and not any(fnmatchcase(column, pattern) for pattern in patterns)
        ]

    @cached_property
    def _partners(self) -> dict[str, frozenset[str]]:
        partners: dict[str, set[str]] = {}
        for group in self.leak_groups:
            for name in group:
                partners.setdefault(name, set()).update(group)
        return {name: frozenset(group - {name}) for name, group in partners.items()}

    @cached_property
    def later(self) -> frozenset[str]:
        """Features known only after the moment a question is asked at."""
        return frozenset(feature.name for feature in self.features if feature.known_later)

    def hidden_for(self, name: str) -> frozenset[str]:
        """Features that would give away a masked value: its leak groups; all that is known later where it is."""
        hidden = self._partners.get(name, frozenset())
        return (hidden | self.later if name in self.later else hidden) - {name}

    def hidden_for_task(self, task: Task) -> frozenset[str]:
        """Features that a task does not show.

        What is known later, what the task names, and what leaks the answer with the feature itself; but a value of a
        series at an earlier time leaks nothing: it is what the later one is to be reasoned from.
        """
        hidden = frozenset(task.hidden) | self.later
        leaks = self._partners.get(task.feature, frozenset()) | {task.feature}
        if task.kind == "later":
            leaks = frozenset(name for name in leaks if not self.by_name[name].series)
        return hidden | leaks

    def view(self, name: str) -> View:
        """Return a view by name; "full" is every feature with its full label.

        Raises
        ------
        FedReasonError
            Where the codebook names no such view.
        """
        if name in self.views:
            return self.views[name]
        if name == "full":
            return View(features=tuple(self.by_name))
        raise FedReasonError(
            Code.CODEBOOK_REFERENCE,
            f"the codebook '{self.title}' has no view '{name}'.",
            f"It has: {', '.join(['full', *self.views])}.",
        )

    def to_toml(self) -> str:
        """Write the codebook as it would be read."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_defaults=True))


def load_codebook(path: Path) -> Codebook:
    """Read and check a codebook.

    Raises
    ------
    FedReasonError
        Where it cannot be read, names a feature twice, or refers to a feature that it does not describe.
    """
    table, text = read_toml(path, missing=Code.CODEBOOK_MISSING, syntax=Code.CODEBOOK_SYNTAX)
    codebook = validated(Codebook, table, path=path, text=text, unknown=Code.CODEBOOK_VALUE, value=Code.CODEBOOK_VALUE)
    check_references(codebook, str(path))
    return codebook


def check_references(codebook: Codebook, where: str) -> None:
    """Refuse a codebook that names a feature twice or one that it does not describe."""
    counts = Counter(feature.name for feature in codebook.features)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise FedReasonError(
            Code.CODEBOOK_DUPLICATE,
            f"{where} describes {', '.join(twice)} more than once.",
            "Keep one description of each.",
        )
    named: dict[str, tuple[str, ...]] = {f"view {name}": view.features for name, view in codebook.views.items()}
    named |= {f"leak group {i}": group for i, group in enumerate(codebook.leak_groups, start=1)}
    named |= {f"task {task.name}": (task.feature, *task.hidden) for task in codebook.tasks}
    named |= {f"short list of {item.feature}": (item.feature, item.given) for item in codebook.short_lists}
    for what, names in named.items():
        unknown = [name for name in names if name not in counts]
        if unknown:
            raise FedReasonError(
                Code.CODEBOOK_REFERENCE,
                f"{where}: {what} names {', '.join(unknown)}, which no [[features]] entry describes.",
                "Describe the feature or correct the name.",
            )
    for name in [*(task.name for task in codebook.tasks), *codebook.by_name]:
        if name in (codebook.patient, codebook.record):
            raise FedReasonError(
                Code.CODEBOOK_REFERENCE,
                f"{where}: the identifying column {name} is also described as a feature or task.",
                "An identifier is never shown: remove that entry.",
            )
    for task in codebook.tasks:
        feature = codebook.by_name[task.feature]
        if task.kind == "later" and not feature.series:
            raise FedReasonError(
                Code.CODEBOOK_REFERENCE,
                f"{where}: task {task.name} asks for {feature.name} at a later time, which is no series.",
                "Say series = true where it is described; its values come with their times from a table of their own.",
            )
        if task.kind != "consultation" and feature.kind == "numeric" and feature.step is None:
            raise FedReasonError(
                Code.CODEBOOK_REFERENCE,
                f"{where}: task {task.name} asks for {feature.name}, a number without step.",
                "Say how far apart its choices are: step.",
            )
        if task.kind != "consultation" and feature.kind == "text":
            raise FedReasonError(
                Code.CODEBOOK_REFERENCE,
                f"{where}: task {task.name} asks for {feature.name}, which is free text and has no choices.",
                'Its kind is "consultation", or the feature needs categories.',
            )
