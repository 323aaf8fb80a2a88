"""What is refused of an OMOP CDM and of how a site asks it; nothing of a record is told, and nothing written."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import URL

from client.registry.omop.config import OmopConfig
from client.registry.omop.source import open_omop
from common.errors import Code, FedReasonError
from tests.client.registry.omop.cdm import (
    MG,
    NAME,
    PNEUMONIA,
    VANCOMYCIN,
    VARIABLE,
    admin,
    asked,
    config,
    refusal,
    rows,
)

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
