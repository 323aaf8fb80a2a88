"""Workbooks, columnar files and other kinds of CSV give the same patients as a plain CSV of the same rows."""

from __future__ import annotations

import csv
import datetime as dt
import math
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from datetime import time as clock
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from client.registry.cells import cell_text
from client.registry.config import RegistryConfig
from client.registry.delimited import read_delimited
from client.registry.load import registry_from
from client.registry.numerals import Numerals
from client.registry.parquet import read_parquet
from client.registry.source import open_source
from client.registry.workbook import read_workbook
from client.site.config import SiteConfig, load_site, require_source
from client.site.opened import open_registry, read_registry
from common import synthetic
from common.codebook import ROW, Codebook
from common.errors import Code, FedReasonError
from common.feature import Feature
from common.questions.question import Patient
from tests.examples import examples
from tests.laws import ONE_FOLDER

ROWS = synthetic.registry("north", 30, seed=3)
COLUMNS = list(ROWS[0])
SECRET = "patient 4711"


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Patient, ...]:
    path = tmp_path_factory.mktemp("plain") / "registry.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([COLUMNS, *(row.values() for row in ROWS)])
    return patients(RegistryConfig(path=path))


def patients(config: RegistryConfig) -> tuple[Patient, ...]:
    return registry_from(open_source(config), synthetic.codebook(), numerals=Numerals(config.decimal)).patients


def refused(work: Callable[[], object], code: Code) -> str:
    with pytest.raises(FedReasonError) as refusal:
        work()
    assert refusal.value.code is code
    return str(refusal.value)


