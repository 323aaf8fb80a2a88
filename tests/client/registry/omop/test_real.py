"""The 100 persons of the MIMIC-IV demo come out of PostgreSQL, through OHDSI's own DDL, as pandas counts them."""

from __future__ import annotations

import csv
import io
import re
import tarfile
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from sqlalchemy import make_url

from client.registry.load import Registry, registry_from
from client.registry.omop.config import OmopConfig
from client.registry.omop.source import open_omop
from common.codebook import Codebook, load_codebook
from common.questions.question import QuestionMaker, label_of
from common.stream import Stream
from tests.paths import DATA, ROOT
from tests.postgres import missing, postgres

ROWS = DATA / "mimic4_omop" / "1_omop_data_csv.tar.xz"
DDL = DATA / "omop_ddl"
VARIABLE = "REGISTRY_URL"
TABLES = ("person", "visit_occurrence", "condition_occurrence", "drug_exposure", "procedure_occurrence", "death")
NEWER = {
    "admitting_source_concept_id": "admitted_from_concept_id",
    "admitting_source_value": "admitted_from_source_value",
    "discharge_to_concept_id": "discharged_to_concept_id",
    "discharge_to_source_value": "discharged_to_source_value",
}
"""Columns of 5.3, in which the rows are, as 5.4 calls them, whose tables these are."""
MEASURED = """
insert into cdm.measurement (measurement_id, person_id, measurement_concept_id, measurement_date, measurement_datetime,
    measurement_type_concept_id, value_as_number, unit_concept_id, visit_occurrence_id)
select visit_occurrence_id + number, person_id, 3016723, visit_start_date,
    visit_start_datetime + number * interval '10 hours', 32817, abs(number - 2) + 0.5,
    case when number = 4 then 8749 else 8840 end, visit_occurrence_id
from cdm.visit_occurrence, generate_series(1, 4) as number where visit_concept_id = 9201
"""
"""Creatinine after 10, 20, 30 and 40 hours: 1.5, 0.5, 1.5 and, in another unit, 2.5; the demo has no measurements."""

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.federation,
    pytest.mark.skipif(not ROWS.exists() or not DDL.exists(), reason="the OMOP demo is not on this machine"),
]


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    """Content of the CSV files by table."""
    with tarfile.open(ROWS) as archive:
        members = {Path(member.name).stem: member for member in archive.getmembers() if member.isfile()}
        return {table: archive.extractfile(members[table]).read().decode() for table in TABLES}  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def frames(files: dict[str, str]) -> dict[str, pd.DataFrame]:
    return {table: pd.read_csv(io.StringIO(text), dtype=str) for table, text in files.items()}


def ddl(part: str) -> str:
    """Return a script of OHDSI, with room for what the demo holds: identifiers of 64 bits and long source values."""
    text = (DDL / f"OMOPCDM_postgresql_5.4_{part}.sql").read_text().replace("@cdmDatabaseSchema", "cdm")
    return re.sub(r"varchar\(\d+\)", "text", re.sub(r"(?i)\binteger\b", "bigint", text))


@pytest.fixture(scope="module")
def database(files: dict[str, str]) -> Iterator[str]:
    """Yield the URL of an account that may read; schema `older` has the columns of 5.3, and no measurements."""
    import psycopg

    if missing():
        pytest.skip(missing())
    with postgres() as text:
        url = make_url(text)
        with psycopg.connect(url.set(drivername="postgresql").render_as_string(hide_password=False)) as connection:
            connection.execute("create schema cdm")
            connection.execute(ddl("ddl"))
            for table, content in files.items():
                header = next(csv.reader(io.StringIO(content)))
                columns = ", ".join(NEWER.get(column, column) for column in header)
                with connection.cursor().copy(f"copy cdm.{table} ({columns}) from stdin with csv header") as copy:
                    copy.write(content)
            connection.execute(MEASURED)
            connection.execute(ddl("primary_keys"))
            connection.execute(ddl("indices"))
            connection.execute("create schema older")
            for table in TABLES:
                connection.execute(f"create table older.{table} as select * from cdm.{table}")
            for old, new in NEWER.items():
                connection.execute(f"alter table older.visit_occurrence rename column {new} to {old}")
            connection.execute("create role reader login password 'reader'")
            for schema in ("cdm", "older"):
                connection.execute(f"grant usage on schema {schema} to reader")
                connection.execute(f"grant select on all tables in schema {schema} to reader")
        yield url.set(username="reader", password="reader").render_as_string(hide_password=False)


