"""A table and the codebook become patients; what the codebook does not know is counted, and never shown in a message.

The counts in the report are for the people at the site: they leave it as little as the records do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from types import MappingProxyType

from client.registry.cells import Stored
from client.registry.display import Display
from client.registry.header import LOOKED_AT, find_header, loose
from client.registry.identifiers import Identifiers
from client.registry.numerals import ADVICE, CODED, PLAIN, Doubts, Numerals, absent_of, in_three, meaning
from client.registry.rows import MISSING, Row, Rows
from client.registry.series import Series
from client.registry.table import Table, first_of
from common.codebook import Codebook
from common.errors import Code, FedReasonError
from common.feature import OTHER
from common.questions.question import Moment, Patient

_MOST_SEEN = 4096
"""Cells of a feature whose meaning is remembered."""
_NONE: Mapping[str, Moment] = MappingProxyType({})
_NO_CODES: Mapping[str, Sequence[str]] = MappingProxyType({})


@dataclass(frozen=True)
class RegistryReport:
    """What became of the cells, in counts; those by feature name hold no zeros, but for `measured`.

    Parameters
    ----------
    patients
        Patients read, with or without values.
    records
        Rows read; as many as patients where a patient has one.
    without_values
        Patients of whom no described feature was usable.
    ignored_columns
        Columns of the table that the codebook or site.toml has left out.
    measured
        Usable values of every feature of the codebook, OTHER included.
    unreadable
        Cells of a numeric feature that are no number; taken as missing.
    outside
        Numbers outside the codebook's bounds; taken as missing.
    unlisted
        Cells of a categorical feature that the codebook does not list; shown as OTHER.
    never_listed
        Series that have such cells alone.
    doubts
        By feature and key of `numerals.ADVICE`: cells that look like something else than a plain number.
    remarks
        What the reader of the table left out, for a person.
    notes
        The same where it hardly is missed.
    merged
        Share of the different numbers of a feature that are shown as another one is.
    """

    patients: int
    records: int
    without_values: int
    ignored_columns: int
    measured: Mapping[str, int]
    unreadable: Mapping[str, int]
    outside: Mapping[str, int]
    unlisted: Mapping[str, int]
    doubts: Mapping[tuple[str, str], int]
    remarks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    never_listed: frozenset[str] = frozenset()
    merged: Mapping[str, float] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return the report as short lines for a person at the site."""
        records = f" with {self.records:,} records" if self.records > self.patients else ""
        told = [f"{self.patients:,} patients{records}, {len(self.measured)} features", *self.remarks, *self.notes]
        if self.without_values:
            told.append(f"patients without any usable value: {self.without_values:,}")
        if self.ignored_columns:
            told.append(f"columns left out: {self.ignored_columns:,}")
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
            told += [f"{name}: {count:,} {ADVICE[what][0]}" for what, count in self.doubts_of(name).items()]
        return told

    def doubts_of(self, name: str) -> dict[str, int]:
        """Return the doubtful cells of a feature, by key of `numerals.ADVICE`."""
        return {what: count for (feature, what), count in self.doubts.items() if feature == name}


@dataclass(frozen=True)
class Registry:
    """The patients of a site, in the order of its table, and what was counted on the way."""

    patients: tuple[Patient, ...]
    report: RegistryReport


