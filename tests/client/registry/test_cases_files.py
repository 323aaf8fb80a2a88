"""Files that went wrong: what stands beside, above or below a table is found, counted and told."""

from __future__ import annotations

import datetime as dt
import math
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openpyxl import Workbook

from client.draft.table import draft
from client.registry.cells import Percent, percent_text
from client.registry.delimited import read_delimited
from client.registry.numerals import Numerals, meaning
from client.site.config import load_site
from client.site.opened import read_registry
from common.codebook import ROW, load_codebook
from common.errors import Code, FedReasonError
from tests.client.registry.cases_cells import CODEBOOK, HEADER, LAB, column, labs, read, refused, site, workbook

SEXES = """
[[features]]
name = "sex"
section = "P"
label = "Sex"
kind = "categorical"
categories = { 1 = "male", 2 = "female" }
"""


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


@pytest.mark.parametrize(("comma", "cell"), [('decimal = ","', "1,00"), ("", "1.00"), ('decimal = ","', "1")])
def test_a_code_of_a_category_is_read_however_numbers_are_written(tmp_path: Path, comma: str, cell: str) -> None:
    """A database's own numbers come with the decimals of their column, and the site's sign."""
    found = read(tmp_path, f'id;sex\n"a";"{cell}"\n', comma, codebook=CODEBOOK.partition("[[features]]")[0] + SEXES)
    assert [patient.values for patient in found.patients] == [{"sex": "male"}]


@pytest.mark.parametrize("form", ["0%", "0.00%", '0" of"%', "0%;[Red]-0%"])
def test_a_cell_formatted_as_percent_is_read_in_the_codebooks_unit(tmp_path: Path, form: str) -> None:
    rows = [HEADER, (1, 50, 0.21), (2, 51, 0.07), (3, 52, 1), (4, 53, 0.21), (5, 54, "21%"), (6, 55, "95%")]
    formats = dict.fromkeys(("C2", "C3", "C4", "C5"), form)
    for name, comma in (("p", ""), ("c", 'decimal = ","')):
        (tmp_path / name).mkdir()
        found = read(tmp_path / name, workbook(rows, formats), comma, "r.xlsx")
        assert labs(found) == ["21.00", "7.00", "100.00", "21.00", None, None]
        assert found.report.doubts == {("lab", "percent"): 2}  # what is typed as a text
    share = read(tmp_path, workbook(rows, formats), name="r.xlsx", codebook=CODEBOOK.replace('"%"', '"g/g"'))
    assert labs(share) == ["0.21", "0.07", "1.00", "0.21", None, None]


@pytest.mark.parametrize("form", ['0" %"', "0\\%", "0_%", "General"])
def test_a_percent_sign_that_a_format_only_shows_changes_nothing(tmp_path: Path, form: str) -> None:
    found = read(tmp_path, workbook([HEADER, (1, 50, 0.5), (2, 51, 21)], {"C2": form}), name="r.xlsx")
    assert labs(found) == ["0.50", "21.00"]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_percentage_is_the_number_that_the_cell_holds_and_equal_to_no_text(value: float) -> None:
    text = percent_text(value)
    for numerals in (Numerals(), Numerals(","), Numerals(",", ".")):
        assert float(numerals.plain(text) or "nan") == value
        assert (
            math.isclose(float(numerals.plain(text, "% of Hb") or "nan"), value * 100, abs_tol=1e-300)
            or abs(value) > 1e306
        )
    assert isinstance(text, Percent) and text != str(text) and {str(text): 1}.get(text) is None and text.strip() is text


def test_a_percentage_and_a_text_that_reads_the_same_are_kept_apart() -> None:
    lab = LAB.model_copy(update={"words": {"100%": "all"}})
    assert meaning(lab, percent_text(1), Numerals()).shown == "1.00"
    assert meaning(lab, "100%", Numerals()).shown == "all"


def told_of(folder: Path, content: Workbook) -> str:
    return " ".join(read(folder, content, name="r.xlsx").report.remarks)


def test_what_stands_beside_the_table_is_counted(tmp_path: Path) -> None:
    rows = [HEADER, (1, 50, 2), (2, 51, 3, "checked"), (3, 52, 4, None, 5)]
    told = told_of(tmp_path, workbook(rows))
    assert "2 rows hold cells right of the last column name" in told and "first row 3" in told and "checked" not in told


