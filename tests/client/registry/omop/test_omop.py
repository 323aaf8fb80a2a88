"""An OMOP CDM is read as one row a visit: what each column says, and what is refused, on a CDM 5.3 made here."""

from __future__ import annotations

import json
import logging
import tomllib
import traceback
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sqlalchemy import URL, Engine, NullPool, create_engine, make_url

from client.registry.load import registry_from
from client.registry.omop.config import FIXED, OmopConfig
from client.registry.omop.draft import draft_codebook
from client.registry.omop.query import DOMAINS
from client.registry.omop.source import open_omop
from common.codebook import Codebook
from common.errors import Code, FedReasonError
from tests.postgres import missing, postgres

VARIABLE = "REGISTRY_URL"
NAME = "the CDM of REGISTRY_URL"
SENTINEL = "Q7ZSENTINEL"
PASSWORD = "p4ssSENTINEL"
PNEUMONIA, LUNG_DISEASE, SEPSIS, VANCOMYCIN, CREATININE, CULTURE = 255848, 257907, 132797, 1707687, 3016723, 3023368
MG, UMOL, BELOW, EQUAL, POSITIVE, NEGATIVE = 8840, 8749, 4171756, 4172703, 9191, 9189
ADMITTED = datetime(2150, 3, 9, 14)

TABLES = """
create schema cdm; create schema words;
create table cdm.person (person_id bigint, gender_concept_id int, year_of_birth int, month_of_birth int,
    day_of_birth int, race_concept_id int, ethnicity_concept_id int, person_source_value text);
create table cdm.visit_occurrence (visit_occurrence_id bigint, person_id bigint, visit_concept_id int,
    visit_start_date date, visit_start_datetime timestamp, visit_end_date date, admitting_source_concept_id int,
    discharge_to_concept_id int, visit_source_value text);
create table cdm.death (person_id bigint, death_date date);
create table cdm.condition_occurrence (visit_occurrence_id bigint, condition_concept_id int,
    condition_start_date date, condition_start_datetime timestamp);
create table cdm.drug_exposure (visit_occurrence_id bigint, drug_concept_id int, drug_exposure_start_date date);
create table cdm.measurement (measurement_id bigint, visit_occurrence_id bigint, measurement_concept_id int,
    measurement_date date, measurement_datetime timestamp, value_as_number numeric, operator_concept_id int,
    unit_concept_id int, value_as_concept_id int);
create table words.concept (concept_id int, concept_name text);
create table words.concept_ancestor (ancestor_concept_id int, descendant_concept_id int);
"""
ROWS: dict[str, list[tuple[Any, ...]]] = {
    "cdm.person": [(1, 8507, 2100, None, None, 8527, 0, SENTINEL), (2, 8532, 2100, 3, 10, 0, 38003563, SENTINEL)],
    "cdm.visit_occurrence": [
        (12, 1, 9201, "2150-03-09", ADMITTED, "2150-03-14", 8870, 581476, SENTINEL),
        (11, 1, 9202, "2149-01-02", None, "2149-01-02", None, 0, SENTINEL),
        (21, 2, 9201, "2150-03-09", ADMITTED, "2150-03-11", 0, 4216643, SENTINEL),
        (31, 3, 9201, "2148-03-09", ADMITTED.replace(year=2148), "2148-03-09", None, None, SENTINEL),
    ],
    "cdm.death": [(2, "2150-03-11"), (1, "2150-03-15")],
    "cdm.condition_occurrence": [
        (12, PNEUMONIA, "2150-03-09", None),
        (12, 0, "2150-03-09", None),
        (21, SEPSIS, "2150-03-09", None),
        (None, PNEUMONIA, "2150-03-09", None),
    ],
    "cdm.drug_exposure": [(12, VANCOMYCIN, "2150-03-10"), (21, VANCOMYCIN, "2150-03-11")],
    "cdm.measurement": [
        (1, 12, CREATININE, "2150-03-09", ADMITTED + timedelta(hours=1), "1.10", EQUAL, MG, None),
        (2, 12, CREATININE, "2150-03-10", ADMITTED + timedelta(hours=20), "2.5", None, MG, None),
        (3, 12, CREATININE, "2150-03-10", ADMITTED + timedelta(hours=24), "0.2", BELOW, MG, None),
        (4, 12, CREATININE, "2150-03-09", ADMITTED, "97", None, UMOL, None),
        (5, 12, CREATININE, "2150-03-09", ADMITTED, None, None, MG, None),
        (6, 12, CULTURE, "2150-03-09", ADMITTED, None, None, None, NEGATIVE),
        (7, 12, CULTURE, "2150-03-11", None, None, None, None, POSITIVE),
        (8, 12, CULTURE, "2150-03-12", None, None, None, None, 0),
        (9, 21, CULTURE, "2150-03-09", ADMITTED, None, None, None, NEGATIVE),
    ],
    "words.concept": [(PNEUMONIA, "Pneumonia"), (MG, "milligram per deciliter"), (9201, "Inpatient Visit")],
    "words.concept_ancestor": [(LUNG_DISEASE, LUNG_DISEASE), (LUNG_DISEASE, PNEUMONIA)],
}


