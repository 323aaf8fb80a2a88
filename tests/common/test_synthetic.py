"""Claims about the synthetic registry."""

import csv
from pathlib import Path
from random import Random

import pytest

from common.codebook import check_references, load_codebook
from common.errors import FedReasonError
from common.feature import OTHER
from common.questions.question import Patient, QuestionMaker
from common.stream import Stream
from common.synthetic import CORE, EVIDENCE, GAP, HOSPITALS, KEPT, codebook, public_patient, registry, write_registry
from common.synthetic.codebook import COMORBIDITY_POINTS, SHORT_LIST, SOFA
from common.synthetic.patient import local_treatment

DEMO = ("north", "south", "west")
ROWS = {hospital: registry(hospital, 300, seed=7) for hospital in HOSPITALS}
EVERY_ROW = [row for rows in ROWS.values() for row in rows]


def shown(row: dict[str, str]) -> Patient:
    """Patient as questions see it."""
    texts = {f.name: f.shown(row[f.name]) for f in codebook().features if row[f.name]}
    return Patient(row["patient_id"], {name: text for name, text in texts.items() if text is not None})


def mean(hospital: str, name: str) -> float:
    """Mean of the measured values."""
    values = [float(row[name]) for row in ROWS[hospital] if row[name]]
    return sum(values) / len(values)


def share(rows: list[dict[str, str]], name: str, value: str) -> float:
    """Share of the rows with this value."""
    return sum(row[name] == value for row in rows) / len(rows)


def test_equal_seeds_give_equal_registries_and_others_do_not():
    assert registry("south", 20, 3) == registry("south", 20, 3)
    assert registry("south", 20, 3) != registry("south", 20, 4)


def test_a_longer_registry_begins_with_the_shorter_one():
    assert registry("west", 30, 3)[:10] == registry("west", 10, 3)


def test_patients_have_unique_ids_over_hospitals_and_seeds():
    ids = [row["patient_id"] for row in EVERY_ROW] + [row["patient_id"] for row in registry("north", 300, 8)]
    assert len(set(ids)) == len(ids)
    assert "north-7-00042" in ids


def test_an_unknown_hospital_is_refused():
    with pytest.raises(FedReasonError, match="no synthetic hospital 'nowhere'"):
        registry("nowhere", 1, 0)


def test_the_codebook_is_wide_and_consistent():
    check_references(codebook(), "the synthetic codebook")
    assert len(codebook().features) >= 60
    assert len({feature.section for feature in codebook().features}) >= 8


def test_every_cell_is_one_that_the_codebook_describes():
    for row in EVERY_ROW:
        assert set(row) == {"patient_id", *codebook().by_name}
        for feature in codebook().features:
            assert not row[feature.name] or feature.shown(row[feature.name]) not in (None, OTHER), feature.name


def test_core_values_are_never_missing_and_others_sometimes_are():
    assert all(row[name] for row in EVERY_ROW for name in CORE)
    others = [name for name in codebook().by_name if name not in (*CORE, "hospital_outcome")]
    assert 0.02 < sum(not row[name] for row in EVERY_ROW for name in others) / len(EVERY_ROW) / len(others) < 0.2


