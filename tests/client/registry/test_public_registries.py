"""The codebooks of the open registries on their real tables: all loads, nothing leaks, the sites are real ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest

from client.registry.delimited import read_delimited
from client.registry.load import Registry, registry_from
from client.registry.table import Table
from client.site.opened import open_registry
from common.codebook import Codebook, load_codebook
from common.config import RunConfig, load_config
from common.errors import Code, FedReasonError
from common.questions.choices import codebook_choices
from common.questions.question import Patient, Question, QuestionMaker, label_of
from common.stream import Stream
from simulation.partition import Row, column_sites, whole_patients
from simulation.prepare import POOLED, prepare
from tests.paths import DATA, ROOT

TABLES = {
    "physionet2019": DATA / "physionet2019" / "physionet2019_wide_dev.csv",
    "eicu": DATA / "eicu_demo" / "eicu_wide.csv",
    "heart-failure": DATA / "heart_failure" / "S1Data.csv",
}
HOSPITALS = DATA / "eicu_demo" / "hospital.csv"

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(
        not all(path.exists() for path in TABLES.values()), reason="the open registries are not on this machine"
    ),
]
every_registry = pytest.mark.parametrize("name", TABLES)


@cache
def codebook_of(name: str) -> Codebook:
    return load_codebook(ROOT / "configs" / "registries" / f"{name}.toml")


@cache
def registry_of(name: str) -> Registry:
    return registry_from(read_delimited(TABLES[name]), codebook_of(name))


def rows_of(path: Path) -> list[Row]:
    table = read_delimited(path)
    return [dict(zip(table.columns, cells, strict=True)) for _, cells in table.rows]


def table_of(rows: Sequence[Row]) -> Table:
    return Table("rows", tuple(rows[0]), iter([(i, list(row.values())) for i, row in enumerate(rows, start=2)]))


def records_of(name: str) -> list[Patient]:
    return [record for patient in registry_of(name).patients for record in patient.records]


def questions(codebook: Codebook, patients: Sequence[Patient], item: str) -> Iterator[Question]:
    maker = QuestionMaker(codebook, "full")
    for patient in patients:
        question = maker.make(patient, item, Stream.named(patient.id, item))
        if question is not None:
            yield question


def shows(question: Question, codebook: Codebook, name: str) -> bool:
    label = label_of(codebook.by_name[name], codebook.view("full")) + ":"
    return any(line.startswith(label) for line in question.record)


@pytest.mark.parametrize(
    ("name", "patients", "records", "left_out"),
    [("physionet2019", 4044, 4044, 4), ("eicu", 1462, 2024, 25), ("heart-failure", 299, 299, 0)],
)
def test_every_row_loads(name: str, patients: int, records: int, left_out: int) -> None:
    report = registry_of(name).report
    assert (report.patients, report.records, report.ignored_columns) == (patients, records, left_out)
    assert report.without_values == 0


@every_registry
def test_every_cell_is_a_number_a_word_or_a_listed_category(name: str) -> None:
    report = registry_of(name).report
    assert (report.unreadable, report.unlisted) == ({}, {})


@every_registry
def test_every_feature_is_measured_and_under_two_percent_lie_outside_the_bounds(name: str) -> None:
    report = registry_of(name).report
    shares = {feature: count / (count + report.measured[feature]) for feature, count in report.outside.items()}
    shares.pop("Calcium_first24", None)  # see the next test
    assert min(report.measured.values()) > 100
    assert max(shares.values(), default=0) < 0.02, shares


def test_what_the_bounds_of_calcium_leave_out_is_ionised_calcium_of_one_hospital_system() -> None:
    low = codebook_of("physionet2019").by_name["Calcium_first24"].low
    assert low is not None
    rows = [row for row in rows_of(TABLES["physionet2019"]) if row["Calcium_first24"]]
    below = [row for row in rows if float(row["Calcium_first24"]) < low]
    assert {row["hospital"] for row in below} == {"B"} and len(below) > 0.05 * len(rows)
    assert all(0.9 <= float(row["Calcium_first24"]) <= 2.5 for row in below)


@every_registry
def test_what_is_ignored_is_there_and_without_that_line_it_is_refused(name: str) -> None:
    columns = read_delimited(TABLES[name]).columns
    codebook = codebook_of(name)
    for pattern in codebook.ignored:
        assert any(fnmatchcase(column, pattern) for column in columns), pattern
        fewer = [other for other in codebook.ignored if other != pattern]
        with pytest.raises(FedReasonError) as caught:
            registry_from(read_delimited(TABLES[name]), codebook.model_copy(update={"ignored": tuple(fewer)}))
        assert caught.value.code == Code.REGISTRY_UNDESCRIBED


@every_registry
@pytest.mark.parametrize("view", ["full", "bedside"])
def test_every_patient_is_asked_something_by_labels_that_tell_features_apart(name: str, view: str) -> None:
    codebook = codebook_of(name)
    maker = QuestionMaker(codebook, view)
    labels = [label_of(codebook.by_name[feature], maker.view) for feature in maker.view.features]
    assert len(set(labels)) == len(labels)
    assert view == "full" or max(map(len, labels)) <= 12
    for patient in registry_of(name).patients:
        asked = maker.draw(patient, 2, Stream.named(patient.id, view))
        assert asked and all(len(question.choices) >= 2 for question in asked)


@every_registry
def test_sections_are_not_begun_twice(name: str) -> None:
    codebook = codebook_of(name)
    for view in ("full", "bedside"):
        sections = [codebook.by_name[feature].section for feature in codebook.view(view).features]
        begun = [section for i, section in enumerate(sections) if i == 0 or section != sections[i - 1]]
        assert len(set(begun)) == len(begun)


@every_registry
def test_what_is_asked_has_distractors_five_choices_where_it_is_a_number_that_is_asked(name: str) -> None:
    for feature in codebook_of(name).features:
        texts = [record.values[feature.name] for record in records_of(name) if feature.name in record.values]
        for i, text in enumerate(texts[:300] if feature.asked else []):
            choices = codebook_choices(feature, text, Stream.named(feature.name, i))
            assert len(choices) in (0, 5) if feature.kind == "numeric" else len(choices) >= 2, feature.name


@pytest.mark.parametrize(
    ("name", "task", "later"),
    [
        ("physionet2019", "sepsis", {"sepsis", "sepsis_label_iculos", "hours_recorded"}),
        ("eicu", "hospital_mortality", {"hospital_death", "sepsis", "actualiculos", "actualventdays"}),
        ("eicu", "sepsis", {"hospital_death", "sepsis", "actualiculos", "actualventdays"}),
        ("heart-failure", "death", {"Event", "TIME"}),
    ],
)
def test_an_outcome_question_shows_nothing_that_is_known_later(name: str, task: str, later: set[str]) -> None:
    codebook = codebook_of(name)
    assert codebook.later == later
    asked = list(questions(codebook, registry_of(name).patients[:300], task))
    assert len(asked) > 250 and len({question.truth for question in asked}) == 2
    assert not [question for question in asked for feature in later if shows(question, codebook, feature)]
    features = [feature.model_copy(update={"known_later": False}) for feature in codebook.features]
    open_book = codebook.model_copy(update={"features": tuple(features), "leak_groups": ()})
    told = Codebook.model_validate(open_book.model_dump())
    assert any(
        shows(question, told, feature)
        for question in questions(told, registry_of(name).patients[:300], task)
        for feature in later
    )


def test_near_duplicates_are_not_shown_beside_what_is_asked() -> None:
    physionet, eicu = codebook_of("physionet2019"), codebook_of("eicu")
    assert physionet.hidden_for("MAP_first24") == {"SBP_first24", "DBP_first24"}
    assert physionet.hidden_for("Hgb_first24") == {"Hct_first24"}
    assert physionet.hidden_for("PaCO2_first24") == {
        "pH_first24",
        "HCO3_first24",
        "BaseExcess_first24",
        "EtCO2_first24",
    }
    assert physionet.hidden_for("SaO2_first24") == {"O2Sat_first24"}
    assert physionet.hidden_for("Bilirubin_total_first24") == {"Bilirubin_direct_first24"}
    assert {"vent", "intubated", "verbal"} <= eicu.hidden_for("ventday1")
    assert {"eyes", "motor", "ventday1"} <= eicu.hidden_for("verbal")


def test_the_sepsis_question_does_not_show_an_admission_diagnosis_of_sepsis() -> None:
    codebook = codebook_of("eicu")
    septic = [patient for patient in registry_of("eicu").patients if patient.values["sepsis"] == "yes"]
    open_book = codebook.model_copy(
        update={"tasks": tuple(t.model_copy(update={"hidden": ()}) for t in codebook.tasks)}
    )
    for book, told in ((codebook, False), (open_book, True)):
        asked = questions(book, septic, "sepsis")
        assert any("sepsis" in line.lower() for question in asked for line in question.record) == told


def test_scores_and_predictions_are_nowhere_in_the_codebook() -> None:
    names = codebook_of("eicu").by_name
    assert not [name for name in names if "score" in name or "predicted" in name or "discharge" in name]


def test_minus_one_is_missing_only_where_nobody_can_have_it() -> None:
    codebook = codebook_of("eicu")
    rows = rows_of(TABLES["eicu"])
    assert not [name for name in codebook.by_name for row in rows if row[name] in ("-1", "-1.0")]
    assert sum(row["hospitaladmitoffset"] == "-1" for row in rows) > 0  # ignored: it means a minute
    unmeasured = [row | {"heartrate": "-1.0", "wbc": "-1"} for row in rows]
    report = registry_from(table_of(unmeasured), codebook).report
    assert (report.measured["heartrate"], report.measured["wbc"]) == (0, 0)
    assert not {"heartrate", "wbc"} & {*report.outside, *report.unreadable}
    base_excess = Counter(record.values.get("BaseExcess_first24") for record in records_of("physionet2019"))
    assert base_excess["-1"] > 50


@pytest.mark.parametrize(
    ("name", "age", "written", "count"), [("physionet2019", "Age", 100, 29), ("eicu", "age", 90, 78)]
)
def test_ages_that_the_source_does_not_tell_are_words(name: str, age: str, written: float, count: int) -> None:
    assert sum(row[age] != "" and float(row[age]) == written for row in rows_of(TABLES[name])) == count
    shown = Counter(record.values.get(age) for record in records_of(name))
    assert shown["90 or over"] == count and not shown.keys() & {"100", "91"}


def test_a_patient_of_several_unit_stays_is_one_patient_and_a_question_shows_one_stay() -> None:
    registry = registry_of("eicu")
    patient = max(registry.patients, key=lambda patient: len(patient.records))
    assert len(patient.records) == 24
    ages = {record.values["unitvisitnumber"] for record in patient.records}
    shown = set()
    for i in range(100):
        question = QuestionMaker(codebook_of("eicu"), "full").make(patient, "gender", Stream.named(i))
        assert question is not None
        lines = [line for line in question.record if line.startswith("Number of this unit stay")]
        assert len(lines) == 1
        shown.add(lines[0].rpartition(" ")[2])
    assert shown == ages and len(shown) > 1


def test_codes_of_heart_failure_mean_what_its_publication_counts() -> None:
    counts = {
        name: Counter(record.values[name] for record in records_of("heart-failure"))
        for name in ("Gender", "Smoking", "Diabetes", "BP", "Anaemia", "Event")
    }
    assert counts["Gender"] == {"male": 194, "female": 105}  # Ahmad et al. 2017, table 1
    yes = [counts[name]["yes"] for name in ("Smoking", "Diabetes", "BP", "Anaemia")]
    assert (yes, counts["Event"]["died"]) == ([96, 125, 105, 129], 96)


def test_filled_in_means_of_heart_failure_count_as_missing_for_one_of_them_tells_the_outcome() -> None:
    measured = registry_of("heart-failure").report.measured
    filled = {name: 299 - measured[name] for name in ("Pletelets", "CPK", "Creatinine")}
    assert filled == {"Pletelets": 25, "CPK": 47, "Creatinine": 8}
    rows = rows_of(TABLES["heart-failure"])
    died = [float(row["Creatinine"]) for row in rows if row["Event"] == "1"]
    assert round(sum(died) / len(died), 1) == 1.8
    assert {row["Event"] for row in rows if row["Creatinine"] == "1.83"} == {"1"}


def test_physionet_splits_into_hospital_by_unit() -> None:
    sites = column_sites(rows_of(TABLES["physionet2019"]), "hospital", "Unit1")
    sizes = {name: len(rows) for name, rows in sites.items()}
    assert sizes == {"A-0.0": 561, "A-1.0": 569, "A-unknown": 946, "B-0.0": 670, "B-1.0": 680, "B-unknown": 618}
    sepsis = [sum(row["sepsis"] == "1" for row in rows) / len(rows) for rows in sites.values()]
    assert max(sepsis) > 3 * min(sepsis)


def test_eicu_splits_into_region_by_beds_with_nobody_at_two_sites() -> None:
    hospitals = {row["hospitalid"]: row for row in rows_of(HOSPITALS)}
    joined = [row | hospitals[row["hospitalid"]] for row in rows_of(TABLES["eicu"])]
    assert joined == rows_of(TABLES["eicu"])

    def split(rows: Sequence[Row]) -> dict[str, list[Row]]:
        return column_sites(rows, "region", "numbedscategory")

    sites = whole_patients(joined, "uniquepid", split)
    assert {"Midwest-100", "Midwest-100-249", "South-500", "West-unknown", "unknown-unknown"} <= sites.keys()
    assert len(sites) == 23 and sum(map(len, sites.values())) == 2024
    at = Counter(pid for rows in sites.values() for pid in {row["uniquepid"] for row in rows})
    assert max(at.values()) == 1 and len(at) == 1462
    at = Counter(pid for rows in split(joined).values() for pid in {row["uniquepid"] for row in rows})
    assert max(at.values()) == 2


@pytest.mark.parametrize(("name", "patients", "records"), [("physionet2019", 4044, 4044), ("eicu", 1462, 2024)])
def test_a_simulation_lays_out_the_natural_sites_and_pools_them_whole(
    name: str, patients: int, records: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDREASON_DATA", str(DATA))
    config, codebook = load_config(ROOT / "configs" / f"{name}.toml")
    folders = prepare(config, codebook, tmp_path, base=ROOT / "configs")
    at = {patient.id: patient for folder in folders.values() for patient in open_registry(folder).registry.patients}
    pooled = open_registry(tmp_path / POOLED / POOLED).registry
    assert (pooled.report.patients, pooled.report.records, len(at)) == (patients, records, patients)
    for patient in pooled.patients:
        assert [dict(record.values) for record in patient.records] == [dict(r.values) for r in at[patient.id].records]


def test_rows_without_identifiers_are_not_simulated(tmp_path: Path) -> None:
    simulation = {"registry": str(TABLES["heart-failure"])}
    config = RunConfig.model_validate(
        {
            "name": "heart",
            "federation": {"name": "heart", "rounds": 1, "sites": 2, "population": 100, "sampling_rate": 0.1},
            "optimizer": {"learning_rate": 1e-3},
            "simulation": simulation,
        }
    )
    with pytest.raises(FedReasonError, match="names no patient") as caught:
        prepare(config, codebook_of("heart-failure"), tmp_path)
    assert caught.value.code == Code.CONFIG_VALUE