def test_hidden_rows_merged_cells_and_formulas_without_a_value_are_counted(tmp_path: Path) -> None:
    book = workbook([HEADER, (1, 50, 2), (2, 51, 3), (3, 52, "=1+1"), (4, 53, '=B2 & "<"')])
    sheet = book.active
    assert sheet is not None
    for row in (1, 3, 4):
        sheet.row_dimensions[row].hidden = True
    sheet.merge_cells("C2:C3")
    sheet.merge_cells("E1:F1")
    told = told_of(tmp_path, book)
    assert "2 rows are hidden" in told and "1 areas of cells are merged" in told and "2 formulas have no value" in told
    assert told_of(tmp_path, workbook([HEADER, (1, 50, 2)])) == ""


def test_a_formula_that_gave_an_empty_text_has_its_value(tmp_path: Path) -> None:
    """As Excel writes `=IF(B2>90, 1, "")`; and the second sheet is looked at where it is the one."""
    book = workbook([("no",), ("=1+1",)])
    other = book.create_sheet("Cases & <others>")
    for row in (HEADER, (1, 50, '=IF(B2>90, 1, "")'), (2, 51, 3)):
        other.append(list(row))
    site(tmp_path, book, 'sheet = "Cases & <others>"', "r.xlsx")
    with zipfile.ZipFile(tmp_path / "r.xlsx") as old, zipfile.ZipFile(tmp_path / "new.xlsx", "w") as new:
        for part in old.namelist():
            content = old.read(part)
            if part.endswith("sheet2.xml"):
                assert b'<c r="C2"><f>' in content
                content = content.replace(b'<c r="C2"><f>', b'<c r="C2" t="str"><f>')
            new.writestr(part, content)
    (tmp_path / "new.xlsx").replace(tmp_path / "r.xlsx")
    config = load_site(tmp_path)
    found = read_registry(config, load_codebook(config.codebook))
    assert labs(found) == [None, "3.00"] and found.report.remarks == ()


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
    assert found.patients[0].values["Labs / lab"] == "1.50" and found.report.remarks == ()
    (folder / "r.csv").write_text(",,Labs,,\nid,age,lab,,\n1,50,1.5,,checked\n2,51,1.5, ,\n3,52,1.5,checked,\n")
    (told,) = read_registry(config, load_codebook(config.codebook)).report.remarks
    assert "2 rows hold cells right of the last column name" in told and "first line 3" in told


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


# --- Where the names stand ---


def test_names_in_other_capitals_blanks_or_signs_are_told_as_the_codebook_writes_them(tmp_path: Path) -> None:
    said = refused(tmp_path, column("1").replace("age,lab", "AGE, L_a b"))
    assert said.code is Code.REGISTRY_COLUMN and "signs: age, lab." in said.fix
    assert "AGE" not in str(said) and "L_a" not in str(said)
    assert "Add the column" in refused(tmp_path, "id,age\n1,50\n").fix


def test_where_the_names_stand_in_a_workbook_is_said_past_a_blank_row_and_of_another_sheet(tmp_path: Path) -> None:
    titled = workbook([("Q7ZTITLE",), (), HEADER, (1, 50, 2)])
    said = refused(tmp_path, titled, name="r.xlsx")
    assert "row 3: header_row = 3 in" in said.fix and "Q7Z" not in str(said)
    book = workbook([("codes", "means"), (1, "yes")])
    other = book.create_sheet('Cases "26"')
    for row in ((), HEADER, (1, 50, 2)):
        other.append(list(row))
    elsewhere = refused(tmp_path, book, 'sheet = "Sheet"', "r.xlsx")
    assert 'row 2 of another sheet: sheet = "Cases \\"26\\"", header_row = 2 in' in elsewhere.fix
    assert labs(read(tmp_path, book, """sheet = 'Cases "26"'\nheader_row = 2""", "r.xlsx")) == ["2.00"]