@pytest.fixture(autouse=True)
def environment(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, database)


@pytest.fixture(scope="module")
def site() -> OmopConfig:
    """Return the site.toml of docs/omop.md, with all visits."""
    page = (ROOT / "docs" / "omop.md").read_text()
    example = re.search(r"```toml\n(.*?)```", page, re.DOTALL)
    assert example is not None
    registry = tomllib.loads(example[1])["registry"]
    assert registry["url_variable"] == VARIABLE
    return OmopConfig.model_validate(registry["omop"] | {"visits": ()})


@pytest.fixture(scope="module")
def codebook() -> Codebook:
    return load_codebook(ROOT / "configs" / "registries" / "omop.toml")


def read(site: OmopConfig) -> pd.DataFrame:
    table = open_omop(VARIABLE, site, name="cdm")
    return pd.DataFrame([cells for _, cells in table.rows], columns=list(table.columns))


def patients(site: OmopConfig, codebook: Codebook) -> Registry:
    return registry_from(open_omop(VARIABLE, site, name="cdm"), codebook)


def test_every_person_and_visit_comes_once(site: OmopConfig, frames: dict[str, pd.DataFrame]) -> None:
    table = read(site)
    assert (len(table), table.person_id.nunique()) == (852, 100)
    wanted = frames["visit_occurrence"][["visit_occurrence_id", "person_id"]]
    assert set(table[["visit_occurrence_id", "person_id"]].itertuples(index=False)) == set(
        wanted.itertuples(index=False)
    )


def test_fixed_columns_are_those_that_pandas_makes_of_the_files(
    site: OmopConfig, frames: dict[str, pd.DataFrame]
) -> None:
    wanted = frames["visit_occurrence"].merge(frames["person"], on="person_id")
    wanted = wanted.merge(frames["death"][["person_id", "death_date"]], on="person_id", how="left")
    begins, ends = pd.to_datetime(wanted.visit_start_date), pd.to_datetime(wanted.visit_end_date)
    within = pd.to_datetime(wanted.death_date).between(begins, ends)
    expected = pd.DataFrame(
        {
            "visit_occurrence_id": wanted.visit_occurrence_id,
            "age": (begins.dt.year - wanted.year_of_birth.astype(int)).astype(str),
            "gender": wanted.gender_concept_id,
            "race": wanted.race_concept_id,
            "ethnicity": wanted.ethnicity_concept_id,
            "visit": wanted.visit_concept_id,
            "admitted_from": wanted.admitting_source_concept_id,
            "length_of_stay": (ends - begins).dt.days.astype(str),
            "discharged_to": wanted.discharge_to_concept_id,
            "died": within.map({True: "yes", False: "no"}),
        }
    )
    expected = expected.replace("0", "").fillna("").assign(length_of_stay=expected.length_of_stay)
    table = read(site)[list(expected.columns)]
    order = "visit_occurrence_id"
    pd.testing.assert_frame_equal(
        table.sort_values(order, ignore_index=True), expected.sort_values(order, ignore_index=True), check_dtype=False
    )
    assert Counter(table.died) == {"no": 837, "yes": 15}


START = {
    "condition": ("condition_occurrence", "condition_concept_id", "condition_start_datetime"),
    "drug": ("drug_exposure", "drug_concept_id", "drug_exposure_start_datetime"),
    "procedure": ("procedure_occurrence", "procedure_concept_id", "procedure_datetime"),
}


