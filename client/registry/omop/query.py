"""One statement gives an OMOP CDM, 5.3 or 5.4, as one row a visit.

Cells are concept ids, to which the codebook gives a text. An id means the same at every hospital; a source value is
what the hospital's own system held, even a patient's number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Date,
    DateTime,
    FromClause,
    Integer,
    Select,
    Subquery,
    TableClause,
    Text,
    and_,
    case,
    cast,
    exists,
    extract,
    func,
    null,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by

from client.registry.omop.config import OmopColumn, OmopConfig

Tables = Mapping[str, TableClause]


class Domain(NamedTuple):
    """Where the records of a domain stand: their table, its concept and its date; the time's column ends in `time`."""

    table: str
    concept: str
    date: str


DOMAINS = {
    "condition": Domain("condition_occurrence", "condition_concept_id", "condition_start_date"),
    "drug": Domain("drug_exposure", "drug_concept_id", "drug_exposure_start_date"),
    "procedure": Domain("procedure_occurrence", "procedure_concept_id", "procedure_date"),
    "device": Domain("device_exposure", "device_concept_id", "device_exposure_start_date"),
    "observation": Domain("observation", "observation_concept_id", "observation_date"),
    "measurement": Domain("measurement", "measurement_concept_id", "measurement_date"),
}
_MEASUREMENT = DOMAINS["measurement"]
_ADMITTED = ("admitted_from_concept_id", "admitting_source_concept_id")
_DISCHARGED = ("discharged_to_concept_id", "discharge_to_concept_id")
"""As 5.4 and 5.3 have it."""

_SIGNS = {4171756: "<", 4171754: "<=", 4172704: ">", 4171755: ">="}
"""Operators of a number beyond what could be measured; all others mean equal."""


def visits_of(config: OmopConfig, tables: Tables) -> Select[Any]:
    """Select the fixed columns, then those of site.toml, of every visit that counts: by person, in order of time.

    A column of which the CDM holds no table is empty, and so is yes or no at a visit without any record of that domain:
    only where something was recorded does the absence of a concept mean no.
    """
    visit, person = tables["visit_occurrence"], tables["person"]
    begins, ends = cast(visit.c.visit_start_date, Date), cast(visit.c.visit_end_date, Date)
    source: FromClause = visit.outerjoin(person, person.c.person_id == visit.c.person_id)
    columns: dict[str, ColumnElement[Any]] = {
        "person_id": visit.c.person_id,
        "visit_occurrence_id": visit.c.visit_occurrence_id,
        "age": _age(person, begins),
        "gender": _known(person.c.gender_concept_id),
        "race": _known(person.c.race_concept_id),
        "ethnicity": _known(person.c.ethnicity_concept_id),
        "visit": _known(visit.c.visit_concept_id),
        "admitted_from": _either(visit, _ADMITTED),
        "length_of_stay": cast(ends - begins, Integer),
        "discharged_to": _either(visit, _DISCHARGED),
        "died": null(),
    } | {column.name: null() for column in config.columns}
    if "death" in tables:
        death = tables["death"]
        last = select(death.c.person_id, func.min(death.c.death_date).label("day")).group_by(death.c.person_id)
        dead = last.subquery("dead")
        source = source.outerjoin(dead, dead.c.person_id == visit.c.person_id)
        within = cast(dead.c.day, Date).between(begins, ends)
        columns["died"] = case((within, "yes"), (exists(select(death.c.person_id)), "no"))
    for name, domain in DOMAINS.items():
        wanted = [column for column in config.columns if column.domain == name]
        if wanted and domain.table in tables:
            found = _recorded(config, tables, domain, wanted)
            source = source.outerjoin(found, found.c.visit_occurrence_id == visit.c.visit_occurrence_id)
            columns |= {column.name: found.c[column.name] for column in wanted}
    return (
        select(*(column.label(name) for name, column in columns.items()))
        .select_from(source)
        .where(*_chosen(config, visit))
        .order_by(visit.c.person_id, _moment(visit, "visit_start_date"), visit.c.visit_occurrence_id)
    )


def units_of(config: OmopConfig, tables: Tables, column: OmopColumn) -> Select[Any]:
    """Count the units in which the numbers of a measurement stand."""
    record, visit = tables[_MEASUREMENT.table], tables["visit_occurrence"]
    return (
        select(func.count(func.distinct(func.coalesce(record.c.unit_concept_id, 0))))
        .select_from(record.join(visit, record.c.visit_occurrence_id == visit.c.visit_occurrence_id))
        .where(_applies(tables, _MEASUREMENT, column), *_chosen(config, visit))
    )


