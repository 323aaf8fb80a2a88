"""The public description of a registry: one per federation, the same file at every site.

It holds everything a question may show beside the patient's own record: labels, units, categories, bounds, the spacing
of numeric choices, leak groups, outcome tasks. Its hash stands in the run configuration.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import ConfigDict, Field, field_validator, model_validator

from common.errors import Code, FedReasonError
from common.toml import Strict, read_toml, validated

OTHER = "(unlisted)"
"""Text of a category that the codebook does not list; shown, never asked."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


class Feature(Strict):
    """One column of the registry.

    A numeric feature has bounds (a value outside counts as missing), `decimals` to print with and `step`, the distance
    between neighbouring choices. A categorical one maps codes in the registry to the text shown.
    """

    name: str = Field(min_length=1, description="column of the registry")
    section: str = Field(min_length=1)
    label: str = Field(min_length=1)
    short: str = ""
    kind: Literal["numeric", "categorical"]
    unit: str = ""
    low: float | None = None
    high: float | None = None
    step: float | None = Field(default=None, gt=0)
    decimals: int = Field(default=0, ge=0, le=6)
    categories: dict[str, str] = {}
    known_later: bool = False
    ask: bool = True

    @field_validator("categories", mode="before")
    @classmethod
    def _from_list(cls, value: Any) -> Any:
        return {str(text): str(text) for text in value} if isinstance(value, list) else value

    @model_validator(mode="after")
    def _complete(self) -> Feature:
        if self.kind == "numeric":
            if self.low is None or self.high is None or not self.low < self.high:
                raise ValueError(f"numeric feature {self.name} needs low < high")
            if self.step is None and self.ask:
                raise ValueError(f"numeric feature {self.name} needs step, or ask = false")
            finer = [
                n
                for n in ("low", "high", "step")
                if getattr(self, n) not in (None, round(getattr(self, n) or 0, self.decimals))
            ]
            if finer:
                raise ValueError(f"{' and '.join(finer)} of {self.name} finer than its decimals")
            if self.categories:
                raise ValueError(f"numeric feature {self.name} has categories")
        elif len(set(self.categories.values())) < 2:
            raise ValueError(f"categorical feature {self.name} needs at least two categories")
        elif OTHER in self.categories.values():
            raise ValueError(f"a category of {self.name} is named {OTHER}, which stands for those not listed")
        return self

    def shown(self, raw: str) -> str | None:
        """Text of a registry cell; None where a number is unreadable or outside the bounds."""
        if self.kind == "categorical":
            return self.categories.get(raw, self.categories.get(_plain(raw), OTHER))
        if not _NUMBER.fullmatch(raw):
            return None
        value = float(raw)
        assert self.low is not None and self.high is not None
        return self.number(value) if self.low <= value <= self.high else None

    def number(self, value: float) -> str:
        """Text of a number at this feature's precision."""
        text = f"{value:.{self.decimals}f}"
        return text[1:] if float(text) == 0 and text.startswith("-") else text


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


class Task(Strict):
    """An outcome question: the value of `feature`, with `hidden` columns and all that is known later left out."""

    name: str = Field(min_length=1)
    feature: str
    question: str = Field(min_length=1)
    hidden: tuple[str, ...] = ()


class Case(Strict):
    """What a public guideline lists when the given feature has this category, or lies in [at_least, below)."""

    model_config = ConfigDict(allow_inf_nan=True)

    value: str | None = None
    at_least: float = float("-inf")
    below: float = float("inf")
    options: tuple[str, ...] = Field(min_length=1)

    def applies(self, shown: str) -> bool:
        """Whether the case covers this shown value."""
        if self.value is not None:
            return shown == self.value
        try:
            return self.at_least <= float(shown) < self.below
        except ValueError:
            return False


class ShortList(Strict):
    """Public knowledge that narrows the choices of `feature` by the value of `given`."""

    feature: str
    given: str
    cases: tuple[Case, ...] = Field(min_length=1)

    def options(self, values: dict[str, str]) -> tuple[str, ...]:
        """Return the listed options for a record; empty where no case applies."""
        shown = values.get(self.given)
        return next((case.options for case in self.cases if shown is not None and case.applies(shown)), ())


class Codebook(Strict):
    """A whole registry's description."""

    title: str = Field(min_length=1)
    patient: str = Field(min_length=1, description="column that identifies the patient")
    missing: tuple[str, ...] = ("", "NA", "NaN", "nan", "NULL")
    ignored: tuple[str, ...] = ()
    features: tuple[Feature, ...] = Field(min_length=1)
    views: dict[str, View] = {}
    leak_groups: tuple[tuple[str, ...], ...] = ()
    tasks: tuple[Task, ...] = ()
    short_lists: tuple[ShortList, ...] = ()

    @cached_property
    def by_name(self) -> dict[str, Feature]:
        """Features by column name."""
        return {feature.name: feature for feature in self.features}

    @cached_property
    def sha256(self) -> str:
        """Hash of the content, whatever the file's layout."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

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

    def hidden_for(self, name: str, task: Task | None = None) -> frozenset[str]:
        """Features that would give away `name`: its leak groups and, for an outcome, all that is known later."""
        hidden = self._partners.get(name, frozenset())
        if task is not None:
            hidden |= frozenset(task.hidden)
        return (hidden | self.later if task is not None or name in self.later else hidden) - {name}

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
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
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
        if name == codebook.patient:
            raise FedReasonError(
                Code.CODEBOOK_REFERENCE,
                f"{where}: the patient column {codebook.patient} is also described as a feature or task.",
                "An identifier is never shown: remove that entry.",
            )
