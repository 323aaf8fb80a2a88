"""A workbook as hospitals grow them becomes patients and questions as docs/registries.md teaches, to the letter."""

from __future__ import annotations

import random
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import openpyxl
import pytest
import typer
from typer.testing import CliRunner

from client.draft.cli import codebook as command
from client.site.opened import Opened, open_registry
from common.codebook import load_codebook
from common.errors import Code, FedReasonError
from common.feature import OTHER
from common.questions.question import QuestionMaker
from common.stream import Stream
from tests.paths import ROOT

PAGE = (ROOT / "docs" / "registries.md").read_text()
PATIENTS = 120
SECRET = "Q7ZSENTINEL"
AGE, SEX = "Patient / Age", "Patient / Sex"
LACTATE, CRP, PLATELETS = (f"Admission labs / {name}" for name in ("Lactate (mmol/L)", "CRP (mg/L)", "Platelets"))
ORGANISMS = "Infection / Organisms"


def shown_on_the_page(name: str) -> str:
    """Content of a file that the page shows: the block that begins with its name."""
    (block,) = re.findall(rf"^```toml\n# {re.escape(name)}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(block)


def row(number: int) -> list[Any]:
    """A patient as they are typed: numbers, texts with a decimal comma, words, -99, lists of codes."""
    draws = random.Random(number)
    lactate = round(draws.uniform(0.5, 9), 1)
    crp: Any = draws.randint(5, 400)
    return [
        f"A-{number:03d}",
        -99 if number % 20 == 0 else draws.randint(20, 95),
        1 + number % 2,
        -99 if number % 10 == 0 else (f" {lactate}".replace(".", ",") if number % 3 == 0 else lactate),
        {0: "<0,5", 1: "neg"}.get(number % 8, crp),
        None if number % 6 == 0 else "clotted" if number == 1 else 5000 if number == 2 else draws.randint(40, 600),
        ["1;3", "3; 1", 2, 0, "1;9", 1][number % 6],
        int(number % 4 == 0),
        f"{SECRET}, seen by Dr. X" if number % 7 == 0 else None,
    ]


def messy(path: Path) -> Path:
    book = openpyxl.Workbook()
    codes, cases, old = book.active, book.create_sheet("Cases 2026"), book.create_sheet("Cases 2025")
    codes.title = "Codes"
    for meaning in (["Column", "Code", "Meaning"], ["Sex", 1, "male"], ["Sex", 2, "female"]):
        codes.append(meaning)
    lines: list[list[Any]] = [
        ["Sepsis registry"],
        ["exported 2026-03-01"],
        ["Patient", None, None, "Admission labs", None, None, "Infection", "Outcome", "Remarks"],
        ["No.", "Age", "Sex", "Lactate (mmol/L)", "CRP (mg/L)", "Platelets", "Organisms", None, None],
        *(row(number) for number in range(1, PATIENTS + 1)),
        [],
        ["Sum", 7321, None, None, SECRET],
        ["A-001", 64, 1, 2.5, 3, 212, 1, 0, "checked"],
    ]
    for line in lines:
        cases.append(line)
    for cells in ("A3:C3", "D3:F3", "H3:H4", "I3:I4"):
        cases.merge_cells(cells)
    old.append(["No.", "Age"])
    old.append(["A-001", 63])
    book.save(path)
    return path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("amc")
    messy(folder / "sepsis.xlsx")
    for name in ("site.toml", "codebook.toml"):
        (folder / name).write_text(shown_on_the_page(name))
    return folder


@pytest.fixture(scope="module")
def opened(site: Path) -> Opened:
    return open_registry(site)


def test_every_patient_and_every_cell_is_accounted_for(opened: Opened) -> None:
    numbers = range(1, PATIENTS + 1)
    report = opened.registry.report
    assert (report.patients, report.records, report.without_values, report.ignored_columns) == (120, 120, 0, 1)
    assert report.measured == {
        AGE: sum(number % 20 != 0 for number in numbers),
        SEX: 120,
        LACTATE: sum(number % 10 != 0 for number in numbers),
        CRP: 120,
        PLATELETS: sum(number % 6 != 0 for number in numbers) - 2,
        ORGANISMS: 120,
        "Outcome": 120,
    }
    assert report.unreadable == {PLATELETS: 1} and report.outside == {PLATELETS: 1}
    assert report.unlisted == {ORGANISMS: sum(number % 6 == 4 for number in numbers)}


def test_cells_are_shown_as_the_codebook_says(opened: Opened) -> None:
    values = [dict(patient.values) for patient in opened.registry.patients]
    lactate = random.Random(3).uniform(0.5, 9)
    assert values[2][LACTATE] == f"{lactate:.1f}"  # was typed with a comma
    assert Counter(each[CRP] for each in values if not each[CRP].isdigit()) == {"<0.5": 15, "negative": 15}
    assert Counter(each[ORGANISMS] for each in values) == {
        "Escherichia coli; Klebsiella pneumoniae": 40,
        "Escherichia coli": 20,
        "Staphylococcus aureus": 20,
        "none": 20,
        OTHER: 20,
    }
    assert Counter(each["Outcome"] for each in values) == {"yes": 30, "no": 90}


def test_every_measured_value_becomes_a_question(opened: Opened) -> None:
    maker = QuestionMaker(opened.codebook, "full")
    asked: Counter[str] = Counter()
    unasked: Counter[str] = Counter()
    for patient in opened.registry.patients:
        for item in maker.items(patient):
            question = maker.make(patient, item, Stream.named(patient.id, item))
            if question is None:
                unasked[item] += 1
                continue
            assert 2 <= len(question.choices) <= 5
            told = "\n".join(question.record)
            assert SECRET not in told and ("Died in hospital" in told) is (item != "hospital_mortality")
            asked[item] += 1
    measured = opened.registry.report.measured
    assert unasked.keys() <= {AGE, LACTATE, CRP, PLATELETS} and unasked[CRP] >= 15  # "negative" states no limit
    assert asked + unasked == {
        **{name: measured[name] for name in (AGE, SEX, LACTATE, CRP, PLATELETS)},
        ORGANISMS: measured[ORGANISMS] - 20,
        "hospital_mortality": 120,
    }


def test_a_record_reads_as_a_clinician_would_write_it(opened: Opened) -> None:
    maker = QuestionMaker(opened.codebook, "full")
    question = maker.make(opened.registry.patients[7], "hospital_mortality", Stream.named("A-008"))
    assert question is not None and question.truth == "yes"
    lines = [re.sub(r": \d.*", ": *", line) for line in question.record]
    assert lines == [
        "[Patient]",
        "Age (years): *",
        "Sex: male",
        "[Laboratory at admission]",
        "Lactate (mmol/L): *",
        "C-reactive protein (mg/L): <0.5",
        "Platelets (10^9/L): *",
        "[Infection]",
        "Organisms in blood culture: Staphylococcus aureus",
    ]


@pytest.mark.parametrize(
    ("line", "instead", "code"),
    [
        ("header_row = 3", "header_row = 4", Code.REGISTRY_COLUMN),
        ("header_rows = 2\n", "", Code.REGISTRY_COLUMN),
        ('sheet = "Cases 2026"\n', "", Code.REGISTRY_MISSING),
        ('sheet = "Cases 2026"', 'sheet = "Cases 2025"', Code.REGISTRY_EMPTY),
        ('ignored = ["Remarks"]', "", Code.REGISTRY_UNDESCRIBED),
    ],
)
def test_every_line_of_the_page_is_needed(site: Path, tmp_path: Path, line: str, instead: str, code: Code) -> None:
    said = shown_on_the_page("site.toml")
    assert line in said
    (tmp_path / "site.toml").write_text(said.replace(line, instead))
    for name in ("sepsis.xlsx", "codebook.toml"):
        (tmp_path / name).symlink_to(site / name)
    with pytest.raises(FedReasonError) as refusal:
        open_registry(tmp_path)
    assert refusal.value.code is code and SECRET not in str(refusal.value)


def test_without_the_decimal_comma_the_texts_are_no_numbers(site: Path, tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(shown_on_the_page("site.toml").replace('decimal = ","\n', ""))
    for name in ("sepsis.xlsx", "codebook.toml"):
        (tmp_path / name).symlink_to(site / name)
    assert open_registry(tmp_path).registry.report.unreadable == {LACTATE: 36, CRP: 15, PLATELETS: 1}


def test_the_draft_that_the_page_begins_with_fits_the_workbook(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = re.findall(r"^python -m client codebook (--from sepsis.xlsx .*)$", PAGE, re.MULTILINE)
    app = typer.Typer()
    app.command()(command)
    monkeypatch.chdir(site)
    result = CliRunner().invoke(app, shlex.split(line))
    assert result.exception is None and SECRET not in result.output
    drafted, final = load_codebook(site / "draft.toml"), load_codebook(site / "codebook.toml")
    assert drafted.private and "-99" in drafted.missing and SECRET not in (site / "draft.toml").read_text()
    for name, feature in drafted.by_name.items():
        assert (feature.kind, feature.separator) == (final.by_name[name].kind, final.by_name[name].separator)
        assert set(feature.words) == set(final.by_name[name].words)
    assert set(drafted.by_name) == set(final.by_name) and drafted.ignored == ("Remarks",)


def test_the_page_teaches_values_with_times_and_consultations(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(shown_on_the_page("site.toml of a site with times"))
    (tmp_path / "codebook.toml").write_text(shown_on_the_page("codebook.toml with times"))
    (tmp_path / "stays.csv").write_text("person_id,stay_id,age,advice\n1,10,64,meropenem 1 g\n1,11,65,\n2,12,70,none\n")
    (tmp_path / "labs.csv").write_text(
        "stay_id,charttime,itemid,valuenum\n11,2150-01-01 06:00,50813,4.2\n11,2150-01-01 08:00,220052,61\n"
        "11,2150-01-02 07:30,50813,2.1\n12,2150-01-01 06:00,999,1\n10,2150-01-01 06:00,50813,1.1\n"
    )
    registry = open_registry(tmp_path).registry
    assert (registry.report.patients, registry.report.records) == (2, 3)
    first, second = registry.patients
    maker = QuestionMaker(load_codebook(tmp_path / "codebook.toml"), "full")
    question = maker.make(first, "lactate_24h", Stream.named("page"))
    assert question is not None and question.truth == "2.1"
    assert question.record == ("[Patient]", "Age (years): 65", "[Blood gas]", "Lactate (mmol/L): 4.2")
    assert "lactate_24h" not in maker.items(second)
    assert [consultation.reference for consultation in maker.consult(first)] == ["meropenem 1 g"]
