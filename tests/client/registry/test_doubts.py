"""Numbers that may have been meant otherwise are counted by feature, and those that cannot have been are not."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from client.inspection.registry import inspect_registry
from client.registry.cells import Percent, Stored, cell_text
from client.registry.numerals import Numerals, absent_of, meaning
from client.site.config import RegistryConfig, SiteConfig, load_site
from client.site.opened import read_registry
from common.codebook import Codebook, load_codebook
from common.errors import Code
from common.feature import OTHER, Feature
from common.questions.question import QuestionMaker
from tests.client.registry.cases_cells import CODEBOOK, HEADER, column, labs, read, workbook

HUNDRED = CODEBOOK.replace("low = -200", "low = 0").replace("high = 100000", "high = 100")


def doubted(folder: Path, *cells: str, said: str = "", codebook: str = HUNDRED, separator: str = ",") -> dict[str, int]:
    found = read(folder, column(*cells, separator=separator), said, codebook=codebook)
    return {what: count for (_, what), count in found.report.doubts.items()}


# --- Shares among percents ---


@pytest.mark.parametrize(
    ("cells", "shares"),
    [
        (("0.95", "92"), 1),
        (("0.95", "1.0", "92", "0", "100"), 2),
        (("0.21", "0.4", "1", "40", "60", "21"), 3),
        (("0.42", "0.38", "45", "-3"), 2),
        (("0.02", "0.31", "0.07", "0.4", "0.25", "0.11", "2", "31", "44"), 6),
        (("0.2", "0.5", "0.8", "1.1", "2.4", "12"), 0),
        (("0.5", "1", "2", "3", "40"), 0),
        (("1", "50", "99"), 0),
        (("92", "88"), 0),
    ],
)
def test_shares_among_percents_leave_a_gap_above_1(tmp_path: Path, cells: tuple[str, ...], shares: int) -> None:
    assert doubted(tmp_path, *cells) == ({"share": shares} if shares else {})


def test_one_typing_error_above_1_does_not_explain_many_shares(tmp_path: Path) -> None:
    assert doubted(tmp_path, *(f"0.{share}" for share in range(21, 61)), "2", "40") == {"share": 40}


def test_a_unit_that_is_no_percent_has_numbers_below_1_beside_large_ones(tmp_path: Path) -> None:
    assert doubted(tmp_path, "0.3", "0.9", "92", codebook=HUNDRED.replace('"%"', '"mg/L"')) == {}
    assert doubted(tmp_path, "0.3", "0.9", codebook=HUNDRED.replace('"%"', '"mg/L"')) == {"share": 2}


def test_a_share_beside_cells_in_percent_format_is_doubted(tmp_path: Path) -> None:
    rows = [HEADER, (1, 50, 0.92), (2, 51, 0.95), (3, 52, 0.005)]
    found = read(tmp_path, workbook(rows, {"C2": "0%", "C4": "0.0%"}), name="r.xlsx", codebook=HUNDRED)
    assert labs(found) == ["92.00", "0.95", "0.50"] and found.report.doubts == {("lab", "share"): 1}


# --- Thousands ---


@pytest.mark.parametrize(("decimal", "thousands"), [(".", ","), (",", "."), (".", "'"), (",", " ")])
def test_a_declared_separator_settles_three_digits_behind_the_decimal_sign(
    tmp_path: Path, decimal: str, thousands: str
) -> None:
    said = f'decimal = "{decimal}"\nthousands = "{thousands}"'
    cells = (f"1{decimal}234", f"12{decimal}500", f"1{thousands}234", "850")
    found = read(tmp_path, column(*cells, separator=";"), said)
    assert labs(found) == ["1.23", "12.50", "1234.00", "850.00"] and found.report.doubts == {}


@pytest.mark.parametrize(
    ("cells", "counted"),
    [
        (("1.234", "250", "400"), {"contrary": 1}),  # 1,234 within the bounds, 1.234 not
        (("1,5", "12,34", "250"), {"thousands": 2}),
        (("1.234.567", "250"), {"thousands": 1}),
        (("0,250", "250"), {"thousands": 1}),
        (("1,234", "250.125", "1,234.5"), {}),
        (("4.321", "3.5"), {"contrary": 1}),  # 4321 lies within; 3.5 is plainly wrong
    ],
)
def test_a_number_against_the_declaration_is_counted(
    tmp_path: Path, cells: tuple[str, ...], counted: dict[str, int]
) -> None:
    book = CODEBOOK.replace("low = -200", "low = 100").replace("high = 100000", "high = 5000")
    said = 'decimal = "."\nthousands = ","'
    assert doubted(tmp_path, *cells, said=said, codebook=book, separator=";") == counted


def test_a_group_that_would_be_in_bounds_as_a_fraction_is_counted_and_told(tmp_path: Path) -> None:
    said = 'decimal = "."\nthousands = ","'
    found = read(tmp_path, column("7,412", "7,389", "7.2", separator=";"), said, codebook=HUNDRED)
    assert found.report.outside == {"lab": 2} and found.report.doubts == {("lab", "contrary"): 2}
    maker = QuestionMaker(load_codebook(tmp_path / "codebook.toml"), "full")
    (refusal,) = [each for each in inspect_registry(found, maker, found.patients).findings if each.code]
    assert refusal.code is Code.REGISTRY_UNITS and "Compare thousands and decimal" in refusal.text


def test_a_number_of_a_workbook_is_no_text_and_a_text_in_it_is_one(tmp_path: Path) -> None:
    assert read(tmp_path, workbook([HEADER, (1, 50, 1.234), (2, 51, 850)]), name="r.xlsx").report.doubts == {}
    mixed = workbook([HEADER, (1, 50, 1.234), (2, 51, "1.234"), (3, 52, 1.5), (4, 53, "12.500"), (5, 54, 1.234)])
    for said in ("", 'decimal = ","'):
        texts = {"": 2, 'decimal = ","': 0}[said]
        found = read(tmp_path, mixed, said, name="r.xlsx").report.doubts
        assert found.get(("lab", "three"), 0) == texts


def test_a_numeric_of_a_database_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/r.db")
    with engine.begin() as database:
        database.execute(text("create table r (id, age, lab)"))
        database.execute(text("insert into r values (1, 50, 1.234), (2, 51, '1.234'), (3, 52, 850)"))
    monkeypatch.setenv("REGISTRY_URL", f"sqlite:///{tmp_path}/r.db")
    (tmp_path / "codebook.toml").write_text(CODEBOOK)
    said = 'url_variable = "REGISTRY_URL"\nquery = "select id, age, lab from r"'
    (tmp_path / "site.toml").write_text(f'name = "amc"\n[registry]\n{said}\n')
    config = load_site(tmp_path)
    found = read_registry(config, load_codebook(config.codebook))
    assert found.report.doubts == {("lab", "three"): 1} and labs(found) == ["1.23", "1.23", "850.00"]


def test_the_text_of_a_number_is_as_good_as_a_files() -> None:
    stored = cell_text(Decimal("5.500"))
    assert isinstance(stored, Stored) and stored == "5.500" and isinstance(stored.strip(), Stored)
    assert {"5.500": 1}[stored] == 1 and type(cell_text("5.500")) is str


# --- Missing codes ---

SHARE = Feature(name="x", section="s", label="x", unit="%", kind="numeric", low=0, high=100, step=1)


@pytest.mark.parametrize(
    ("shown", "code", "absent"),
    [
        ("-9900%", "-99", True),
        ("99900%", "999", True),
        ("-9%", "-9", True),
        ("-900%", "-9", True),
        ("99%", "99", True),
        ("100%", "1", False),
        ("50%", "0.5", False),
        ("9500%", "-99", False),
    ],
)
def test_a_code_in_a_cell_that_is_shown_in_percent_is_known(shown: str, code: str, absent: bool) -> None:
    assert (Percent(shown) in absent_of(SHARE, [code], {}, Numerals())) is absent


def test_a_workbooks_missing_code_in_a_column_of_percents_is_no_value(tmp_path: Path) -> None:
    rows = [HEADER, (1, 50, -99), (2, 51, 0.95), (3, 52, 999)]
    found = read(tmp_path, workbook(rows, dict.fromkeys(("C2", "C3", "C4"), "0%")), name="r.xlsx", codebook=HUNDRED)
    assert labs(found) == [None, "95.00", None] and found.report.outside == {} and found.report.doubts == {}


SOURCE = Feature(
    name="lab", section="s", label="x", kind="categorical", categories={"NA": "North America", "EU": "Europe"}
)


@pytest.mark.parametrize("missing", [("", "NA"), ("", "99", "NA")])
def test_a_code_that_is_listed_and_stated_to_be_missing_is_refused(missing: tuple[str, ...]) -> None:
    word = Feature.model_validate(SHARE.model_dump() | {"words": {"NA": "below 1"}, "low": 1})
    for feature in (SOURCE, word):
        with pytest.raises(ValueError, match=f"'NA' of {feature.name} means no value by `missing`"):
            Codebook(title="T", patient="id", missing=missing, features=(feature,))
    with pytest.raises(ValueError, match="'' of lab means no value"):
        Codebook(
            title="T", patient="id", features=(SOURCE.model_copy(update={"categories": {"": "none", "EU": "Europe"}}),)
        )


def test_a_code_of_the_default_list_counts_where_it_is_listed_unless_the_site_says_otherwise(tmp_path: Path) -> None:
    (tmp_path / "codebook.toml").write_text(Codebook(title="T", patient="id", features=(SHARE, SOURCE)).to_toml())
    (tmp_path / "r.csv").write_text("id,x,lab\n1,NA,NA\n2,5,EU\n3,5,na\n4,5,NULL\n")
    book = load_codebook(tmp_path / "codebook.toml")
    for missing, first, small in ({}, "North America", OTHER), ({"lab": ["NA"]}, None, None):
        source = RegistryConfig(path=tmp_path / "r.csv", missing=missing)
        found = read_registry(SiteConfig(name="amc", registry=source), book)
        assert [patient.values.get("lab") for patient in found.patients] == [first, "Europe", small, None]
        assert "x" not in found.patients[0].values


# --- Labels in place of codes ---

SEX = Feature(name="sex", section="s", label="Sex", kind="categorical", categories={"1": "male", "2": "female"})


@pytest.mark.parametrize(
    ("cell", "doubt"), [("Male", "label"), ("female", "label"), ("1", None), ("3", None), ("Checked", "label")]
)
def test_the_text_of_a_category_in_place_of_its_code_is_told(cell: str, doubt: str | None) -> None:
    assert meaning(SEX, cell, Numerals()).doubt == doubt
    same = SEX.model_copy(update={"categories": {"Male": "male", "Female": "female", "Checked": "yes"}})
    assert meaning(same, "Male", Numerals()).doubt is None and meaning(same, "Checked", Numerals()).doubt is None


def test_an_export_with_labels_is_refused_with_the_advice_to_export_raw_data(tmp_path: Path) -> None:
    listed = 'kind = "categorical"\ncategories = { 1 = "Male", 2 = "Female" }\n'
    book = CODEBOOK[: CODEBOOK.index('kind = "numeric"', CODEBOOK.index('name = "lab"'))] + listed
    found = read(tmp_path, column("Male", "Female", "male", "other"), codebook=book.replace('unit = "%"\n', ""))
    maker = QuestionMaker(load_codebook(tmp_path / "codebook.toml"), "full")
    (refusal,) = [each for each in inspect_registry(found, maker, found.patients).findings if each.code]
    assert refusal.code is Code.REGISTRY_UNITS and "Export raw data" in refusal.text
    assert found.report.doubts == {("lab", "label"): 3}