def test_concept_sets_are_found_where_pandas_finds_them(site: OmopConfig, frames: dict[str, pd.DataFrame]) -> None:
    table = read(site).set_index("visit_occurrence_id")
    begins = frames["visit_occurrence"].set_index("visit_occurrence_id").visit_start_datetime
    for column in site.columns:
        name, concept, start = START[column.domain]
        records = frames[name]
        hours = pd.to_datetime(records[start]) - pd.to_datetime(records.visit_occurrence_id.map(begins))
        counts = records[concept].isin([str(number) for number in column.concepts])
        if column.hours is not None:
            counts &= hours < pd.Timedelta(hours=column.hours)
        yes, known = set(records.visit_occurrence_id[counts]), set(records.visit_occurrence_id)
        wanted = {visit: "yes" if visit in yes else "no" if visit in known else "" for visit in table.index}
        assert table[column.name].to_dict() == wanted
        assert len(yes) >= 5, column.name


def test_the_columns_of_the_older_version_give_the_same_rows(site: OmopConfig) -> None:
    older = site.model_copy(update={"schema_": "older"})
    pd.testing.assert_frame_equal(read(older), read(site))


@pytest.mark.parametrize(("value", "number"), [("first", "1.5"), ("last", "1.5"), ("min", "0.5"), ("max", "1.5")])
def test_measurements_of_the_real_tables_are_read_in_their_unit(value: str, number: str) -> None:
    column = {"name": "creatinine", "domain": "measurement", "concepts": [3016723], "value": value, "unit": 8840}
    table = read(OmopConfig.model_validate({"schema": "cdm", "columns": [column]}))
    assert Counter(table.creatinine[table.visit == "9201"]) == {number: 13}
    assert Counter(table.creatinine[table.visit != "9201"]) == {"": 839}
    absent = read(OmopConfig.model_validate({"schema": "older", "columns": [column]}))
    assert Counter(absent.creatinine) == {"": 852}


def test_every_cell_is_described_by_the_codebook(site: OmopConfig, codebook: Codebook) -> None:
    report = patients(site, codebook).report
    assert (report.patients, report.records, report.without_values, report.ignored_columns) == (100, 852, 0, 2)
    assert (report.unreadable, report.outside, report.unlisted) == ({}, {}, {"admitted_from": 1})
    assert min(report.measured.values()) > 100


def test_visits_of_a_person_stay_one_patient(site: OmopConfig, codebook: Codebook) -> None:
    inpatient = site.model_copy(update={"visits": (9201, 262, 8870, 581385, 8883)})
    registry = patients(inpatient, codebook)
    assert sum(len(patient.records) for patient in registry.patients) == 270
    assert len({patient.id for patient in registry.patients}) == len(registry.patients) == 100


def test_questions_are_asked_and_an_outcome_shows_nothing_known_later(site: OmopConfig, codebook: Codebook) -> None:
    maker = QuestionMaker(codebook, "full")
    later = [label_of(codebook.by_name[name], maker.view) + ":" for name in codebook.later]
    asked: Counter[str] = Counter()
    for patient in patients(site, codebook).patients:
        questions = [maker.make(patient, item, Stream.named(patient.id, item)) for item in maker.items(patient)]
        for question in filter(None, questions):
            asked[question.item] += 1
            masked = label_of(maker.feature_of(question.item), maker.view) + ": [MASK]"
            if question.item in ("hospital_mortality", "length_of_stay", "discharged_to", "sepsis"):
                shown = [line for line in question.record if line != masked]
                assert not [line for line in shown if line.startswith(tuple(later))]
    assert asked["hospital_mortality"] == 100 > asked["length_of_stay"] > 50
    assert {"sepsis", "vancomycin", "invasive_ventilation", "age", "discharged_to"} <= set(asked)


def test_the_same_question_would_show_them_were_they_not_marked(site: OmopConfig, codebook: Codebook) -> None:
    content = codebook.model_dump(exclude_defaults=True)
    for feature in content["features"]:
        feature["known_later"] = False
    maker = QuestionMaker(Codebook.model_validate(content), "full")
    for patient in patients(site, codebook).patients:
        question = maker.make(patient, "hospital_mortality", Stream.named(1))
        if question and any(line.startswith("Length of stay") for line in question.record):
            return
    pytest.fail("no question shows the length of the stay")