@pytest.mark.parametrize("kind", ["csv", "xlsx"])
def test_that_the_names_fill_two_rows_is_said(tmp_path: Path, kind: str) -> None:
    codebook = CODEBOOK.replace('name = "lab"', 'name = "Labs / lab"').replace('name = "age"', 'name = "P / age"')
    rows: list[tuple[Any, ...]] = [("", "P", "Labs"), HEADER, (1, 50, 2)]
    text = "".join(",".join(map(str, row)) + "\n" for row in rows)
    name = f"r.{kind}"

    def content(title: bool) -> str | Workbook:
        if kind == "xlsx":
            return workbook([("title", "of", "it"), *rows] if title else rows)
        return "title,of,it\n" + text if title else text

    def fix(title: bool) -> str:
        with pytest.raises(FedReasonError) as caught:
            read(tmp_path, content(title), name=name, codebook=codebook)
        return caught.value.fix

    assert "header_rows = 2 in" in fix(title=False) and "header_row = 2 and header_rows = 2 in" in fix(title=True)
    found = read(tmp_path, content(title=True), "header_row = 2\nheader_rows = 2", name, codebook)
    assert found.patients[0].values == {"P / age": "50", "Labs / lab": "2.00"}


# --- Drafts ---


def test_a_draft_reads_numbers_as_the_registry_will(tmp_path: Path) -> None:
    cells = [f"{1 + i % 7}.{100 + i * 13 % 900},{i % 10}" for i in range(80)]
    (tmp_path / "r.csv").write_text("bnp;x\n" + "".join(f"{cell};{'ab'[i % 2]}\n" for i, cell in enumerate(cells)))

    def drafted(decimal: str, thousands: str | None) -> Any:
        table = read_delimited(tmp_path / "r.csv")
        return draft(table, patient=ROW, decimal=decimal, thousands=thousands, title="T")

    feature = drafted(",", ".").codebook.by_name["bnp"]
    assert feature.kind == "numeric" and feature.low <= 1200 and 7900 <= feature.high <= 10000
    for decimal in ".,":
        (name, why), *_ = drafted(decimal, None).left_out
        assert name == "bnp" and "--decimal, --thousands" in why


def test_a_point_under_a_decimal_comma_is_no_number_to_a_draft(tmp_path: Path) -> None:
    rows = "".join(f"{1 + i % 9}.{100 + i};{i % 40 + 20},5\n" for i in range(60))
    (tmp_path / "r.csv").write_text("bnp;age\n" + rows)
    found = draft(read_delimited(tmp_path / "r.csv"), patient=ROW, decimal=",", title="T")
    assert [feature.name for feature in found.codebook.features] == ["age"] and "separator" in found.left_out[0][1]


def test_the_command_drafts_from_a_titled_german_export(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from client.__main__ import app

    rows = "".join(f"P{i};{20 + i % 60};{1 + i % 7}.{100 + i * 13 % 900},{i % 10}\n" for i in range(80))
    (tmp_path / "r.csv").write_text("sep=;\nRegister;Stand 2026;\n;;Labor\nid;alter;BNP (ng/L)\n" + rows)
    words = ["--from", tmp_path / "r.csv", "--out", tmp_path / "c.toml", "--decimal", ",", "--thousands", "."]
    words += ["--header-row", 3, "--header-rows", 2]
    result = CliRunner().invoke(app, ["codebook", *map(str, words)])
    assert result.exit_code == 0, result.output
    (tmp_path / "c.toml").chmod(0o600)
    feature = load_codebook(tmp_path / "c.toml").by_name["Labor / BNP (ng/L)"]
    assert feature.kind == "numeric" and feature.unit == "ng/L" and feature.high is not None and feature.high >= 7900


def test_a_duration_of_a_workbook_is_no_number_and_counted(tmp_path: Path) -> None:
    rows = [HEADER, (1, 50, dt.timedelta(hours=30)), (2, 51, 5)]
    found = read(tmp_path, workbook(rows, {"C2": "[h]:mm"}), name="r.xlsx")
    assert labs(found) == [None, "5.00"] and found.report.unreadable == {"lab": 1}


@pytest.mark.parametrize("first", ["sep=;;;", "sep = ;", "SEP=;;"])
def test_a_spreadsheet_may_have_spoilt_the_line_that_names_the_delimiter(tmp_path: Path, first: str) -> None:
    assert labs(read(tmp_path, f"{first}\n" + column("1.5", "2", separator=";"))) == ["1.50", "2.00"]


def test_an_empty_row_right_below_the_names_is_told_with_what_to_say(tmp_path: Path) -> None:
    error = refused(tmp_path, workbook([HEADER, (None, None, None), (1, 50, 2)]), name="r.xlsx")
    assert error.code is Code.REGISTRY_EMPTY and 'blank_rows = "skip"' in error.fix
