"""A table and the codebook become patients; what the codebook does not know is counted, and never shown in a message.

The counts in the report are for the people at the site: they leave it as little as the records do.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from client.registry.table import Table
from common.codebook import OTHER, Codebook, Feature
from common.errors import Code, FedReasonError
from common.questions.question import Patient

_MOST_NAMED = 10


@dataclass(frozen=True)
class RegistryReport:
    """What became of the cells, in counts; those by feature name hold no zeros, but for `measured`.

    Parameters
    ----------
    patients
        Patients read, with or without values.
    without_values
        Patients of whom no described feature was usable.
    undescribed_columns
        Columns of the table that the codebook neither describes nor lists as ignored.
    measured
        Usable values of every feature of the codebook, OTHER included.
    unreadable
        Cells of a numeric feature that are no number; taken as missing.
    outside
        Numbers outside the codebook's bounds; taken as missing.
    unlisted
        Cells of a categorical feature that the codebook does not list; shown as OTHER.
    """

    patients: int
    without_values: int
    undescribed_columns: int
    measured: Mapping[str, int]
    unreadable: Mapping[str, int]
    outside: Mapping[str, int]
    unlisted: Mapping[str, int]

    def lines(self) -> list[str]:
        """Return the report as short lines for a person at the site."""
        told = [f"{self.patients:,} patients, {len(self.measured)} features"]
        if self.without_values:
            told.append(f"patients without any usable value: {self.without_values:,}")
        if self.undescribed_columns:
            told.append(f"columns that the codebook does not know, ignored: {self.undescribed_columns:,}")
        never = [name for name, count in self.measured.items() if count == 0]
        if never:
            told.append(f"features without any usable value: {', '.join(never)}")
        for name in self.measured:
            if name in self.unreadable:
                told.append(f"{name}: {self.unreadable[name]:,} not a number, taken as missing")
            if name in self.outside:
                told.append(f"{name}: {self.outside[name]:,} outside the bounds, taken as missing")
            if name in self.unlisted:
                told.append(f"{name}: {self.unlisted[name]:,} not a listed category, shown as '{OTHER}'")
        return told


@dataclass(frozen=True)
class Registry:
    """The patients of a site, in the order of its table, and what was counted on the way."""

    patients: tuple[Patient, ...]
    report: RegistryReport


def registry_from(table: Table, codebook: Codebook, *, decimal: str = ".") -> Registry:
    """Turn a table into patients by what the codebook says; `decimal` is what stands for the point in its numbers.

    Raises
    ------
    FedReasonError
        REGISTRY_COLUMN where the table lacks a column of the codebook or has it twice, REGISTRY_EMPTY without rows,
        REGISTRY_DUPLICATE_PATIENT for an identifier that is blank or came before, REGISTRY_UNUSABLE without any value.
    """
    position = _positions(table, codebook)
    reader = _RowReader(codebook, position, decimal)
    patients: list[Patient] = []
    first: dict[str, int] = {}
    blank: list[int] = []
    twice: list[tuple[int, int]] = []
    for place, cells in table.rows:
        identifier = cells[position[codebook.patient]].strip()
        if identifier in reader.missing:
            blank.append(place)
        elif identifier in first:
            twice.append((first[identifier], place))
        first.setdefault(identifier, place)
        patients.append(Patient(identifier, reader.values(cells)))
    if not patients:
        raise FedReasonError(
            Code.REGISTRY_EMPTY,
            f"{table.name} has a header and no rows.",
            "Export the registry again, with its patients.",
        )
    if blank or twice:
        raise _not_one_row_each(table, codebook, blank, twice)
    usable = sum(reader.measured.values()) - sum(reader.other.values())
    if not usable:
        raise FedReasonError(
            Code.REGISTRY_UNUSABLE,
            f"{table.name}: none of the {len(patients):,} rows has a value that the codebook can use.",
            "Check that the codebook is the one for this registry, its units and its category codes.",
        )
    known = {codebook.patient, *codebook.by_name, *codebook.ignored}
    report = RegistryReport(
        patients=len(patients),
        without_values=sum(not patient.values for patient in patients),
        undescribed_columns=sum(column not in known for column in table.columns),
        measured={name: reader.measured[name] for name in codebook.by_name},
        unreadable=dict(reader.unreadable),
        outside=dict(reader.outside),
        unlisted=dict(reader.unlisted),
    )
    return Registry(tuple(patients), report)


@dataclass
class _RowReader:
    """Reads the cells of one row after another and counts what it meets."""

    codebook: Codebook
    position: Mapping[str, int]
    decimal: str = "."
    measured: Counter[str] = field(default_factory=Counter)
    unreadable: Counter[str] = field(default_factory=Counter)
    outside: Counter[str] = field(default_factory=Counter)
    unlisted: Counter[str] = field(default_factory=Counter)
    other: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.missing = frozenset(self.codebook.missing) | {""}
        self._columns: list[tuple[int, str, Feature, dict[str, str | None]]] = [
            (self.position[feature.name], feature.name, feature, {}) for feature in self.codebook.features
        ]

    def values(self, cells: Sequence[str]) -> dict[str, str]:
        """Shown text by feature name of the cells that are not missing."""
        values: dict[str, str] = {}
        for column, name, feature, seen in self._columns:
            raw = cells[column].strip()
            if raw in self.missing:
                continue
            if self.decimal != "." and feature.kind == "numeric":
                raw = raw.replace(self.decimal, ".")
            if raw not in seen:
                seen[raw] = feature.shown(raw)
            text = seen[raw]
            if text is None:
                (self.outside if _is_number(raw) else self.unreadable)[name] += 1
                continue
            if text == OTHER:
                self.other[name] += 1
                if raw not in feature.categories:
                    self.unlisted[name] += 1
            values[name] = text
        self.measured.update(values.keys())
        return values


def _is_number(raw: str) -> bool:
    try:
        return not math.isnan(float(raw))
    except ValueError:
        return False


def _positions(table: Table, codebook: Codebook) -> dict[str, int]:
    """Index of every column of the codebook.

    Only the codebook's names are told: in a file without a header the first line is a patient.
    """
    wanted = [codebook.patient, *codebook.by_name]
    counts = Counter(table.columns)
    absent = [name for name in wanted if name not in counts]
    if absent:
        raise FedReasonError(
            Code.REGISTRY_COLUMN,
            f"{table.name} lacks {len(absent)} of the {len(wanted)} columns of the codebook: {', '.join(absent)}.",
            "Add the column, or take it out of the codebook with the coordinator.",
        )
    twice = [name for name in wanted if counts[name] > 1]
    if twice:
        raise FedReasonError(
            Code.REGISTRY_COLUMN,
            f"{table.name} has more than one column {', '.join(twice)}.",
            "Keep one column of each name.",
        )
    return {name: table.columns.index(name) for name in wanted}


def _not_one_row_each(
    table: Table, codebook: Codebook, blank: Sequence[int], twice: Sequence[tuple[int, int]]
) -> FedReasonError:
    found = []
    if twice:
        pairs = ", ".join(f"{before} and {after}" for before, after in twice[:_MOST_NAMED])
        found.append(f"the same patient stands on {table.unit}s {pairs}{_and_more(twice)}")
    if blank:
        found.append(f"{table.unit} {', '.join(map(str, blank[:_MOST_NAMED]))}{_and_more(blank)} names no patient")
    return FedReasonError(
        Code.REGISTRY_DUPLICATE_PATIENT,
        f"{table.name}, column {codebook.patient}: {'; '.join(found)}.",
        "One row is one patient: give every row its own identifier, or merge the rows of a patient.",
    )


def _and_more(places: Sequence[object]) -> str:
    return f" and {len(places) - _MOST_NAMED:,} more" if len(places) > _MOST_NAMED else ""