def registry_from(
    table: Table,
    codebook: Codebook,
    *,
    numerals: Numerals = PLAIN,
    ignored: Sequence[str] = (),
    missing: Mapping[str, Sequence[str]] = _NO_CODES,
    series: Series | None = None,
) -> Registry:
    """Turn a table into patients by what the codebook says.

    Parameters
    ----------
    numerals
        How its numbers are written.
    ignored
        Columns, or patterns of them, that are left out beside those that the codebook leaves out.
    missing
        By feature, what means here that there is no value, beside the codebook's codes.
    series
        Values with times, by the identifier of a record.

    Raises
    ------
    FedReasonError
        REGISTRY_COLUMN where the table lacks a column of the codebook or has it twice, REGISTRY_UNDESCRIBED where it
        has others, REGISTRY_EMPTY without rows, REGISTRY_DUPLICATE_PATIENT for an identifier that is blank or came
        before, REGISTRY_UNUSABLE without any value, REGISTRY_SERIES where the series are of nobody in the table.
    """
    position = _positions(table, codebook, ignored)
    _require_described(missing, codebook)
    reader = _RowReader(codebook, position, numerals, missing, series)
    identifiers = Identifiers(table, codebook, position, frozenset(codebook.missing) | {""})
    by_patient: dict[str, list[Patient]] = {}
    for place, cells in table.rows:
        patient, record = identifiers.take(place, cells)
        row = Patient(patient, reader.row(cells, record), reader.later(record))
        by_patient.setdefault(patient, []).append(row)
    identifiers.refuse()
    if not by_patient:
        raise FedReasonError(
            Code.REGISTRY_EMPTY,
            f"{table.name} has a header and no rows.",
            "; ".join(table.remarks) or "Export the registry again, with its patients.",
        )
    if series is not None:
        series.require_use()
    patients = tuple(
        replace(first, visits=tuple(others)) if others else first for first, *others in by_patient.values()
    )
    remarks, left_out = [*table.remarks, *identifiers.remarks()], len(table.columns) - len(position)
    report = reader.report(patients, columns=left_out, remarks=remarks, notes=table.notes)
    if not sum(report.measured.values()) - sum(reader.other.values()):
        raise FedReasonError(
            Code.REGISTRY_UNUSABLE,
            f"{table.name}: none of the {report.records:,} rows has a value that the codebook can use.",
            "Check that the codebook is the one for this registry, its units and its category codes.",
        )
    return Registry(patients, report)


@dataclass
class _RowReader:
    """Reads the cells of one row after another and counts what it meets."""

    codebook: Codebook
    position: Mapping[str, int]
    numerals: Numerals
    missing: Mapping[str, Sequence[str]]
    series: Series | None = None
    unreadable: Counter[str] = field(default_factory=Counter)
    outside: Counter[str] = field(default_factory=Counter)
    unlisted: Counter[str] = field(default_factory=Counter)
    other: Counter[str] = field(default_factory=Counter)
    doubts: Doubts = field(default_factory=Doubts)
    display: Display = field(default_factory=Display)

    def __post_init__(self) -> None:
        self._wide = [feature for feature in self.codebook.features if not feature.series]
        self._timed = [feature.name for feature in self.codebook.features if feature.series]
        self._rows = Rows([*(feature.name for feature in self._wide), *self._timed])
        self._other = self._rows.code(OTHER)
        self._columns = [self.position[feature.name] for feature in self._wide]
        self._absent = [absent_of(f, self.codebook.missing, self.missing, self.numerals) for f in self._wide]
        self._seen: list[dict[str, int]] = [
            {text: MISSING for text in absent.texts if not absent.measurable(text)} for absent in self._absent
        ]

    def row(self, cells: Sequence[str], record: str) -> Row:
        """Take the values of a row of the table, and of the series of its record."""
        wide = [cells[column] for column in self._columns]
        codes = [seen.get(cell) for seen, cell in zip(self._seen, wide, strict=True)]
        known = [self._code(place, wide[place]) if code is None else code for place, code in enumerate(codes)]
        first = {} if self.series is None else self.series.first(record)
        self.other.update(name for name, text in first.items() if text == OTHER)
        timed = [self._rows.code(first[name]) if name in first else MISSING for name in self._timed]
        return self._rows.add(known + timed)

    def later(self, record: str) -> Mapping[str, Moment]:
        """Moments of a record that tasks ask from."""
        return _NONE if self.series is None else self.series.moments(record)

    def report(
        self, patients: Sequence[Patient], columns: int, remarks: Sequence[str], notes: Sequence[str]
    ) -> RegistryReport:
        """Return what was met on the way; `columns` were left out."""
        unreadable, outside, unlisted = Counter(self.unreadable), Counter(self.outside), Counter(self.unlisted)
        doubts, merged, never_listed = self.doubts.counts(), self.display.merged(), frozenset[str]()
        if self.series is not None:
            unreadable += self.series.unreadable
            outside += self.series.outside
            unlisted += self.series.unlisted
            never_listed = frozenset(self.series.unlisted.keys() - self.series.listed)
            doubts |= self.series.doubts.counts()
            merged |= self.series.display.merged()
            doubted, noted = (
                [f"{self.series.name}: {each}" for each in told] for told in self.series.told(len(self._rows.cells))
            )
            remarks, notes = [*remarks, *doubted], [*notes, *noted]
        return RegistryReport(
            patients=len(patients),
            records=len(self._rows.cells),
            without_values=sum(not any(record.values for record in patient.records) for patient in patients),
            ignored_columns=columns,
            measured=self._rows.counts(),
            unreadable=dict(unreadable),
            outside=dict(outside),
            unlisted=dict(unlisted),
            doubts=doubts,
            remarks=tuple(remarks),
            notes=tuple(notes),
            never_listed=never_listed,
            merged=merged,
        )

    def _code(self, place: int, cell: str) -> int:
        """Code of a cell that was not seen before, or that has to be counted each time."""
        feature, raw, seen = self._wide[place], cell.strip(), self._seen[place]
        code = MISSING
        if raw not in self._absent[place]:
            text, number, doubt, settles, beside = meaning(feature, raw, self.numerals)
            self.doubts.take(feature.name, doubt, settles, beside)
            if text is None:
                (self.outside if number else self.unreadable)[feature.name] += 1
                return MISSING
            if text == OTHER:
                self.other[feature.name] += 1
                if raw not in feature.categories:
                    self.unlisted[feature.name] += 1
                return self._other
            self.display.saw(feature, number or "", text)
            code = self._rows.code(text)
            if doubt is not None or (isinstance(raw, Stored) and in_three(str(raw))):
                return code  # a text that looks like this number would be in doubt
        elif self._absent[place].measurable(raw):
            self.doubts.take(feature.name, CODED)
            return MISSING
        if len(seen) < _MOST_SEEN:
            seen[cell] = code
        return code


