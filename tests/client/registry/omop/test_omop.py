"""An OMOP CDM is read as one row a visit: what each column says, and the codebook that is drafted of it."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sqlalchemy import URL

from client.registry.load import registry_from
from client.registry.omop.config import FIXED
from client.registry.omop.draft import draft_codebook
from client.registry.omop.query import DOMAINS
from client.registry.omop.source import open_omop
from common.codebook import Codebook
from common.errors import Code
from tests.client.registry.omop.cdm import (
    ADMITTED,
    CREATININE,
    CULTURE,
    LUNG_DISEASE,
    MG,
    NAME,
    NEGATIVE,
    PNEUMONIA,
    POSITIVE,
    SENTINEL,
    SEPSIS,
    UMOL,
    VANCOMYCIN,
    VARIABLE,
    admin,
    asked,
    cells,
    config,
    refusal,
    rows,
)
from tests.examples import examples

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
@examples(25)
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


# --- to patients


@pytest.mark.federation
def test_a_draft_describes_every_column_by_names_of_the_vocabulary(url: URL) -> None:
    site = config(
        asked("condition", PNEUMONIA, name="any_pneumonia"),
        asked("drug", VANCOMYCIN, 1, name="first_antibiotic", hours=24),
        asked("measurement", CREATININE, name="creatinine", value="max", unit=MG),
        asked("measurement", CULTURE, name="blood_culture", value="last", coded=True),
        vocabulary="words",
        visits=[9201, 9202, 9203],
    )
    drafted = tomllib.loads(draft_codebook(VARIABLE, site, name=NAME, title="Sepsis"))
    assert drafted["title"] == "Sepsis"
    described = {feature["name"]: feature for feature in drafted["features"]}
    assert [described[column.name]["label"] for column in site.columns] == [
        "Pneumonia", "First antibiotic", "Creatinine, highest", "Blood culture, last"
    ]  # fmt: skip
    assert described["creatinine"]["unit"] == "milligram per deciliter"
    inpatient = "Inpatient Visit"
    assert described["visit"]["categories"] == {"9201": inpatient, "9202": "9202", "9203": inpatient}
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
