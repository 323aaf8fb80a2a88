"""Cells that went wrong: what a cell means is one rule, and what is left out or in doubt is counted."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.inspection.registry import inspect_registry
from client.registry.numerals import GROUPINGS, Numerals, meaning
from common.codebook import load_codebook
from common.errors import Code
from common.questions.question import QuestionMaker
from tests.client.registry.cases_cells import CODEBOOK, LAB, column, labs, read, refused, workbook

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
    assert meaning(lab, "1.2.3", Numerals())[:3] == ("odd", None, None)
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


def test_a_code_for_no_value_that_could_be_measured_is_told_once_unless_the_site_named_it(tmp_path: Path) -> None:
    found = read(tmp_path, column("999", "999.0", "-99", "5", "999"))
    assert labs(found) == [None, None, None, "5.00", None] and found.report.doubts == {("lab", "coded"): 4}
    assert sum("stands for no value and lies within" in line for line in found.report.lines()) == 1
    named = read(tmp_path, column("999", "5"), '[registry.missing]\nlab = ["999.00"]')
    assert labs(named) == [None, "5.00"] and named.report.doubts == {}
    assert read(tmp_path, "id,age,lab\n1,999,5\n2,-99,5\n").report.doubts == {}


def test_codes_with_decimals_are_compared_as_numbers_under_a_decimal_comma_too(tmp_path: Path) -> None:
    said = 'decimal = ","\n[registry.missing]\nlab = ["99.9", "-1"]'
    found = read(tmp_path, column("99,9", "99.9", "99,90", "-1", "-1,0", "9,99", "1", separator=";"), said)
    assert labs(found) == [None] * 5 + ["9.99", "1.00"] and not found.report.unreadable


def test_capitals_of_a_word_for_no_value_do_not_count_but_listed_words_do(tmp_path: Path) -> None:
    found = read(tmp_path, column("na", "Na", "NEG", "n.d.", "neg", "5"))
    assert labs(found) == [None, None, None, None, "negative", "5.00"]
    assert found.report.unreadable == {"lab": 2}  # NEG and n.d. are stated nowhere
    said = '[registry.missing]\nlab = ["N.D.", "NEG"]'
    stated = read(tmp_path, column("n.d.", "NEG", "neg", "5"), said)
    assert labs(stated) == [None, None, "negative", "5.00"] and not stated.report.unreadable


def test_a_listed_category_is_no_code_for_no_value_that_is_written_otherwise(tmp_path: Path) -> None:
    listed = 'kind = "categorical"\ncategories = { na = "not admitted", 0999 = "other", NULL = "zero" }\n'
    start = CODEBOOK.index('kind = "numeric"', CODEBOOK.index('name = "lab"'))
    found = read(tmp_path, column("NA", "na", "0999", "999.0", "999", "NULL"), codebook=CODEBOOK[:start] + listed)
    assert labs(found) == [None, "not admitted", "other", None, None, "zero"]


@pytest.mark.parametrize(
    ("bounds", "doubted"), [((0, 100, "%"), 5), ((0, 100, ""), 5), ((21, 60, "%"), 5), ((0, 30, "g"), 0)]
)
def test_shares_where_the_codebook_means_percent_are_doubted(
    tmp_path: Path, bounds: tuple[int, int, str], doubted: int
) -> None:
    low, high, unit = bounds
    codebook = CODEBOOK.replace("low = -200", f"low = {low}").replace("high = 100000", f"high = {high}")
    codebook = codebook.replace('unit = "%"', f'unit = "{unit}"')
    cells = ("0.21", "0.4", "0.21", "0", "1", "0.5")
    assert (
        read(tmp_path, column(*cells) + "9,50,neg\n", codebook=codebook).report.doubts.get(("lab", "share"), 0)
        == doubted
    )
    assert not read(tmp_path, column(*cells, "1.5") + "9,50,neg\n", codebook=codebook).report.doubts
    assert not read(tmp_path, column("0", "1", "neg"), codebook=codebook).report.doubts


def test_shares_outside_the_bounds_are_refused_with_the_advice_for_shares(tmp_path: Path) -> None:
    codebook = CODEBOOK.replace("low = -200", "low = 21").replace("high = 100000", "high = 100")
    found = read(tmp_path, column("0.21", "0.4", "0.5"), codebook=codebook)
    maker = QuestionMaker(load_codebook(tmp_path / "codebook.toml"), "full")
    refusals = [finding for finding in inspect_registry(found, maker, found.patients).findings if finding.code]
    assert [refusal.code for refusal in refusals] == [Code.REGISTRY_UNITS] and "multiply by 100" in refusals[0].text


@pytest.mark.parametrize("word", ["Total", "SUM", "Summe:", "Mittelwert", "Total 3", "n=3", "n = 3", "Legende"])
def test_a_row_whose_identifier_is_a_word_where_others_have_numbers_is_told(tmp_path: Path, word: str) -> None:
    found = read(tmp_path, column("1", "2", "3") + f"{word},60,6\n")
    assert len(found.patients) == 4 and len(found.report.remarks) == 1
    assert "line 5 may be no patient" in found.report.remarks[0] and word not in found.report.remarks[0]


def test_identifiers_that_are_words_are_no_rows_of_sums(tmp_path: Path) -> None:
    words = "".join(f"{word},50,1\n" for word in ("kim", "lee", "park", "total", "choi"))
    assert read(tmp_path, "id,age,lab\n" + words).report.remarks == ()
    assert read(tmp_path, "id,age,lab\nA,50,1\nB2,50,1\n").report.remarks == ()
    assert read(tmp_path, "id,age,lab\nA1,50,1\nTotally-2,50,1\nN3,5,1\nn4,5,1\n").report.remarks == ()


def test_codes_within_the_bounds_explain_no_refusal(tmp_path: Path) -> None:
    found = read(tmp_path, column("high", "high", "5", *["999"] * 9))
    maker = QuestionMaker(load_codebook(tmp_path / "codebook.toml"), "full")
    (refusal,) = [finding for finding in inspect_registry(found, maker, found.patients).findings if finding.code]
    assert "Compare its unit" in refusal.text and "take the number out" not in refusal.text


def test_codes_and_remarks_of_a_series_are_told(tmp_path: Path) -> None:
    said = (
        '[registry.series]\npath = "s.xlsx"\nrecord = "id"\ntime = "t"\nitem = "i"\nvalue = "v"\nitems = { x = "lab" }'
    )
    workbook([("id", "t", "i", "v"), (1, 0, "x", 999), (1, 1, "x", 7, "!"), (), (2, 1, "x", 8)]).save(
        tmp_path / "s.xlsx"
    )
    task = '[[tasks]]\nname = "l"\nkind = "later"\nfeature = "lab"\nhours = 24\nquestion = "?"\n'
    found = read(tmp_path, "id,age\n1,50\n2,60\n", said, codebook=f"{CODEBOOK}series = true\n{task}")
    assert labs(found) == ["7.00", None] and found.report.doubts == {("lab", "coded"): 1}
    assert len(found.report.remarks) == 2 and all("s.xlsx: 1 " in remark for remark in found.report.remarks)


def test_a_group_of_thousands_does_not_begin_with_a_zero(tmp_path: Path) -> None:
    cells = ("0.250", "001.234", "1.234", "0,25")
    found = read(tmp_path, column(*cells, separator=";"), 'decimal = ","\nthousands = "."')
    assert labs(found) == [None, None, "1234.00", "0.25"]
    assert found.report.doubts == {("lab", "thousands"): 2}


def test_under_a_decimal_comma_three_digits_are_doubted_whatever_is_shown() -> None:
    fine = LAB.model_copy(update={"decimals": 3})
    assert meaning(fine, "1,234", Numerals(",")).doubt == "three"
    assert meaning(fine, "1.234", Numerals()).doubt is None
