"""An OMOP CDM in PostgreSQL as a registry: looked at and read in one read-only transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Select, TableClause, column, inspect, table
from sqlalchemy.engine.reflection import ObjectKind

from client.registry.omop.config import OmopConfig
from client.registry.omop.query import DOMAINS, Tables, ancestors_among, units_of, visits_of
from client.registry.sql import read_query
from client.registry.table import Table
from common.errors import Code, FedReasonError

_PERSON = ("person_id", "year_of_birth", "month_of_birth", "day_of_birth")
_CODED = ("gender_concept_id", "race_concept_id", "ethnicity_concept_id")
_VISIT = ("visit_occurrence_id", "person_id", "visit_concept_id", "visit_start_date", "visit_end_date")
_NUMBER = ("measurement_id", "value_as_number", "operator_concept_id", "unit_concept_id", "value_as_concept_id")
_READ: dict[str, tuple[str, ...]] = {
    **{domain.table: ("visit_occurrence_id", domain.concept, domain.date) for domain in DOMAINS.values()},
    "person": (*_PERSON, *_CODED),
    "visit_occurrence": _VISIT,
    "death": ("person_id", "death_date"),
    "measurement": ("visit_occurrence_id", "measurement_concept_id", "measurement_date", *_NUMBER),
    "concept_ancestor": ("ancestor_concept_id", "descendant_concept_id"),
}
"""Columns that a table must have; those that may be absent, or that the versions name differently, are not here."""


def open_omop(url_variable: str, config: OmopConfig, *, name: str) -> Table:
    """Give a CDM as one row a visit, by person and time; the columns are `FIXED`, then those of `config`.

    Parameters
    ----------
    url_variable
        Name of the environment variable that holds the URL of a PostgreSQL.
    config
        What to read. A table that the CDM does not have leaves its columns empty.
    name
        What messages call it.

    Raises
    ------
    FedReasonError
        As `read_query`; REGISTRY_MISSING too where the schema has no visits or persons, or descendants are wanted of
        concepts that concept_ancestor does not have; REGISTRY_COLUMN where a table is not as the CDM has it;
        REGISTRY_UNITS where the numbers of a measurement stand in several units; REGISTRY_QUERY for any database but
        PostgreSQL.
    """
    return read_query(url_variable, lambda connection: _statement(connection, config, name), name=name)


def _statement(connection: Connection, config: OmopConfig, name: str) -> Select[Any]:
    if connection.dialect.name != "postgresql":
        raise FedReasonError(
            Code.REGISTRY_QUERY,
            f"{name}: an OMOP CDM is read from PostgreSQL alone, not from {connection.dialect.name}.",
            "Write `registry.query` instead, which gives one row a visit; docs/omop.md names the columns.",
        )
    tables = _tables(connection, config.schema_, [table for table in _READ if table != "concept_ancestor"], name)
    absent = [table for table in ("person", "visit_occurrence") if table not in tables]
    if absent:
        raise FedReasonError(
            Code.REGISTRY_MISSING,
            f"{name}: schema {config.schema_} has no {' and no '.join(absent)}.",
            "Check `schema` in [registry.omop], capitals too, and the database in the URL.",
        )
    tables |= _ancestry(connection, config, name)
    for measured in config.columns:
        if measured.domain != "measurement" or measured.coded or measured.unit or "measurement" not in tables:
            continue
        units = connection.scalar(units_of(config, tables, measured)) or 0
        if units > 1:
            raise FedReasonError(
                Code.REGISTRY_UNITS,
                f"{name}: the numbers of column {measured.name} stand in {units} units, or some of them in none.",
                "Say with `unit`, a concept, which of them to read.",
            )
    return visits_of(config, tables)


def _tables(connection: Connection, schema: str, names: Sequence[str], name: str) -> dict[str, TableClause]:
    """Find those of the tables, or views, that a schema has, with the columns that they have."""
    found = inspect(connection).get_multi_columns(schema=schema, filter_names=names, kind=ObjectKind.ANY)
    tables = {}
    for (_, table_name), described in found.items():
        columns = [str(about["name"]) for about in described]
        absent = [wanted for wanted in _READ[table_name] if wanted not in columns]
        if absent:
            raise FedReasonError(
                Code.REGISTRY_COLUMN,
                f"{name}: table {schema}.{table_name} has no {', '.join(absent)}.",
                "It must be a table of OMOP CDM 5.3 or 5.4.",
            )
        tables[table_name] = table(table_name, *map(column, columns), schema=schema)
    return tables


def _ancestry(connection: Connection, config: OmopConfig, name: str) -> Tables:
    """Find concept_ancestor, where descendants are wanted; without them a set would be smaller than it seems."""
    wanted = sorted({concept for below in config.columns if below.descendants for concept in below.concepts})
    if not wanted:
        return {}
    schema = config.vocabulary or config.schema_
    tables = _tables(connection, schema, ["concept_ancestor"], name)
    known = set(connection.scalars(ancestors_among(wanted, tables))) if tables else set()
    unknown = [str(concept) for concept in wanted if concept not in known]
    if unknown:
        raise FedReasonError(
            Code.REGISTRY_MISSING,
            f"{name}: {schema}.concept_ancestor does not list the descendants of concept {', '.join(unknown)}.",
            "Load the vocabulary, or list all concepts of the set and take out `descendants`.",
        )
    return tables
