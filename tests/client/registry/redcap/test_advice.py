"""What a drafted REDCap codebook tells its reviewer: rows that cannot be read, labels cut short, what comes later."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.registry.load import registry_from
from client.registry.redcap.config import RedcapConfig
from client.registry.redcap.draft import draft_redcap
from client.registry.redcap.labels import asked
from client.registry.redcap.records import open_redcap
from client.registry.table import Table
from client.registry.wording import about_death, known_later, not_clinical
from common.codebook import Codebook, load_codebook
from common.errors import Code, FedReasonError
from common.questions.question import QuestionMaker
from common.stream import Stream
from tests.client.registry.redcap.test_dictionary import SENTINEL, content, counted, drafted, row, written
from tests.paths import DATA

REDCAP = DATA / "redcap"

FAULTY = [
    (row("a", SENTINEL), "'Field Type'"),
    (row("a", ""), "'Field Type'"),
    (row("a", "radio", choices=f"1, {SENTINEL} | 1, b"), "the same code"),
    (row("a", "radio", choices=f"1, {SENTINEL} | b"), "without code and comma"),
    (row("a", "radio", choices=f"1, A|{SENTINEL} assay | 2, none"), "cannot stand within a choice"),
    (row("a", "dropdown", choices=f", {SENTINEL} | 1, b"), "without code and comma"),
    (row("a", "checkbox", choices=f"{SENTINEL} | 1, b"), "without code and comma"),
    (row("a", "checkbox", choices=f"-1, {SENTINEL} | _1, b"), "share a column"),
]


@pytest.mark.parametrize(("bad", "told"), FAULTY)
def test_one_row_that_cannot_be_read_is_named_and_the_others_are_drafted(
    tmp_path: Path, bad: dict[str, str], told: str
) -> None:
    draft, codebook = drafted(tmp_path, row("sex", "yesno"), bad, row("ward", "radio", choices="1, A | 2, B"))
    assert [feature.name for feature in codebook.features] == ["sex", "ward"]
    assert {"a", "a___*"} <= set(codebook.ignored)
    (remark,) = draft.remarks
    assert remark.startswith("E208") and "line 4 (field a)" in remark and told in remark
    assert SENTINEL not in remark + draft.text
    assert counted(draft) == 4


NAMELESS = [
    (row("", label=SENTINEL), "no name of a field"),
    (row(f"1{SENTINEL}"), "no name of a field"),
    (row("a", form=""), "no name of a form"),
    (row("sex", "yesno", label=SENTINEL), "a name that line 3 has given"),
]


@pytest.mark.parametrize(("bad", "told"), NAMELESS)
def test_a_row_without_a_name_of_its_own_is_told_and_the_others_are_drafted(
    tmp_path: Path, bad: dict[str, str], told: str
) -> None:
    draft, codebook = drafted(tmp_path, row("sex", "yesno"), bad, row("ward", "radio", choices="1, A | 2, B"))
    assert [feature.name for feature in codebook.features] == ["sex", "ward"]
    (remark,) = draft.remarks
    assert remark.startswith("E208") and "line 4 " in remark and told in remark and "It is left out" in remark
    assert SENTINEL not in remark + draft.text and counted(draft) == 4
    export = Table("records.csv", ("record_id", "sex", "ward"), iter([]))
    with pytest.raises(FedReasonError) as caught:  # records are not read by it: that row may be an identifier's
        open_redcap(export, RedcapConfig(dictionary=tmp_path / "dictionary.csv"), ["sex"])
    assert caught.value.code is Code.CODEBOOK_SOURCE and "line 4" in caught.value.found


def test_a_dictionary_whose_record_has_no_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text(content([row(""), row("sex", "yesno")]), newline="")
    with pytest.raises(FedReasonError) as caught:
        draft_redcap(tmp_path / "d.csv", title="T")
    assert caught.value.code is Code.CODEBOOK_SOURCE and "line 2" in caught.value.found


@pytest.mark.parametrize("described", ["a", "a___1", "[day_1_arm_1][a]"])
def test_a_codebook_that_describes_a_row_that_cannot_be_read_is_refused_with_the_row(
    tmp_path: Path, described: str
) -> None:
    path = written(tmp_path, row("sex", "yesno"), row("a", "checkbox", choices="1, yes | no"))
    export = Table("records.csv", ("record_id", "redcap_event_name", "sex", "a", "a___1"), iter([]))
    with pytest.raises(FedReasonError) as caught:
        open_redcap(export, RedcapConfig(dictionary=path), ["sex", described])
    assert caught.value.code is Code.CODEBOOK_SOURCE and "line 4 (field a)" in caught.value.found
    assert open_redcap(export, RedcapConfig(dictionary=path), ["sex"]).columns == export.columns


def test_an_identifier_whose_row_cannot_be_read_is_blanked_box_by_box(tmp_path: Path) -> None:
    path = written(tmp_path, row("a", "checkbox", choices="1, yes | no", identifier="y"), row("sex", "yesno"))
    export = Table("r.csv", ("record_id", "a___1", "a___x", "ab", "sex"), iter([(2, ("1", "1", "0", "kept", "1"))]))
    rows = list(open_redcap(export, RedcapConfig(dictionary=path), ["sex"]).rows)
    assert rows == [(2, ["1", "", "", "kept", "1"])]


@pytest.mark.parametrize(
    ("label", "short"),
    [
        ("Is the patient ventilated? Tick yes if by tube or mask.", "Is the patient ventilated?"),
        ("Which systems are affected? (tick all that apply)", "Which systems are affected?"),
        ("Persistent vomiting? (>=2/day)", "Persistent vomiting? (>=2/day)"),
        ("How long did it last? (weeks)", "How long did it last? (weeks)"),
        ("Highest temperature (select units)", "Highest temperature"),
        ("Lactate. Enter the first value of the day", "Lactate"),
        ("Exposure to rodents (e.g. mice, rats)", "Exposure to rodents"),
        ("Bilateral infiltrates (not explained by effusion)", "Bilateral infiltrates (not explained by effusion)"),
        ("ECMO (VV? or VA) given", "ECMO (VV? or VA) given"),
        ("Sepsis (?)", "Sepsis (?)"),
        ("(select one)", "(select one)"),
        ("? unclear", "? unclear"),
    ],
)
def test_a_label_ends_with_what_it_asks(label: str, short: str) -> None:
    assert asked(label) == short


@given(st.text(alphabet="a?.( )[]eg:", max_size=40).map(lambda text: " ".join(text.split())).filter(bool))
def test_a_label_is_cut_at_its_end_alone_and_never_to_nothing(label: str) -> None:
    label = label.rstrip(" :") or "a"
    short = asked(label)
    assert label.startswith(short) and short and asked(short) == short


def test_the_whole_label_and_its_unit_are_kept_for_the_reviewer(tmp_path: Path) -> None:
    number = {"validation": "number", "low": "30", "high": "250"}
    draft, codebook = drafted(
        tmp_path,
        row("weight", label="What is the weight (kg)? Use the bed's scale.", **number),
        row("height", label="Height (cm). Please measure lying down", **number),
    )
    weight, height = codebook.features
    assert (weight.label, weight.unit) == ("What is the weight (kg)?", "kg")
    assert (height.label, height.unit) == ("Height", "cm")
    assert "# Label shortened from: What is the weight (kg)? Use the bed's scale." in draft.text


# --- What the wording says ---


@pytest.mark.parametrize(
    ("wording", "later"),
    [
        ("Deceased within 90 days", "death"),
        ("hospDead", "death"),
        ("hosp_mort", "death"),
        ("Vital status", "death"),
        ("Dead space fraction", None),
        ("Diet", None),
        ("Blood loss (mL)", None),
        ("Destination at discharge", "discharge"),
        ("Discharge from wound?", "discharge"),  # in doubt it is hidden, and a person takes it back
        ("Length of ICU stay", "discharge"),
        ("mRS at 3 months", "a time afterwards"),
        ("status_90d", "a time afterwards"),
        ("Surgery within the last 3 months", None),
        ("Symptoms within 14 days", None),
        ("Age in years", None),
        ("month_3_arm_1", "a time afterwards"),
        ("day_1_arm_1", None),
        ("follow_up_arm_1", "follow-up"),
        ("Readmission", "follow-up"),
        ("End of study", "outcome"),
    ],
)
def test_wording_tells_what_is_known_later(wording: str, later: str | None) -> None:
    assert known_later(wording) == later


def test_a_choice_that_tells_of_a_death_makes_its_field_known_later() -> None:
    assert known_later("status", choices=["Home", "Died in hospital"]) == "death"
    assert about_death("status", choices=["alive", "not alive"])
    assert known_later("contact", choices=["Hunting", "Dead animals", "Touching dead birds"]) is None
    assert known_later("Age units", choices=["Years", "Months"]) is None


@pytest.mark.parametrize(
    ("wording", "of"),
    [
        ("Consent obtained", "consent"),
        ("inclusion_criteria", "administration"),
        ("Total hospital charges", "money"),
        ("Research samples taken", "samples"),
        ("Blood culture positive", None),
        ("Oxygen saturation", None),
    ],
)
def test_wording_tells_what_is_not_clinical(wording: str, of: str | None) -> None:
    assert not_clinical(wording) == of


def asked_of(codebook: Codebook, values: dict[str, str], item: str) -> Sequence[str]:
    row = [values.get(name, "") for name in codebook.columns]
    (patient,) = registry_from(Table("r", codebook.columns, iter([(2, row)])), codebook).patients
    question = QuestionMaker(codebook, "full").make(patient, item, Stream.named("seed"))
    assert question is not None
    return question.record


def test_no_question_of_a_draft_shows_a_value_beside_one_that_implies_it(tmp_path: Path) -> None:
    _, codebook = drafted(
        tmp_path,
        row("sex", "radio", choices="1, male | 2, female", label="Sex"),
        row("status", "radio", choices="1, went home | 2, died", label="Status"),
        row("d90", "yesno", label="Deceased within 90 days"),
        row("temp_c", validation="number", low="30", high="43", label="Temperature (C)"),
        row("temp_f", validation="number", low="86", high="110", label="Temperature (F)"),
        row("consent", "yesno", label="Consent given"),
        {**row("nyha", "radio", choices="1, I | 2, II", label="NYHA class"), "form": "follow_up"},
    )
    values = {"record_id": "1", "sex": "1", "status": "2", "d90": "1", "temp_c": "38", "temp_f": "100", "nyha": "2"}
    assert codebook.later == {"status", "d90", "nyha"}
    assert not any("Deceased" in line or "NYHA" in line for line in asked_of(codebook, values, "status"))
    assert not any("Status" in line for line in asked_of(codebook, values, "d90"))
    assert not any("Temperature (F)" in line for line in asked_of(codebook, values, "temp_c"))
    assert any("Sex" in line for line in asked_of(codebook, values, "status"))
    assert not codebook.by_name["consent"].asked


def test_what_is_measured_at_a_later_event_is_proposed_as_known_later(tmp_path: Path) -> None:
    draft, codebook = drafted(
        tmp_path,
        row("lactate", validation="number", low="0", high="30"),
        events=["day_1_arm_1", "month_3_arm_1"],
    )
    assert codebook.later == {"[month_3_arm_1][lactate]"}
    assert "# Proposed by its wording (a time afterwards): known later." in draft.text
    assert draft.remarks == ["Proposed by wording, to review: known_later = true of 1 features"]


@pytest.mark.real_data
@pytest.mark.skipif(not (REDCAP / "ccpuk.csv").is_file(), reason="the REDCap dictionaries are not on this machine")
def test_every_field_of_a_real_outcome_form_is_known_later(tmp_path: Path) -> None:
    from client.registry.redcap.dictionary import read_dictionary
    from client.registry.redcap.draft import draft_redcap

    (tmp_path / "codebook.toml").write_text(draft_redcap(REDCAP / "ccpuk.csv", title="real").text)
    codebook = load_codebook(tmp_path / "codebook.toml")
    outcome = {column for field in read_dictionary(REDCAP / "ccpuk.csv").forms["outcome"] for column in field.columns}
    assert outcome & set(codebook.by_name) <= codebook.later
    assert not any(codebook.by_name[name].asked for name in codebook.by_name if name.startswith("consent_options"))
