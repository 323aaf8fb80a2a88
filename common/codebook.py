"""The public description of a registry: one per federation, the same file at every site.

It holds everything a question may show beside the patient's own record: labels, units, categories, bounds, the spacing
of numeric choices, leak groups, outcome tasks. Its hash stands in the run configuration.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

import tomli_w
from pydantic import Field, field_validator, model_validator

from common.errors import Code, FedReasonError
from common.feature import Feature
from common.tasks import Knowledge, ShortList, Task
from common.toml import Strict, read_toml, validated

ROW = "#"
"""In place of the patient's column: every row is another person, and its number the identifier."""


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

    @model_validator(mode="after")
    def _listed_or_missing(self) -> Codebook:
        """Refuse a code that the same file lists and calls missing; one of the default list counts where listed."""
        stated = self.missing if self.missing != Codebook.model_fields["missing"].default else ()
        for feature in self.features:
            if both := [code for code in (*feature.categories, *feature.words) if code in (*stated, "")]:
                told = f"{', '.join(map(repr, both))} of {feature.name}"
                raise ValueError(f"{told} means no value by `missing`: take it out there, or where it is listed")
        return self

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