def ancestors_among(concepts: Sequence[int], tables: Tables) -> Select[Any]:
    """Select those of the concepts of which concept_ancestor lists the descendants."""
    above = tables["concept_ancestor"].c.ancestor_concept_id
    return select(above).where(above.in_(concepts)).distinct()


def _recorded(config: OmopConfig, tables: Tables, domain: Domain, wanted: Sequence[OmopColumn]) -> Subquery:
    """Gather the columns of a domain, in one pass over its table."""
    record, visit = tables[domain.table], tables["visit_occurrence"]
    applies = [_applies(tables, domain, column) for column in wanted]
    cells = [
        _cell(record, domain, column, those).label(column.name) for column, those in zip(wanted, applies, strict=True)
    ]
    chosen = _chosen(config, visit) + ([or_(*applies)] if domain is _MEASUREMENT else [])
    return (
        select(visit.c.visit_occurrence_id, *cells)
        .select_from(record.join(visit, record.c.visit_occurrence_id == visit.c.visit_occurrence_id))
        .where(*chosen)
        .group_by(visit.c.visit_occurrence_id)
        .subquery(f"{domain.table}_by_visit")
    )


def _applies(tables: Tables, domain: Domain, column: OmopColumn) -> ColumnElement[bool]:
    """Whether a record is one that the column asks for."""
    record = tables[domain.table]
    concept = record.c[domain.concept]
    conditions: list[ColumnElement[bool]] = [concept.in_(column.concepts)]
    if column.descendants:
        pair = tables["concept_ancestor"].c
        below = select(pair.descendant_concept_id).where(pair.ancestor_concept_id.in_(column.concepts))
        conditions = [or_(*conditions, concept.in_(below))]
    if column.hours is not None:
        begins = _moment(tables["visit_occurrence"], "visit_start_date")
        conditions.append(_moment(record, domain.date) < begins + timedelta(hours=column.hours))
    if column.unit is not None:
        conditions.append(record.c.unit_concept_id == column.unit)
    if column.value is not None:
        answer = _known(record.c.value_as_concept_id) if column.coded else record.c.value_as_number
        conditions.append(answer.is_not(None))
    return and_(*conditions)


def _cell(record: TableClause, domain: Domain, column: OmopColumn, those: ColumnElement[bool]) -> ColumnElement[Any]:
    """Sum up the records of a visit."""
    if column.value is None:
        return case((func.bool_or(those), "yes"), else_="no")
    moment, number = _moment(record, domain.date), record.c.value_as_number
    order = {
        "first": (moment.asc(), record.c.measurement_id.asc()),
        "last": (moment.desc(), record.c.measurement_id.desc()),
        "min": (number.asc(), moment.asc()),
        "max": (number.desc(), moment.asc()),
    }[column.value]
    shown = record.c.value_as_concept_id if column.coded else _signed(record)
    return func.array_agg(aggregate_order_by(cast(shown, Text), *order)).filter(those)[1]


def _signed(record: TableClause) -> ColumnElement[str]:
    """Write a number as the laboratory reports it: <0.1 where no more than that is known."""
    sign = case(_SIGNS, value=record.c.operator_concept_id, else_="")
    return sign + cast(record.c.value_as_number, Text)


def _chosen(config: OmopConfig, visit: TableClause) -> list[ColumnElement[bool]]:
    return [visit.c.visit_concept_id.in_(config.visits)] if config.visits else []


def _known(concept: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return nothing for concept 0, which means that none matched."""
    return func.nullif(concept, 0)


def _either(table: TableClause, names: Sequence[str]) -> ColumnElement[Any]:
    return next((_known(table.c[name]) for name in names if name in table.c), null())


def _moment(table: TableClause, date: str) -> ColumnElement[Any]:
    """Time of a record, or midnight where only its day is known."""
    day = cast(table.c[date], DateTime)
    return func.coalesce(cast(table.c[date + "time"], DateTime), day) if date + "time" in table.c else day


def _age(person: TableClause, day: ColumnElement[Any]) -> ColumnElement[int]:
    """Age in years, complete ones where the birthday is known."""
    birthday = person.c.month_of_birth * 100 + person.c.day_of_birth
    before = case((birthday > extract("month", day) * 100 + extract("day", day), 1), else_=0)
    return cast(extract("year", day) - person.c.year_of_birth - before, Integer)