def test_the_codebook_and_registry_survive_their_files(tmp_path: Path):
    write_registry(tmp_path / "site", "north", 25, 7)
    assert load_codebook(tmp_path / "site" / "codebook.toml").sha256 == codebook().sha256
    with (tmp_path / "site" / "registry.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == registry("north", 25, 7)


def test_the_hospitals_of_the_demo_share_no_pathogen():
    seen = [{row["pathogen"] for row in ROWS[hospital]} for hospital in DEMO]
    assert [len(own) for own in seen] == [4, 4, 4]
    assert set.union(*seen) == set(SHORT_LIST)
    assert {row["pathogen"] for row in ROWS["coast"]} == set(SHORT_LIST)


def test_hospitals_differ_in_focus_severity_age_resistance_and_what_they_measure():
    assert mean("north", "sofa_total") + 2 < mean("south", "sofa_total") < mean("west", "sofa_total") - 2
    assert mean("east", "age") > mean("coast", "age") + 5
    assert share(ROWS["north"], "focus", "lung") > 0.6 > 0.2 > share(ROWS["south"], "focus", "lung")
    assert share(ROWS["north"], "resistance", "none") > share(ROWS["west"], "resistance", "none") + 0.1
    assert all(not row["procalcitonin"] for row in ROWS["north"])
    assert any(row["procalcitonin"] for row in ROWS["west"])


@pytest.mark.parametrize(
    ("score", "evidence", "points"),
    [
        ("sofa_coagulation", "platelets", lambda x: sum(x < cut for cut in (150, 100, 50, 20))),
        ("sofa_liver", "bilirubin", lambda x: sum(x >= cut for cut in (1.2, 2.0, 6.0, 12.0))),
        ("sofa_renal", "creatinine", lambda x: sum(x >= cut for cut in (1.2, 2.0, 3.5, 5.0))),
        ("sofa_cns", "gcs", lambda x: sum(x <= cut for cut in (14, 12, 9, 5))),
        ("sofa_respiratory", "pf_ratio", lambda x: sum(x < cut for cut in (400, 300, 200, 100))),
    ],
)
def test_sofa_points_follow_from_the_measurement(score, evidence, points):
    assert all(row[score] == str(points(float(row[evidence]))) for row in EVERY_ROW)


def test_cardiovascular_points_follow_from_pressure_and_vasopressor():
    complete = [row for row in EVERY_ROW if row["sofa_cardiovascular"] and row["norepinephrine"]]
    for row in complete:
        dose, points = float(row["norepinephrine"]), row["sofa_cardiovascular"]
        assert points == (("4" if dose > 0.1 else "3") if dose else str(int(float(row["map"]) < 70)))


def test_the_sofa_total_is_the_sum_of_its_points():
    complete = [row for row in EVERY_ROW if all(row[name] for name in (*SOFA, "sofa_total"))]
    assert len(complete) > 1000
    assert all(int(row["sofa_total"]) == sum(int(row[name]) for name in SOFA) for row in complete)


def test_the_charlson_index_adds_up():
    complete = [row for row in EVERY_ROW if all(row[name] for name in ("charlson", *COMORBIDITY_POINTS))]
    assert len(complete) > 500
    for row in complete:
        by_age = min(4, max(0, (float(row["age"]) - 40) // 10))
        points = sum(by_value.get(row[name], 0) for name, by_value in COMORBIDITY_POINTS.items())
        assert float(row["charlson"]) == by_age + points


def test_septic_shock_is_a_vasopressor_with_raised_lactate():
    for row in EVERY_ROW:
        if row["septic_shock"] and row["vasopressor"]:
            shock = row["vasopressor"] == "yes" and float(row["lactate"]) > 2
            assert (row["septic_shock"] == "yes") == shock


def test_death_is_likelier_with_organ_failure_and_an_inactive_antibiotic():
    scored = [row for row in EVERY_ROW if row["sofa_total"]]
    mild = [row for row in scored if int(row["sofa_total"]) <= 5]
    grave = [row for row in scored if int(row["sofa_total"]) >= 10]
    assert share(grave, "hospital_outcome", "died") > share(mild, "hospital_outcome", "died") + 0.2
    active = {flag: [r for r in grave if r["antibiotic_appropriate"] == flag] for flag in ("yes", "no")}
    assert share(active["no"], "hospital_outcome", "died") > share(active["yes"], "hospital_outcome", "died")


def test_outcome_questions_show_nothing_known_later():
    later = {codebook().by_name[name].label for name in codebook().later}
    maker = QuestionMaker(codebook(), "full")
    asked = set()
    for row in EVERY_ROW[::20]:
        patient = shown(row)
        for task in maker.tasks:
            if task not in maker.items(patient):
                continue
            question = maker.make(patient, task, Stream.named("later", row["patient_id"]))
            if question:
                asked.add(task)
                assert not {line.split(": ")[0].split(" (")[0] for line in question.record} & later
                assert "[Course]" not in question.record and "[Outcome]" not in question.record
    assert asked == {"mortality", "kidney_injury", "next_lactate"}


def test_core_questions_show_the_evidence_that_decides_them():
    maker = QuestionMaker(codebook(), "core")
    patient = shown(EVERY_ROW[0])
    for item, evidence in EVIDENCE.items():
        question = maker.make(patient, item, Stream.named("evidence", item))
        assert question and any(line.startswith(f"{codebook().by_name[evidence].short}: ") for line in question.record)
        assert len([line for line in question.record if not line.startswith("[")]) == len(CORE)
    assert set(GAP) | set(KEPT) == set(EVIDENCE)


def test_the_hospitals_follow_one_practice_that_public_patients_do_not():
    random = Random(1)
    public = [public_patient(random) for _ in range(3000)]
    practice = {pathogen: _most_common(pathogen) for pathogen in SHORT_LIST}
    followed = [row["antibiotic"] == practice[row["pathogen"]] for row in EVERY_ROW]
    assert sum(followed) / len(followed) > 0.88
    for pathogen, drug in practice.items():
        drugs = [values["antibiotic"] for values in public if values["pathogen"] == pathogen]
        assert 0.2 < drugs.count(drug) / len(drugs) < 0.47


def test_public_patients_are_treated_from_the_short_lists_alone():
    random = Random(2)
    for _ in range(500):
        values = public_patient(random)
        assert tuple(values) == CORE
        assert all(values[item.feature] in item.options(values) for item in codebook().short_lists)


def test_the_short_lists_do_not_tell_the_practice_by_their_order():
    assert all(list(drugs) == sorted(drugs) for drugs in SHORT_LIST.values())


def test_one_local_choice_in_ten_departs_from_practice():
    random = Random(3)
    values = public_patient(random)
    drawn = [local_treatment(random, values)["antibiotic"] for _ in range(4000)]
    # 0.9 adhere, and a seventh of the rest chooses the same drug.
    assert abs(max(map(drawn.count, set(drawn))) / len(drawn) - (0.9 + 0.1 / 7)) < 0.015


def _most_common(pathogen: str) -> str:
    drugs = [row["antibiotic"] for row in EVERY_ROW if row["pathogen"] == pathogen]
    return max(set(drugs), key=drugs.count)