def _positions(table: Table, codebook: Codebook, ignored: Sequence[str]) -> dict[str, int]:
    """Index of every column of the codebook.

    Only the codebook's names are told: in a file without a header the first line is a patient.
    """
    wanted = codebook.columns
    counts = Counter(table.columns)
    absent = [name for name in wanted if name not in counts]
    if absent:
        raise FedReasonError(
            Code.REGISTRY_COLUMN,
            f"{table.name} lacks {len(absent)} of the {len(wanted)} columns of the codebook: {', '.join(absent)}.",
            _where_names_stand(table, wanted, absent)
            or "Add the column, or take it out of the codebook with the coordinator.",
        )
    twice = [name for name in wanted if counts[name] > 1]
    if twice:
        told = "; ".join(f"{name}, columns {_places(table, name)}" for name in twice)
        raise FedReasonError(
            Code.REGISTRY_COLUMN,
            f"{table.name} has more than one column of a name: {told}.",
            "Keep one column of each name.",
        )
    undescribed = codebook.undescribed(table.columns, ignored)
    if undescribed:
        raise FedReasonError(
            Code.REGISTRY_UNDESCRIBED,
            f"{table.name}: the codebook neither describes nor ignores {len(undescribed)} of {len(table.columns)} "
            f"columns: number {first_of(undescribed)}.",
            "Describe them in the codebook, or leave them out: `ignored` there, or in site.toml under [registry].",
        )
    return {name: table.columns.index(name) for name in wanted}


def _places(table: Table, name: str) -> str:
    return " and ".join(str(place) for place, column in enumerate(table.columns, start=1) if column == name)


def _where_names_stand(table: Table, wanted: Sequence[str], absent: Sequence[str]) -> str | None:
    """Return what to do where the names seem to stand elsewhere, or otherwise; None where nothing is seen of them."""
    written = {loose(column) for column in table.columns}
    near = [name for name in absent if loose(name) and loose(name) in written]
    if near:
        return f"There in other capitals, blanks or signs: {', '.join(near)}. Write them as the codebook does."
    if said := table.elsewhere(wanted):
        return said
    places, rows, torn = [0], [table.columns], None
    try:
        for place, cells in islice(table.rows, LOOKED_AT):
            places.append(place)
            rows.append(tuple(cells))
    except FedReasonError as error:
        torn = error.fix
    found = find_header(rows, wanted)
    if found is not None and found[:2] != (1, 1):
        place = places[found.row - 1]
        where = f"fill {found.rows} {table.unit}s" if found.row == 1 else f"stand on {table.unit} {place}"
        said = f"header_rows = {found.rows}" if found.row == 1 else found._replace(row=place).keys
        return f"The column names seem to {where}: {said} in site.toml, [registry]."
    if torn is None and len(table.columns) == 1:
        return "The header is one column: is it separated by comma, semicolon, tab or |, and is `encoding` right?"
    return torn


def _require_described(missing: Mapping[str, Sequence[str]], codebook: Codebook) -> None:
    unknown = sorted(set(missing) - set(codebook.by_name))
    if unknown:
        raise FedReasonError(
            Code.CONFIG_VALUE,
            f"site.toml, [registry.missing] names {', '.join(unknown)}, which the codebook does not describe.",
            "Write the names of features as the codebook does.",
        )
