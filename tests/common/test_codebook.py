"""What a codebook makes of a cell, and what it refuses to describe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from common.codebook import Codebook, load_codebook
from common.errors import FedReasonError
from common.feature import OTHER, Feature
from common.questions.choices import codebook_choices
from common.questions.question import Patient, QuestionMaker
from common.stream import Stream
from common.tasks import Task

CRP = Feature(
    name="crp",
    section="Laboratory",
    label="C-reactive protein",
    kind="numeric",
    unit="mg/L",
    low=0,
    high=600,
    step=20,
    words={"<5": "below 5", "neg": "negative"},
)
ILLNESSES = Feature(
    name="comorbidities",
    section="History",
    label="Comorbidities",
    kind="categorical",
    categories={"1": "hypertension", "2": "diabetes", "3": "stroke", "4": "cancer"},
    separator=";",
)
NOTE = Feature(name="advice", section="Notes", label="Advice", kind="text", known_later=True)


def test_a_word_stands_in_place_of_a_number() -> None:
    assert [CRP.shown(raw) for raw in ("<5", "neg", "12", "positive", "700")] == [
        "below 5",
        "negative",
        "12",
        None,
        None,
    ]


@given(st.integers(-(10**25), 10**25), st.sampled_from(["", ".", ".0", ".000"]), st.integers(0, 3), st.integers(1, 9))
def test_a_whole_number_finds_its_own_code_however_long_and_no_other(
    code: int, point: str, zeros: int, other: int
) -> None:
    texts = {str(code): "sepsis", str(code + other): "other"}
    feature = Feature(name="x", section="s", label="x", kind="categorical", categories=texts)
    written = f"{'-' if code < 0 else ''}{'0' * zeros}{abs(code)}{point}"
    assert feature.shown(written) == "sepsis" and feature.shown(f"{code - other}{point}") == OTHER


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("+1", "one"),
        ("1e0", "one"),
        ("10e-1", "one"),
        (".1e1", "one"),
        ("-0.0", "zero"),
        (".0", "zero"),
        ("1.5", OTHER),
    ],
)
def test_so_does_one_that_is_written_otherwise(written: str, shown: str) -> None:
    one = Feature(name="x", section="s", label="x", kind="categorical", categories={"0": "zero", "1": "one"})
    assert one.shown(written) == shown
    assert one.shown("9" * 6000) == one.shown("1e400") == one.shown("1e18") == OTHER


def test_a_cell_of_several_codes_is_shown_in_the_codebooks_order() -> None:
    assert ILLNESSES.shown("3; 1;3") == "hypertension; stroke"
    assert ILLNESSES.shown("2.0") == "diabetes"
    assert ILLNESSES.shown("2;9") == ILLNESSES.shown(";") == OTHER


@given(codes=st.lists(st.sampled_from("1234"), min_size=1), again=st.randoms())
def test_the_order_of_codes_in_a_cell_is_no_matter(codes: list[str], again: Any) -> None:
    other = codes.copy()
    again.shuffle(other)
    assert ILLNESSES.shown(";".join(codes)) == ILLNESSES.shown(" ; ".join(other))


def test_free_text_is_shown_on_one_line_and_never_asked() -> None:
    assert NOTE.shown(" stop\n meropenem\t") == "stop meropenem"
    book = codebook()
    maker = QuestionMaker(book, "full")
    patient = Patient("p", {"crp": "12", "comorbidities": "stroke", "advice": "stop meropenem"})
    assert maker.items(patient) == ["crp", "comorbidities"]
    question = next(filter(None, (maker.make(patient, "crp", Stream.named(seed)) for seed in range(50))))
    assert "Advice: stop meropenem" in question.record


def test_a_consultation_has_a_reference_and_neither_choices_nor_the_answer_in_its_record() -> None:
    maker = QuestionMaker(codebook(), "full")
    visit = Patient("p", {"crp": "80", "advice": "change to oral"})
    patient = Patient("p", {"crp": "12", "comorbidities": "stroke", "advice": "stop meropenem"}, visits=(visit,))
    assert [(c.record, c.reference) for c in maker.consult(patient)] == [
        (("[Laboratory]", "C-reactive protein (mg/L): 12", "[History]", "Comorbidities: stroke"), "stop meropenem"),
        (("[Laboratory]", "C-reactive protein (mg/L): 80"), "change to oral"),
    ]
    assert "advice" not in maker.weights


def test_a_patients_records_are_asked_alike_and_one_at_a_time() -> None:
    visit = Patient("p", {"crp": "280"})
    patient = Patient("p", {"crp": "212", "comorbidities": "stroke"}, visits=(visit,))
    maker = QuestionMaker(codebook(), "full")
    asked = [maker.make(patient, "crp", Stream.named("visit", number)) for number in range(400)]
    of_visit = sum(question is not None and question.truth == "280" for question in asked)
    assert 150 < of_visit < 250
    assert {len(question.record) for question in asked if question} == {2, 4}
    assert len(maker.draw(patient, 5, Stream.named(1))) == 2


def codebook(**changes: Any) -> Codebook:
    task = Task(name="advice", kind="consultation", feature="advice", question="What would you advise?")
    return Codebook(title="t", patient="id", features=(CRP, ILLNESSES, NOTE), tasks=(task,)).model_copy(update=changes)


@pytest.mark.parametrize(
    ("feature", "change", "why"),
    [
        (CRP, {"separator": ";"}, "has separator"),
        (CRP, {"words": {"5": "5"}}, "shown as a number"),
        (ILLNESSES, {"words": ["x"]}, "has words"),
        (ILLNESSES, {"step": 1}, "has step"),
        (ILLNESSES, {"categories": ["a; b", "c"]}, "which stands between"),
        (ILLNESSES, {"categories": {"1": "yes", "2": "no", "3": "Yes"}}, "codes '1', '3' of comorbidities .* one text"),
        (ILLNESSES, {"categories": ["a", "b ", "b"]}, "codes 'b ', 'b' of"),
        (ILLNESSES, {"categories": ["PO2", "PO₂", "PCO2"]}, "give them one text"),
        (ILLNESSES, {"categories": ["a", "no\u200b", "no"]}, "give them one text"),
        (CRP, {"words": {"neg": "negative", "NEG": "Negative"}}, "codes 'neg', 'NEG' of crp"),
        (NOTE, {"categories": ["a", "b"]}, "has categories"),
        (NOTE, {"low": 0}, "has low"),
        (NOTE, {"scale": "log"}, "has scale"),
        (CRP, {"scale": "log", "low": -1, "step": 1.5}, "needs low of 0 or more"),
        (CRP, {"scale": "log", "step": 1.0}, "is a ratio"),
        (CRP, {"scale": "log", "step": 0.5}, "is a ratio"),
        (CRP, {"scale": "log", "low": 100, "high": 150, "step": 2}, "above high"),
    ],
)
def test_a_description_that_contradicts_itself_is_refused(feature: Feature, change: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Feature.model_validate({**feature.model_dump(), **change})


def test_several_codes_may_have_one_text() -> None:
    sex = Feature(
        name="sex", section="s", label="Sex", kind="categorical", categories={"Male": "m", "male": "m", "f": "f"}
    )
    drawn = [codebook_choices(sex, sex.shown("male") or "", Stream.named(seed)) for seed in range(20)]
    assert {tuple(sorted(choices)) for choices in drawn} == {("f", "m")}


def test_a_scale_that_contradicts_itself_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "codebook.toml"
    text = (
        codebook()
        .to_toml()
        .replace('kind = "numeric"\n', 'kind = "numeric"\nscale = "log"\n', 1)
        .replace("step = 20.0", "step = 1.0")
    )
    path.write_text(text)
    line = 1 + text.splitlines().index("[[features]]")
    with pytest.raises(FedReasonError, match=rf"E203.*line {line}, .*step of crp is a ratio, .*; not 1\. "):
        load_codebook(path)
    path.write_text(text.replace("step = 1.0", "step = 1.2"))
    assert load_codebook(path).by_name["crp"].scale == "log"


def test_the_number_of_a_row_is_no_name_of_a_record(tmp_path: Path) -> None:
    path = tmp_path / "codebook.toml"
    path.write_text(codebook(patient="#").to_toml())
    assert load_codebook(path).columns == ("crp", "comorbidities", "advice")
    path.write_text('record = "#"\n' + codebook().to_toml())
    with pytest.raises(FedReasonError, match=r"E203.*line 1.*a column that tells a patient's rows apart"):
        load_codebook(path)


@pytest.mark.parametrize("kind", ["outcome", "consultation"])
def test_hours_belong_to_what_comes_later(kind: str) -> None:
    with pytest.raises(ValidationError, match="hours belong"):
        Task(name="a", kind=kind, feature="crp", question="?", hours=24)  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="hours belong"):
        Task(name="a", kind="later", feature="crp", question="?")


def test_free_text_is_no_outcome(tmp_path: Path) -> None:
    path = tmp_path / "codebook.toml"
    path.write_text(codebook().to_toml())
    assert load_codebook(path) == codebook()
    path.write_text(codebook().to_toml().replace('kind = "consultation"\n', ""))
    with pytest.raises(FedReasonError, match=r"E205.*free text"):
        load_codebook(path)


def test_a_number_that_a_task_asks_for_needs_a_step(tmp_path: Path) -> None:
    stay = Feature(name="stay", section="s", label="Stay", kind="numeric", low=0, high=99, ask=False, known_later=True)
    task = Task(name="length", feature="stay", question="How long?")
    path = tmp_path / "codebook.toml"
    path.write_text(codebook(features=(stay,), tasks=(task,)).to_toml())
    with pytest.raises(FedReasonError, match=r"E205.*without step"):
        load_codebook(path)


def test_the_hash_is_of_the_content_and_stays_where_nothing_is_said() -> None:
    assert codebook().sha256 == codebook(private=False).sha256
    assert len({codebook().sha256, codebook(private=True).sha256, codebook(record="visit").sha256}) == 3


def test_columns_are_described_ignored_or_named_by_place() -> None:
    book = codebook(ignored=("lab_*",), record="visit")
    columns = ["visit", "id", "crp", "comorbidities", "advice", "lab_1", "ward", "Lab_2"]
    assert book.undescribed(columns) == [7, 8]
    assert book.undescribed(columns, ["ward", "[Ll]ab_?"]) == []
    assert book.columns == ("id", "visit", "crp", "comorbidities", "advice")
