"""A CDM 5.3 made here, what a site asks of it, and the cells that it answers."""

from __future__ import annotations

import logging
import traceback
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import URL, Engine, NullPool, create_engine

from client.registry.omop.config import OmopConfig
from client.registry.omop.source import open_omop
from common.errors import FedReasonError

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
    "words.concept": [
        (PNEUMONIA, "Pneumonia"),
        (MG, "milligram per deciliter"),
        (9201, "Inpatient Visit"),
        (9203, "inpatient visit"),
    ],
    "words.concept_ancestor": [(LUNG_DISEASE, LUNG_DISEASE), (LUNG_DISEASE, PNEUMONIA)],
}


def admin(url: URL) -> Engine:
    return create_engine(url, poolclass=NullPool)


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