@pytest.fixture(scope="module")
def url() -> Iterator[URL]:
    if missing():
        pytest.skip(missing())
    with postgres() as text:
        url = make_url(text)
        with admin(url).begin() as connection:
            for statement in TABLES.split(";")[:-1]:
                connection.exec_driver_sql(statement)
            for table, rows in ROWS.items():
                marks = ", ".join(["%s"] * len(rows[0]))
                connection.exec_driver_sql(f"insert into {table} values ({marks})", rows)
            connection.exec_driver_sql(f"create role reader login password '{PASSWORD}'")
            connection.exec_driver_sql("grant usage on schema cdm, words to reader")
            connection.exec_driver_sql("grant select on all tables in schema cdm, words to reader")
        yield url


def admin(url: URL) -> Engine:
    return create_engine(url, poolclass=NullPool)


@pytest.fixture(autouse=True)
def environment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name the database as a site does: by the account that may only read."""
    if "url" in request.fixturenames:
        reader = request.getfixturevalue("url").set(username="reader", password=PASSWORD)
        monkeypatch.setenv(VARIABLE, reader.render_as_string(hide_password=False))


def config(*columns: dict[str, Any], **others: Any) -> OmopConfig:
    return OmopConfig.model_validate({"schema": "cdm", "columns": columns} | others)


def asked(domain: str, *concepts: int, name: str = "asked", **others: Any) -> dict[str, Any]:
    return {"name": name, "domain": domain, "concepts": concepts} | others


def rows(config: OmopConfig) -> list[dict[str, str]]:
    table = open_omop(VARIABLE, config, name=NAME)
    return [dict(zip(table.columns, cells, strict=True)) for _, cells in table.rows]


def cells(config: OmopConfig, column: str = "asked") -> dict[str, str]:
    """Cells of a column by visit."""
    return {row["visit_occurrence_id"]: row[column] for row in rows(config)}


def refusal(config: OmopConfig, caplog: pytest.LogCaptureFixture) -> FedReasonError:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(FedReasonError) as caught:
        rows(config)
    error = caught.value
    told = "".join(traceback.format_exception(error)) + caplog.text
    assert [secret for secret in (SENTINEL, PASSWORD) if secret in told] == []
    assert error.__context__ is None and error.found.startswith(NAME) and "\n" not in str(error)
    return error


# --- site.toml


@pytest.mark.parametrize(
    "wrong",
    [
        {"schema": 'cdm"; drop table person; --'},
        {"schema": ""},
        {"schema": "c" * 64},
        {"visits": [0]},
        {"vocabulary": "a.b"},
        {"columns": [asked("disease", 1)]},
        {"columns": [asked("condition")]},
        {"columns": [asked("condition", 0)]},
        {"columns": [asked("condition", 2**31)]},
        {"columns": [asked("condition", 1, value="first")]},
        {"columns": [asked("drug", 1, unit=MG)]},
        {"columns": [asked("measurement", 1)]},
        {"columns": [asked("measurement", 1, value="mean")]},
        {"columns": [asked("measurement", 1, value="min", coded=True)]},
        {"columns": [asked("measurement", 1, value="last", coded=True, unit=MG)]},
        {"columns": [asked("drug", 1, hours=0)]},
        {"columns": [asked("drug", 1, name='a"b')]},
        {"columns": [asked("drug", 1, name="died")]},
        {"columns": [asked("drug", 1), asked("drug", 2)]},
        {"columns": [asked("drug", 1) | {"concept": 3}]},
    ],
    ids=str,
)
def test_what_cannot_be_read_is_refused_with_the_site_file(wrong: dict[str, Any]) -> None:
    right = {"schema": "cdm", "columns": [asked("measurement", 1, value="last", unit=MG, hours=24)]}
    assert OmopConfig.model_validate(right)
    with pytest.raises(ValidationError):
        OmopConfig.model_validate(right | wrong)


def test_the_settings_of_a_registry_survive_their_file() -> None:
    one = config(asked("condition", PNEUMONIA), vocabulary="words", visits=[9201])
    assert OmopConfig.model_validate(json.loads(one.model_dump_json(by_alias=True))) == one


# --- what a row says


@pytest.mark.federation
def test_a_row_is_a_visit_by_person_and_time(url: URL) -> None:
    table = open_omop(VARIABLE, config(), name=NAME)
    assert (table.name, table.unit, table.columns) == (NAME, "row", FIXED)
    assert [cells for _, cells in table.rows] == [
        ["1", "11", "49", "8507", "8527", "", "9202", "", "0", "", "no"],
        ["1", "12", "50", "8507", "8527", "", "9201", "8870", "5", "581476", "no"],
        ["2", "21", "49", "8532", "", "38003563", "9201", "", "2", "4216643", "yes"],
        ["3", "31", "", "", "", "", "9201", "", "0", "", "no"],
    ]


@pytest.mark.federation
def test_only_the_visits_that_count_are_read(url: URL) -> None:
    assert list(cells(config(visits=[9202]), "visit")) == ["11"]
    assert rows(config(visits=[38004207])) == []


@pytest.mark.federation
def test_no_needs_a_record_of_the_domain(url: URL) -> None:
    assert cells(config(asked("condition", PNEUMONIA))) == {"11": "", "12": "yes", "21": "no", "31": ""}
    assert set(cells(config(asked("condition", 1))).values()) == {"", "no"}


@pytest.mark.federation
def test_a_table_that_is_absent_or_empty_leaves_its_columns_empty(url: URL) -> None:
    with admin(url).begin() as connection:
        connection.exec_driver_sql("create schema young")
        connection.exec_driver_sql("grant usage on schema young to reader")
        for table in ("person", "visit_occurrence"):
            connection.exec_driver_sql(f"create view young.{table} as select * from cdm.{table}")
        connection.exec_driver_sql("create table young.death as select * from cdm.death where false")
        connection.exec_driver_sql("grant select on all tables in schema young to reader")
    all_domains = [
        asked(domain, 1, name=domain, **({"value": "last"} if domain == "measurement" else {})) for domain in DOMAINS
    ]
    found = rows(config(*all_domains, schema="young"))
    assert len(found) == 4
    assert {row[name] for row in found for name in (*DOMAINS, "died")} == {""}


@pytest.mark.federation
def test_descendants_are_those_of_the_vocabulary(url: URL) -> None:
    alone = config(asked("condition", LUNG_DISEASE), vocabulary="words")
    below = config(asked("condition", LUNG_DISEASE, descendants=True), vocabulary="words")
    assert cells(alone)["12"] == "no"
    assert cells(below) == {"11": "", "12": "yes", "21": "no", "31": ""}


@pytest.mark.federation
def test_descendants_that_are_not_known_are_refused(url: URL, caplog: pytest.LogCaptureFixture) -> None:
    unknown = asked("condition", LUNG_DISEASE, SEPSIS, descendants=True)
    error = refusal(config(unknown, vocabulary="words"), caplog)
    assert error.code == Code.REGISTRY_MISSING and f"descendants of concept {SEPSIS}." in error.found
    assert refusal(config(unknown), caplog).code == Code.REGISTRY_MISSING


@pytest.mark.federation
def test_hours_count_from_the_start_of_the_visit_and_a_day_alone_begins_at_midnight(url: URL) -> None:
    found = {hours: cells(config(asked("drug", VANCOMYCIN, hours=hours))) for hours in (10, 11, 33, 34, 35)}
    assert [found[hours]["12"] for hours in found] == ["no", "yes", "yes", "yes", "yes"]
    assert [found[hours]["21"] for hours in found] == ["no", "no", "no", "no", "yes"]


@pytest.mark.federation
def test_a_measurement_is_the_number_that_was_asked_for(url: URL) -> None:
    def creatinine(value: str, **others: Any) -> str:
        return cells(config(asked("measurement", CREATININE, value=value, unit=MG, **others)))["12"]

    assert [creatinine(value) for value in ("first", "last", "min", "max")] == ["1.10", "<0.2", "<0.2", "2.5"]
    assert [creatinine(value, hours=24) for value in ("first", "last", "min", "max")] == ["1.10", "2.5", "1.10", "2.5"]
    assert cells(config(asked("measurement", CREATININE, value="max", unit=UMOL))) == {
        "11": "", "12": "97", "21": "", "31": ""
    }  # fmt: skip


@pytest.mark.federation
def test_numbers_in_several_units_are_refused(url: URL, caplog: pytest.LogCaptureFixture) -> None:
    error = refusal(config(asked("measurement", CREATININE, name="creatinine", value="max")), caplog)
    assert error.code == Code.REGISTRY_UNITS and "column creatinine stand in 2 units" in error.found
    assert cells(config(asked("measurement", CREATININE, value="max"), visits=[9202])) == {"11": ""}


@pytest.mark.federation
def test_a_coded_measurement_is_the_concept_that_it_was_answered_with(url: URL) -> None:
    first, last = (config(asked("measurement", CULTURE, value=value, coded=True)) for value in ("first", "last"))
    assert cells(first) == {"11": "", "12": str(NEGATIVE), "21": str(NEGATIVE), "31": ""}
    assert cells(last) == {"11": "", "12": str(POSITIVE), "21": str(NEGATIVE), "31": ""}


@pytest.mark.federation
def test_a_column_does_not_change_another(url: URL) -> None:
    many = [
        asked("condition", PNEUMONIA, name="pneumonia"),
        asked("condition", SEPSIS, name="sepsis"),
        asked("measurement", CREATININE, name="low", value="min", unit=MG),
        asked("drug", VANCOMYCIN, name="vancomycin", hours=24),
        asked("measurement", CREATININE, name="molar", value="min", unit=UMOL, hours=1),
        asked("device", 1, name="device"),
    ]
    together = rows(config(*many))
    assert tuple(together[0]) == (*FIXED, *(column["name"] for column in many))
    for column in many:
        assert [row[column["name"]] for row in together] == list(cells(config(column), column["name"]).values())


NUMBERS = st.tuples(
    st.integers(0, 30), st.sampled_from([1, 2, 3]), st.sampled_from([0, MG, UMOL, None]), st.none() | st.integers(-9, 9)
)
"""Hours after admission, concept, unit, number."""


@pytest.mark.federation
@settings(max_examples=25, deadline=None)
@given(records=st.lists(NUMBERS, max_size=12), hours=st.none() | st.integers(1, 30))
def test_any_measurements_are_summed_up_as_python_does(url: URL, records: Sequence[Any], hours: int | None) -> None:
    with admin(url).begin() as connection:
        connection.exec_driver_sql("create schema if not exists law")
        for table in ("person", "visit_occurrence"):
            connection.exec_driver_sql(f"create or replace view law.{table} as select * from cdm.{table}")
        connection.exec_driver_sql("create table if not exists law.measurement (like cdm.measurement)")
        connection.exec_driver_sql("truncate law.measurement")
        if records:
            connection.exec_driver_sql(
                "insert into law.measurement values (%s, 12, %s, '2150-03-09', %s, %s, null, %s, null)",
                [
                    (place, concept, ADMITTED + timedelta(hours=hour), number, unit)
                    for place, (hour, concept, unit, number) in enumerate(records)
                ],
            )
        connection.exec_driver_sql("grant usage on schema law to reader")
        connection.exec_driver_sql("grant select on all tables in schema law to reader")
    those = [
        (hour, place, number)
        for place, (hour, concept, unit, number) in enumerate(records)
        if concept in (1, 2) and unit == MG and number is not None and (hours is None or hour < hours)
    ]
    numbers = [number for _, _, number in those]
    wanted = {
        "first": min(those)[-1] if those else "",
        "last": max(those, key=lambda record: (record[0], record[1]))[-1] if those else "",
        "min": min(numbers, default=""),
        "max": max(numbers, default=""),
    }
    columns = [asked("measurement", 1, 2, name=value, value=value, unit=MG, hours=hours) for value in wanted]
    found = next(row for row in rows(config(*columns, schema="law")) if row["visit_occurrence_id"] == "12")
    assert {value: found[value] for value in wanted} == {value: str(number) for value, number in wanted.items()}


# --- what is refused


@pytest.mark.federation
@pytest.mark.parametrize("schema", ["nowhere", "CDM", "words"])
def test_a_schema_without_visits_is_refused(url: URL, caplog: pytest.LogCaptureFixture, schema: str) -> None:
    error = refusal(config(schema=schema), caplog)
    assert error.code == Code.REGISTRY_MISSING and f"{schema} has no person and no visit_occurrence" in error.found


@pytest.mark.federation
def test_a_table_that_may_not_be_read_is_refused_and_not_taken_for_absent(
    url: URL, caplog: pytest.LogCaptureFixture
) -> None:
    change = "{} select on cdm.condition_occurrence {} reader"
    with admin(url).begin() as connection:
        connection.exec_driver_sql(change.format("revoke", "from"))
    try:
        error = refusal(config(asked("condition", PNEUMONIA)), caplog)
        assert len(rows(config(asked("drug", VANCOMYCIN)))) == 4
    finally:
        with admin(url).begin() as connection:
            connection.exec_driver_sql(change.format("grant", "to"))
    assert error.code == Code.REGISTRY_MISSING and "may not read" in error.found


@pytest.mark.federation
def test_a_table_of_another_form_is_refused(url: URL, caplog: pytest.LogCaptureFixture) -> None:
    with admin(url).begin() as connection:
        connection.exec_driver_sql("create schema other")
        connection.exec_driver_sql("create table other.person (id int)")
    error = refusal(config(schema="other"), caplog)
    assert error.code == Code.REGISTRY_COLUMN and "table other.person has no person_id, year_of_birth" in error.found


def test_another_database_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "cdm.sqlite").touch()
    monkeypatch.setenv(VARIABLE, f"sqlite:///{tmp_path}/cdm.sqlite")
    with pytest.raises(FedReasonError, match=r"E308.*PostgreSQL alone, not from sqlite"):
        open_omop(VARIABLE, config(), name=NAME)


@pytest.mark.federation
def test_everything_is_read_in_a_transaction_that_cannot_write(url: URL, caplog: pytest.LogCaptureFixture) -> None:
    """The superuser reads a view that would write: the transaction alone keeps it from doing so."""
    with admin(url).begin() as connection:
        connection.exec_driver_sql("create schema trap")
        connection.exec_driver_sql("create table trap.caught (at text)")
        connection.exec_driver_sql(
            "create function trap.writes() returns int language sql as "
            "$$ insert into trap.caught values ('x') returning 1 $$"
        )
        connection.exec_driver_sql("create view trap.person as select * from cdm.person")
        connection.exec_driver_sql(
            "create view trap.visit_occurrence as select visit_occurrence_id, person_id, trap.writes() as "
            "visit_concept_id, visit_start_date, visit_end_date from cdm.visit_occurrence"
        )

    def caught() -> int:
        with admin(url).connect() as connection:
            return int(connection.exec_driver_sql("select count(*) from trap.caught").scalar_one())

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, url.render_as_string(hide_password=False))
        error = refusal(config(schema="trap"), caplog)
        assert error.code == Code.REGISTRY_QUERY and "would write" in error.found
        assert caught() == 0
        patch.setattr("client.registry.sql._SNAPSHOT", {})
        assert len(rows(config(schema="trap"))) == 4


# --- to patients


@pytest.mark.federation
def test_a_draft_describes_every_column_by_names_of_the_vocabulary(url: URL) -> None:
    site = config(
        asked("condition", PNEUMONIA, name="any_pneumonia"),
        asked("drug", VANCOMYCIN, 1, name="first_antibiotic", hours=24),
        asked("measurement", CREATININE, name="creatinine", value="max", unit=MG),
        asked("measurement", CULTURE, name="blood_culture", value="last", coded=True),
        vocabulary="words",
        visits=[9201, 9202],
    )
    drafted = tomllib.loads(draft_codebook(VARIABLE, site, name=NAME))
    described = {feature["name"]: feature for feature in drafted["features"]}
    assert [described[column.name]["label"] for column in site.columns] == [
        "Pneumonia", "First antibiotic", "Creatinine, highest", "Blood culture, last"
    ]  # fmt: skip
    assert described["creatinine"]["unit"] == "milligram per deciliter"
    assert described["visit"]["categories"] == {"9201": "Inpatient Visit", "9202": "9202"}
    with pytest.raises(ValidationError, match="creatinine needs low < high"):
        Codebook.model_validate(drafted)
    assert described["creatinine"]["scale"] == "log" and "scale" not in described["age"]
    described["creatinine"] |= {"low": 0.1, "high": 30, "step": 1.2, "decimals": 1}
    codebook = Codebook.model_validate(drafted)
    assert codebook.later == {"any_pneumonia", "creatinine", "blood_culture", "length_of_stay", "died"}
    registry = registry_from(open_omop(VARIABLE, site, name=NAME), codebook)
    assert {patient.id: len(patient.records) for patient in registry.patients} == {"1": 2, "2": 1, "3": 1}
    assert registry.patients[0].records[1].values["creatinine"] == "2.5"
    assert SENTINEL not in str([dict(record.values) for patient in registry.patients for record in patient.records])
