"""The codebook of SUPPORT2 on the real table: everything loads, nothing leaks, nearly everything can be asked."""

from __future__ import annotations

from collections import Counter

import pytest

from client.registry.delimited import read_delimited
from client.registry.load import Registry, registry_from
from common.codebook import Codebook, load_codebook
from common.questions.choices import codebook_choices
from common.questions.question import QuestionMaker, label_of
from common.stream import Stream
from simulation.partition import dirichlet_sites
from tests.paths import DATA, ROOT

SUPPORT2 = DATA / "support2"
SEPSIS = SUPPORT2 / "support2_sepsis_dev.csv"

pytestmark = [pytest.mark.real_data, pytest.mark.skipif(not SEPSIS.exists(), reason="SUPPORT2 is not on this machine")]


@pytest.fixture(scope="module")
def codebook() -> Codebook:
    return load_codebook(ROOT / "configs" / "registries" / "support2.toml")


@pytest.fixture(scope="module", params=["support2_sepsis_dev.csv", "support2_other_dev.csv"])
def registry(request: pytest.FixtureRequest, codebook: Codebook) -> Registry:
    return registry_from(read_delimited(SUPPORT2 / request.param), codebook)


def test_every_patient_of_the_sepsis_group_loads(codebook: Codebook) -> None:
    report = registry_from(read_delimited(SEPSIS), codebook).report
    assert (report.patients, report.without_values, report.ignored_columns) == (2801, 0, 6)


def test_every_cell_is_a_number_or_a_listed_category(registry: Registry) -> None:
    assert (registry.report.unreadable, registry.report.unlisted) == ({}, {})


def test_every_feature_is_measured_and_under_two_percent_lie_outside_the_bounds(registry: Registry) -> None:
    report = registry.report
    shares = {name: report.outside.get(name, 0) / max(1, count) for name, count in report.measured.items()}
    assert min(report.measured.values()) > 0.1 * report.patients
    assert max(shares.values()) < 0.02, shares


def test_every_column_is_described_or_ignored_for_a_reason(codebook: Codebook) -> None:
    columns = set(read_delimited(SEPSIS).columns)
    assert columns == {codebook.patient, *codebook.by_name, *codebook.ignored}


def test_outcomes_and_predictions_are_known_later_or_left_out(codebook: Codebook) -> None:
    outcomes = {"death", "hospdead", "d.time", "sfdm2", "slos", "dnr", "dnrday", "avtisst"}
    assert codebook.later == outcomes | {"charges", "totcst", "totmcst"}
    assert {"surv2m", "surv6m", "prg2m", "prg6m"} <= set(codebook.ignored)


def test_an_outcome_question_shows_nothing_that_is_known_later(codebook: Codebook, registry: Registry) -> None:
    maker = QuestionMaker(codebook, "full")
    outcomes = [*maker.tasks, *(name for name in codebook.later if codebook.by_name[name].ask)]
    assert {"hospital_mortality", "function_at_2_months", "slos"} <= set(outcomes)
    asked: Counter[str] = Counter()
    for patient in registry.patients[:300]:
        for item in maker.items(patient):
            if item not in outcomes:
                continue
            question = maker.make(patient, item, Stream.named(patient.id, item))
            if question is None:
                assert codebook.by_name[maker.feature_of(item).name].kind == "numeric"
                continue
            forbidden = codebook.later - ({item} if item not in maker.tasks else set())
            labels = [label_of(codebook.by_name[name], maker.view) + ":" for name in forbidden]
            assert not [line for line in question.record if line.startswith(tuple(labels))]
            asked[item] += 1
    assert min(asked[item] for item in outcomes) > 100


def test_the_outcome_check_can_fail(codebook: Codebook) -> None:
    content = codebook.model_dump() | {"leak_groups": ()}
    for feature in content["features"]:
        feature["known_later"] = False
    open_book = Codebook.model_validate(content)
    maker = QuestionMaker(open_book, "full")
    patient = registry_from(read_delimited(SEPSIS), open_book).patients[0]
    question = maker.make(patient, "hospital_mortality", Stream.named(1))
    assert question is not None and any(line.startswith("Hospital charges") for line in question.record)


def test_near_duplicates_are_not_shown_beside_what_is_asked(codebook: Codebook) -> None:
    assert {"adlp", "adlsc"} <= codebook.hidden_for("adls")
    assert {"ca", "diabetes", "dementia"} <= codebook.hidden_for("num.co")
    physiology = set(codebook.views["bedside"].features) - {"age", "sex", "num.co"}
    assert len(physiology) == 14
    assert all(codebook.hidden_for(name) == {"aps", "sps"} for name in physiology)


def test_what_can_be_asked_is_asked_of_nearly_all_patients(codebook: Codebook, registry: Registry) -> None:
    for feature in codebook.features:
        if not feature.ask:
            continue
        shown = [(p.id, p.values[feature.name]) for p in registry.patients if feature.name in p.values]
        few = sum(len(codebook_choices(feature, text, Stream.named(id_, feature.name))) < 2 for id_, text in shown)
        assert few <= (0.25 if feature.kind == "numeric" else 0.01) * len(shown), feature.name


def test_the_bedside_view_asks_every_patient_something(codebook: Codebook, registry: Registry) -> None:
    maker = QuestionMaker(codebook, "bedside")
    for patient in registry.patients:
        questions = maker.draw(patient, 4, Stream.named(patient.id))
        assert len(questions) == 4
        assert all(len(question.choices) >= 2 for question in questions)


def test_five_unlike_sites_hold_every_patient_once(codebook: Codebook) -> None:
    table = read_delimited(SEPSIS)
    rows = [dict(zip(table.columns, cells, strict=True)) for _, cells in table.rows]
    sites = dirichlet_sites(rows, ["hospdead", "age", "sex"], 5, 0.5, 0)
    assert sorted(row["id"] for part in sites.values() for row in part) == sorted(row["id"] for row in rows)
    mortality = [sum(row["hospdead"] == "1" for row in part) / len(part) for part in sites.values()]
    assert max(mortality) - min(mortality) > 0.1
