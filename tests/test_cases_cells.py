"""Cells and files that went wrong: what a cell means is one rule, and what is left out or in doubt is counted."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openpyxl import Workbook

from client.inspection.registry import inspect_registry
from client.opened import read_registry
from client.registry.load import Registry
from client.registry.numerals import GROUPINGS, Numerals, meaning
from client.site import load_site
from common.codebook import Feature, load_codebook
from common.errors import Code, FedReasonError
from common.questions.question import QuestionMaker

CODEBOOK = """
title = "T"
patient = "id"
missing = ["", "NA", "-99", "999"]
[[features]]
name = "age"
section = "P"
label = "Age"
kind = "numeric"
low = 0
high = 120
step = 5
[[features]]
name = "lab"
section = "L"
label = "Lab"
unit = "%"
kind = "numeric"
low = -200
high = 100000
step = 1
decimals = 2
words = { "neg" = "negative" }
"""


def site(folder: Path, content: bytes | str | Workbook, registry: str = "", name: str = "r.csv") -> Path:
    (folder / "codebook.toml").write_text(CODEBOOK)
    (folder / "site.toml").write_text(f'name = "amc"\n[registry]\npath = "{name}"\n{registry}\n')
    if isinstance(content, Workbook):
        content.save(folder / name)
    else:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def read(folder: Path, content: bytes | str | Workbook, registry: str = "", name: str = "r.csv") -> Registry:
    config = load_site(site(folder, content, registry, name))
    return read_registry(config, load_codebook(config.codebook))


def labs(registry: Registry) -> list[str | None]:
    return [patient.values.get("lab") for patient in registry.patients]


def column(*cells: str, separator: str = ",") -> str:
    rows = [f"{number}{separator}50{separator}{cell}" for number, cell in enumerate(cells, 1)]
    return "\n".join([separator.join(("id", "age", "lab")), *rows, ""])


def workbook(rows: Sequence[Sequence[Any]], formats: dict[str, str] | None = None) -> Workbook:
    book = Workbook()
    sheet = book.active
    assert sheet is not None
    for row in rows:
        sheet.append(list(row))
    for place, form in (formats or {}).items():
        sheet[place].number_format = form
    return book


def refused(folder: Path, content: bytes | str | Workbook, registry: str = "", name: str = "r.csv") -> FedReasonError:
    with pytest.raises(FedReasonError) as caught:
        read(folder, content, registry, name)
    return caught.value


# --- What is a number ---


def test_a_point_under_a_decimal_comma_is_no_number_and_is_told(tmp_path: Path) -> None:
    found = read(tmp_path, column("1.234", "850", "12.500", "1,5", separator=";"), 'decimal = ","')
    assert labs(found) == [None, "850.00", None, "1.50"]
    assert found.report.unreadable == {"lab": 2} and found.report.doubts == {("lab", "thousands"): 2}


def test_a_declared_separator_counts_in_groups_of_three_alone(tmp_path: Path) -> None:
    cells = ("1.234", "12.500,5", "1.23", "1234.567", "1.234.567", ".234", "1.2345", "850")
    found = read(tmp_path, column(*cells, separator=";"), 'decimal = ","\nthousands = "."')
    assert labs(found) == ["1234.00", "12500.50", None, None, None, None, None, "850.00"]
    assert found.report.outside == {"lab": 1}  # 1.234.567 is read, and beyond the bounds


@pytest.mark.parametrize(("sign", "written"), [(sign, each) for sign, all_of in GROUPINGS.items() for each in all_of])
def test_every_declared_sign_separates_thousands_and_an_undeclared_one_does_not(sign: str, written: str) -> None:
    decimal = "," if sign == "." else "."
    assert Numerals(decimal, sign).plain(f"12{written}345{decimal}5") == "12345.5"
    assert Numerals("." if written != "." else ",").plain(f"12{written}345") is None


def test_three_digits_behind_the_decimal_sign_are_doubted_where_they_may_be_thousands(tmp_path: Path) -> None:
    comma = read(tmp_path, column("1,5", "1,234", "12,500", separator=";"), 'decimal = ","')
    assert comma.report.doubts == {("lab", "three"): 2} and labs(comma)[0] == "1.50"
    assert read(tmp_path, column("1.234", "12.500", "850")).report.doubts == {("lab", "three"): 2}
    assert read(tmp_path, column("1.234", "12.5", "850")).report.doubts == {}
    assert read(tmp_path, column("0.234", "850")).report.doubts == {}


@pytest.mark.parametrize(
    ("cell", "doubt"),
    [
        ("5.2 mmol/L", "unit"),
        ("140 H", "unit"),
        ("7.4*", "unit"),
        ("1.2 (H)", "unit"),
        ("~3", "unit"),
        ("95%", "percent"),
        ("95 %", "percent"),
        ("<0.5", "censored"),
        ("> 90", "censored"),
        ("≥90", "censored"),
        ("1,5", "thousands"),
        ("1 234", "thousands"),
        ("1'234", "thousands"),
        ("1.2.3", "thousands"),
        ("2024-01-05", "date"),
        ("5/1/2024", "date"),
        ("01-May", "date"),
        ("14:05", "date"),
        ("\u22125", "signs"),
        ("\uff15\uff10", "signs"),
        ("0x10", "unit"),
        ("1_000", "unit"),
        ("nan", None),
        ("inf", None),
        ("TRUE", None),
        ("high", None),
    ],
)
def test_what_is_no_number_is_never_read_as_one_and_told_by_what_it_looks_like(
    tmp_path: Path, cell: str, doubt: str | None
) -> None:
    found = read(tmp_path, column(f'"{cell}"', "5"))
    assert labs(found) == [None, "5.00"] and found.report.unreadable == {"lab": 1}
    assert dict(found.report.doubts) == ({("lab", doubt): 1} if doubt else {})


LAB = Feature(name="x", section="s", label="x", kind="numeric", low=-1e9, high=1e9, step=1, decimals=2)


@given(st.text(alphabet="0123456789.,'+-eE%<> HxX\u2212\u00a0\uff15", max_size=8), st.sampled_from(".,"))
def test_a_cell_is_a_number_only_as_it_is_declared(text: str, decimal: str) -> None:
    raw = text.strip()
    found = meaning(LAB, raw, Numerals(decimal))
    other = "," if decimal == "." else "."
    if found.number:
        assert other not in raw and raw.isascii() and float(raw.replace(decimal, ".")) is not None
    else:
        assert found.shown is None


@given(st.integers(-(10**7), 10**7), st.sampled_from([(".", ","), (",", "."), (".", " "), (",", "'"), (".", None)]))
def test_a_number_written_the_declared_way_is_read_as_it_is(value: int, signs: tuple[str, str | None]) -> None:
    decimal, thousands = signs
    whole, fraction = divmod(abs(value), 100)
    grouped = f"{whole:,}".replace(",", thousands or "")
    written = f"{'-' if value < 0 else ''}{grouped}{decimal}{fraction:02d}"
    plain = Numerals(decimal, thousands).plain(written)
    assert plain is not None and float(plain) == value / 100


def test_check_gives_each_doubt_its_advice(tmp_path: Path) -> None:
    found = read(tmp_path, column("5.2 mmol/L", "140 H", "95%", "5"))
    codebook = load_codebook(tmp_path / "codebook.toml")
    findings = inspect_registry(found, QuestionMaker(codebook, "full"), found.patients).findings
    told = " ".join(finding.text for finding in findings if finding.feature == "lab")
    assert "2 cells hold a number with a unit" in told and "1 cells hold a percent sign" in told
    assert "Export the number alone" in told and "140" not in told


def test_a_word_that_holds_a_number_may_have_the_sites_decimal_sign() -> None:
    lab = LAB.model_copy(update={"words": {"<0.5": "below 0.5", "1.2.3": "odd"}})
    assert meaning(lab, "<0,5", Numerals(",")).shown == meaning(lab, "<0.5", Numerals(",")).shown == "below 0.5"
    assert meaning(lab, "1.2.3", Numerals())[:3] == ("odd", False, None)
    assert meaning(lab, "0.5", Numerals(",")).shown is None


# --- Missing ---


def test_codes_for_no_value_are_compared_as_numbers_where_they_are_numbers(tmp_path: Path) -> None:
    cells = ("999", "999.0", " 999.00 ", "-99", "-99.0", "9.99e2", "NA", "99", "neg")
    found = read(tmp_path, column(*cells))
    assert labs(found) == [None] * 7 + ["99.00", "negative"] and not found.report.unreadable
    comma = read(tmp_path, column("999,0", "999.0", "1,5", separator=";"), 'decimal = ","')
    assert labs(comma) == [None, None, "1.50"] and not comma.report.unreadable


def test_a_site_says_by_feature_what_means_no_value(tmp_path: Path) -> None:
    said = '[registry.missing]\nlab = ["9999", "n.d."]'
    found = read(tmp_path, column("9999.0", "n.d.", "7") + "4,9999,8\n", said)
    assert labs(found) == [None, None, "7.00", "8.00"] and found.report.outside == {"age": 1}
    wrong = refused(tmp_path, column("1"), '[registry.missing]\nlap = ["9"]')
    assert wrong.code is Code.CONFIG_VALUE and "lap" in wrong.found


# --- Workbooks ---

HEADER = ("id", "age", "lab")


def test_filled_rows_below_an_empty_one_are_counted_and_read_where_told(tmp_path: Path) -> None:
    rows = [HEADER, (1, 50, 2), (None, None, None), (2, 51, 3), (3, 52, 4)]
    found = read(tmp_path, workbook(rows), name="r.xlsx")
    assert labs(found) == ["2.00"]
    assert found.report.remarks == (
        "2 filled rows below the empty row 3 were not read: delete that row, or say in site.toml, [registry], "
        'blank_rows = "skip"',
    )
    whole = read(tmp_path, workbook(rows), 'blank_rows = "skip"', name="r.xlsx")
    assert labs(whole) == ["2.00", "3.00", "4.00"] and whole.report.remarks == ()


def test_a_cell_formatted_as_percent_is_read_as_excel_shows_it(tmp_path: Path) -> None:
    rows = [HEADER, (1, 50, 0.21), (2, 51, 0.5), (3, 52, 5)]
    found = read(tmp_path, workbook(rows, {"C2": "0%", "C3": "0.00%", "C4": '0"%"'}), name="r.xlsx")
    assert labs(found) == [None, None, "5.00"]
    assert found.report.doubts == {("lab", "percent"): 2}


def test_errors_and_dates_of_excel_are_told(tmp_path: Path) -> None:
    rows = [HEADER, (1, 50, "#N/A"), (2, 51, dt.datetime(2024, 5, 1)), (3, 52, 5)]
    found = read(tmp_path, workbook(rows), name="r.xlsx")
    assert labs(found) == [None, None, "5.00"]
    assert found.report.remarks == ("cells with an error of Excel are taken as missing: 1 #N/A",)
    assert found.report.doubts == {("lab", "date"): 1}


def test_numbers_of_a_workbook_are_numbers_whatever_its_texts_have_for_a_point(tmp_path: Path) -> None:
    found = read(tmp_path, workbook([HEADER, (1, 50, 1.5), (2, 51, "2,5"), (3, 52, "2.5")]), 'decimal = ","', "r.xlsx")
    assert labs(found) == ["1.50", "2.50", None]


# --- Text files ---


@pytest.mark.parametrize("first", ["sep=;", "SEP=;", '"sep=;"', "\nsep=;"])
def test_a_line_that_names_the_delimiter_is_understood(tmp_path: Path, first: str) -> None:
    assert labs(read(tmp_path, f"{first}\n" + column("1.5", "2", separator=";"))) == ["1.50", "2.00"]


def test_the_delimiter_may_be_a_tab_or_a_bar(tmp_path: Path) -> None:
    assert labs(read(tmp_path, "sep=\t\n" + column("1.5", separator="\t"))) == ["1.50"]
    assert labs(read(tmp_path, column("1.5", separator="|"))) == ["1.50"]


def test_names_may_stand_below_a_title_in_a_text_file(tmp_path: Path) -> None:
    titled = "Registry of sepsis\nas of 2024, frozen\n\n" + column("1.5", "2")
    assert labs(read(tmp_path, titled, "header_row = 4")) == ["1.50", "2.00"]
    assert labs(read(tmp_path, titled, "header_row = 3")) == ["1.50", "2.00"]
    twice = refused(tmp_path, titled.replace(", ", "; ") + "3,5\n", "header_row = 4")
    assert "line 7" in twice.found  # lines are counted from the file's first


def test_where_the_names_seem_to_stand_is_said(tmp_path: Path) -> None:
    narrow = refused(tmp_path, "Registry of sepsis\n" + column("1.5"))
    assert narrow.code is Code.REGISTRY_COLUMN and "header_row = 2" in narrow.fix
    wide = refused(tmp_path, "Registry,of,sepsis\n" + column("1.5"))
    assert wide.code is Code.REGISTRY_COLUMN and "header_row = 2" in wide.fix and "sepsis" not in str(wide)
    glued = refused(tmp_path, column("1.5", separator="^"))
    assert glued.code is Code.REGISTRY_COLUMN and "separated by" in glued.fix


def test_names_may_fill_two_lines_of_a_text_file(tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    folder = site(tmp_path / "two", ",Labs,\nid,lab,age\n1,1.5,50\n", "header_rows = 2")
    (folder / "codebook.toml").write_text(CODEBOOK.replace('name = "lab"', 'name = "Labs / lab"'))
    config = load_site(folder)
    with pytest.raises(FedReasonError, match="age"):  # a blank above goes on with what stands before it
        read_registry(config, load_codebook(config.codebook))
    (folder / "r.csv").write_text(",,Labs\nid,age,lab\n1,50,1.5\n")
    found = read_registry(config, load_codebook(config.codebook))
    assert found.patients[0].values["Labs / lab"] == "1.50"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_named(tmp_path: Path, encoding: str) -> None:
    error = refused(tmp_path, column("1.5").encode(encoding))
    assert error.code is Code.REGISTRY_ENCODING and "utf-16-le" in error.fix
    assert labs(read(tmp_path, column("1.5").encode(encoding), f'encoding = "{encoding}"')) == ["1.50"]


def test_zero_characters_around_a_cell_are_nothing_and_within_one_no_number(tmp_path: Path) -> None:
    found = read(tmp_path, column("1.5\0\0", "\0\0", "1\0 5"))
    assert labs(found) == ["1.50", None, None] and found.report.unreadable == {"lab": 1}


def test_lines_of_delimiters_alone_are_no_rows(tmp_path: Path) -> None:
    assert labs(read(tmp_path, column("1.5") + ",,\n" + "2,50,3\n,,\n")) == ["1.50", "3.00"]


def test_a_described_column_that_stands_twice_is_refused_with_both_places(tmp_path: Path) -> None:
    error = refused(tmp_path, "id,age,lab,lab\n1,50,1,2\n")
    assert error.code is Code.REGISTRY_COLUMN and "lab, columns 3 and 4" in error.found


def test_separators_that_are_the_same_sign_are_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, column("1"), 'decimal = ","\nthousands = ","')
    assert error.code is Code.CONFIG_VALUE and "different signs" in error.found