def typed(text: str) -> Any:
    """A cell as a spreadsheet or a typed column holds it."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text or None


# --- CSV as other countries and programs write it ---


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252", "cp949"])
@pytest.mark.parametrize(("delimiter", "decimal"), [(",", "."), (";", ","), ("\t", ",")])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_any_encoding_delimiter_decimal_and_line_end(
    tmp_path: Path, expected: tuple[Patient, ...], encoding: str, delimiter: str, decimal: str, end: str
) -> None:
    numeric = {feature.name for feature in synthetic.codebook().features if feature.kind == "numeric"}
    path = tmp_path / "registry.csv"
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator=end)
        writer.writerow(COLUMNS)
        for row in ROWS:
            writer.writerow([cell.replace(".", decimal) if name in numeric else cell for name, cell in row.items()])
    assert patients(RegistryConfig(path=path, encoding=encoding, decimal=decimal)) == expected  # type: ignore[arg-type]


def test_another_encoding_is_refused_with_its_place_and_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "registry.csv"
    path.write_bytes(b"id,sex\n1,m\xe4nnlich\n")
    told = refused(lambda: read_delimited(path), Code.REGISTRY_ENCODING)
    assert "byte 10" in told and "encoding" in told and "nnlich" not in told
    assert read_delimited(path, encoding="latin-1").columns == ("id", "sex")


# --- Workbooks ---


def workbook(path: Path, *, above: int = 0, below: int = 0, sheets: tuple[str, ...] = ("Registry",)) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name in sheets:
        sheet = book.create_sheet(name)
        for _ in range(above):
            sheet.append(["Sepsis registry", None, "exported", dt.datetime(2026, 1, 2)])
        sheet.append(COLUMNS)
        for row in ROWS:
            sheet.append([typed(cell) for cell in row.values()])
        if below:
            sheet.append([])
        for _ in range(below):
            sheet.append(["Total", len(ROWS), SECRET])
    book.save(path)
    return path


@pytest.mark.parametrize(("above", "below"), [(0, 0), (3, 0), (1, 4)])
def test_a_workbook_with_rows_above_and_below(
    tmp_path: Path, expected: tuple[Patient, ...], above: int, below: int
) -> None:
    path = workbook(tmp_path / "registry.XLSX", above=above, below=below)
    assert patients(RegistryConfig(path=path, header_row=above + 1)) == expected


def test_a_sheet_of_several_is_named(tmp_path: Path, expected: tuple[Patient, ...]) -> None:
    path = workbook(tmp_path / "registry.xlsx", sheets=("Codebook", "Cases"))
    assert patients(RegistryConfig(path=path, sheet="Cases")) == expected
    assert "Codebook, Cases" in refused(lambda: read_workbook(path, sheet=None, header_row=1), Code.REGISTRY_MISSING)
    assert "no sheet 'cases'" in refused(
        lambda: read_workbook(path, sheet="cases", header_row=1), Code.REGISTRY_MISSING
    )


def test_formulas_without_a_value_and_yes_or_no_are_told_as_in_a_csv(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for row in (["id", "a", "b", "c", None], [1, True, "#N/A", "=1/0"], [2, 0.1, 1e20, dt.date(2026, 1, 2)]):
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    table = read_workbook(tmp_path / "a.xlsx", sheet=None, header_row=1)
    assert table.columns == ("id", "a", "b", "c") and table.unit == "row"
    assert list(table.rows) == [
        (2, ["1", "1", "", ""]),
        (3, ["2", "0.1", "1e+20", "2026-01-02T00:00:00"]),
    ]


def test_a_torn_missing_or_empty_workbook_is_refused(tmp_path: Path) -> None:
    path = workbook(tmp_path / "registry.xlsx")
    whole = path.read_bytes()

    def read() -> object:
        return list(read_workbook(path, sheet=None, header_row=1).rows)

    for content in (whole[: len(whole) // 2], b"", b"PK\x03\x04 no zip", b"plain text"):
        path.write_bytes(content)
        refused(read, Code.REGISTRY_TORN)
    path.unlink()
    refused(read, Code.REGISTRY_MISSING)
    path.mkdir()
    refused(read, Code.REGISTRY_MISSING)
    empty = workbook(tmp_path / "empty.xlsx")
    assert "row 99 is empty" in refused(lambda: read_workbook(empty, sheet=None, header_row=99), Code.REGISTRY_EMPTY)


@examples(60, suppress_health_check=ONE_FOLDER)
@given(data=st.data())
def test_a_damaged_workbook_is_read_or_refused_and_never_told(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "whole.xlsx"
    whole = path.read_bytes() if path.exists() else workbook(path).read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    damaged = tmp_path / "damaged.xlsx"
    damaged.write_bytes(whole[:place] + data.draw(st.binary(min_size=1, max_size=9)) + whole[place + 3 :])
    try:
        list(read_workbook(damaged, sheet=None, header_row=1).rows)
    except FedReasonError as error:
        assert "north" not in str(error) and 300 <= int(error.code) < 400


# --- Parquet ---


def test_a_parquet_file_gives_the_same_patients(tmp_path: Path, expected: tuple[Patient, ...]) -> None:
    columns: dict[str, Any] = {name: [row[name] or None for row in ROWS] for name in COLUMNS}
    for name in list(columns)[1:]:
        values = [typed(cell) if cell else None for cell in columns[name]]
        if all(isinstance(value, int | float | None) for value in values):
            columns[name] = values
    table = pa.table(columns).append_column("notes", pa.array([[SECRET]] * len(ROWS)))
    table = table.append_column("stay", pa.array([timedelta(1)] * len(ROWS)))
    pq.write_table(table, tmp_path / "registry.parquet", row_group_size=7)
    config = RegistryConfig(path=tmp_path / "registry.parquet")
    assert patients(config) == expected
    told = open_source(config)
    assert {"notes", "stay"}.isdisjoint(told.columns)
    assert told.notes == ["2 columns of lists, structures, bytes or durations were not read"] and not told.remarks


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()])
def test_a_column_of_few_bits_holds_the_numbers_that_were_written(tmp_path: Path, kind: pa.DataType) -> None:
    """Else a code would be a measurement, and a number at a bound beyond it."""
    written = [7.8, 999.5, None, -0.1, 120.0]
    pq.write_table(pa.table({"x": pa.array(written, kind)}), tmp_path / "r.parquet")
    cells = [cells[0] for _, cells in read_parquet(tmp_path / "r.parquet").rows]
    assert [float(cell) if cell else None for cell in cells] == written


def test_a_torn_or_missing_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "registry.parquet"
    refused(lambda: read_parquet(path), Code.REGISTRY_MISSING)
    pq.write_table(pa.table({"id": [SECRET] * 1000, "x": list(range(1000))}), path)
    whole = path.read_bytes()
    for content in (whole[:-9], b"", whole[:60] + bytes(40) + whole[100:]):
        path.write_bytes(content)
        told = refused(lambda: list(read_parquet(path).rows), Code.REGISTRY_TORN)
        assert SECRET not in told


# --- Rows without an identifier ---


def test_a_row_is_known_by_its_line_or_its_row_of_the_sheet_and_else_counted_from_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "r.csv").write_text('age,note\n50,a\n\n51,"b\nb"\n52,c\n')
    sheet = openpyxl.Workbook()
    assert sheet.active is not None
    for row in (["Registry"], ["age"], [50], [51]):
        sheet.active.append(row)
    sheet.save(tmp_path / "r.xlsx")
    pq.write_table(pa.table({"age": [50, 51]}), tmp_path / "r.parquet")
    (tmp_path / "r.db").touch()
    monkeypatch.setenv("REGISTRY_URL", f"sqlite:///{tmp_path}/r.db")
    sources = [
        (RegistryConfig(path=tmp_path / "r.csv"), ["2", "4", "6"]),
        (RegistryConfig(path=tmp_path / "r.xlsx", header_row=2), ["3", "4"]),
        (RegistryConfig(path=tmp_path / "r.parquet"), ["1", "2"]),
        (RegistryConfig(url_variable="REGISTRY_URL", query="select 50 age union select 51"), ["1", "2"]),
    ]
    age = Feature(name="age", section="Person", label="Age", kind="numeric", low=18, high=110, step=10)
    book = Codebook(title="T", patient=ROW, features=(age,), ignored=("note",))
    for source, known in sources:
        found = read_registry(SiteConfig(name="amc", registry=source), book)
        assert [patient.id for patient in found.patients] == known


# --- Values ---


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_a_decimal_keeps_its_digits_and_has_no_exponent(value: Decimal) -> None:
    text = cell_text(value)
    assert text is not None and "e" not in text.lower() and Decimal(text) == value
    assert len(text.partition(".")[2]) == max(0, -int(value.as_tuple().exponent))


@given(st.floats())
def test_a_float_is_read_back_the_same(value: float) -> None:
    text = cell_text(value)
    assert text == "" if math.isnan(value) else text is not None and float(text) == value


@given(st.one_of(st.dates(), st.datetimes(timezones=st.none() | st.just(timezone(timedelta(hours=9)))), st.times()))
def test_a_date_is_read_back_the_same(value: date | clock) -> None:
    text = cell_text(value)
    assert text is not None and type(value).fromisoformat(text) == value


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (None, ""),
        (True, "1"),
        (False, "0"),
        (-7, "-7"),
        (" a\n", " a\n"),
        (Decimal("1.500"), "1.500"),
        (Decimal("1E+3"), "1000"),
        (Decimal("NaN"), ""),
        (Decimal("-Infinity"), "-inf"),
        (math.inf, "inf"),
        (64.0, "64"),
        (1e300, "1e+300"),
        (0.1, "0.1"),
        (datetime(2024, 2, 29, 4, 5, 6), "2024-02-29T04:05:06"),
        (date(2024, 2, 29), "2024-02-29"),
        (clock(4, 5), "04:05:00"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (b"a", None),
        ([1], None),
        ({}, None),
        ((1,), None),
        (timedelta(1), None),
    ],
)
def test_a_cell_has_the_text_of_an_export_or_none(cell: object, text: str | None) -> None:
    assert cell_text(cell) == text


# --- site.toml ---


@pytest.mark.parametrize(
    ("registry", "told"),
    [
        ({}, "either path or url_variable"),
        ({"path": "a.csv", "url_variable": "X", "query": "select 1"}, "either path or url_variable"),
        ({"url_variable": "X"}, "belong together"),
        ({"path": "a.csv", "query": "select 1"}, "belong together"),
        ({"path": "a.csv", "encoding": "klingon"}, "there is no encoding 'klingon'"),
        ({"path": "a.csv", "decimal": ";"}, "decimal"),
        ({"path": "a.xlsx", "header_row": 0}, "header_row"),
        ({"url_variable": "postgresql://u:p@h/d", "query": "select 1"}, "url_variable"),
    ],
)
def test_a_source_that_is_none_is_refused(tmp_path: Path, registry: dict[str, object], told: str) -> None:
    (tmp_path / "site.toml").write_text(tomli_w.dumps({"name": "amc", "registry": registry}))
    assert told in refused(lambda: load_site(tmp_path), Code.CONFIG_VALUE)


def test_a_site_opens_its_workbook_and_says_where_it_is(tmp_path: Path, expected: tuple[Patient, ...]) -> None:
    workbook(tmp_path / "registry.xlsx")
    (tmp_path / "codebook.toml").write_text(synthetic.codebook().to_toml())
    (tmp_path / "site.toml").write_text(tomli_w.dumps({"name": "amc", "registry": {"path": "registry.xlsx"}}))
    opened = open_registry(tmp_path)
    assert opened.registry.patients == expected
    assert "bytes" in require_source(opened.config.registry)
    (tmp_path / "registry.xlsx").unlink()
    assert "does not exist" in refused(lambda: require_source(opened.config.registry), Code.REGISTRY_MISSING)


def test_a_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REGISTRY_URL", raising=False)
    config = RegistryConfig(url_variable="REGISTRY_URL", query="select 1")
    assert "REGISTRY_URL is not set" in refused(lambda: require_source(config), Code.REGISTRY_MISSING)
    monkeypatch.setenv("REGISTRY_URL", "postgresql://reader:secret@host/db")
    assert "secret" not in require_source(config)
