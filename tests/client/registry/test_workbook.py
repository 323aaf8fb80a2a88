"""Sheets as hospitals keep them: names over several rows, merged cells, sizes that the file states wrongly."""

from __future__ import annotations

import re
import warnings
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.registry.table import Table
from client.registry.workbook import read_workbook
from common.errors import Code, FedReasonError
from tests.client.registry.handles import open_files
from tests.examples import examples


def sheet(folder: Path, rows: list[list[Any]], merged: tuple[str, ...] = ()) -> Path:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    for cells in merged:
        book.active.merge_cells(cells)
    book.save(folder / "registry.xlsx")
    return folder / "registry.xlsx"


def read(path: Path, header_row: int = 1, header_rows: int = 1) -> Table:
    return read_workbook(path, sheet=None, header_row=header_row, header_rows=header_rows)


def test_names_over_two_rows_are_joined_and_merged_cells_reach_to_the_right(tmp_path: Path) -> None:
    rows: list[list[Any]] = [
        ["Sepsis registry 2026"],
        ["Patient", "Labs", None, "Vital signs", None, None, "Outcome"],
        [None, "Sodium", " Lactate\n", "HR", "Temp", None, None],
        ["p1", 140, 2.5, 90, 37.5, "x", "alive"],
    ]
    table = read(sheet(tmp_path, rows, ("A2:A3", "B2:C2", "D2:F2", "G2:G3")), header_row=2, header_rows=2)
    assert table.columns == (
        "Patient",
        "Labs / Sodium",
        "Labs / Lactate",
        "Vital signs / HR",
        "Vital signs / Temp",
        "Vital signs",
        "Outcome",
    )
    assert list(table.rows) == [(4, ["p1", "140", "2.5", "90", "37.5", "x", "alive"])]


def test_with_three_rows_a_group_within_a_group_ends_with_it(tmp_path: Path) -> None:
    rows: list[list[Any]] = [
        ["Day 1", None, None, "Day 2", None],
        ["Labs", None, "Drugs", None, "Labs"],
        ["Na", "K", "NA", "id", "Na"],
        [1, 2, 3, 4, 5],
    ]
    assert read(sheet(tmp_path, rows), header_rows=3).columns == (
        "Day 1 / Labs / Na",
        "Day 1 / Labs / K",
        "Day 1 / Drugs / NA",
        "Day 2 / id",
        "Day 2 / Labs / Na",
    )


_CELL = st.sampled_from(["", "a", "b", " c "])


@examples(60)
@given(header=st.lists(st.lists(_CELL, min_size=1, max_size=6), min_size=1, max_size=4))
def test_every_name_ends_with_its_own_cell_and_begins_with_the_nearest_to_the_left(
    tmp_path_factory: pytest.TempPathFactory, header: list[list[str]]
) -> None:
    path = sheet(tmp_path_factory.mktemp("any"), [[cell or None for cell in row] for row in header])
    width = max((i + 1 for row in header for i, cell in enumerate(row) if cell), default=0)
    if not width:
        with pytest.raises(FedReasonError) as refusal:
            read(path, header_rows=len(header))
        assert refusal.value.code is Code.REGISTRY_EMPTY
        return
    columns = read(path, header_rows=len(header)).columns
    assert len(columns) == width
    for place, name in enumerate(columns):
        own = header[-1][place].strip() if place < len(header[-1]) else ""
        top = [cell.strip() for cell in header[0][: place + 1] if cell] if len(header) > 1 else []
        assert name.endswith(own) and name.startswith(top[-1] if top else "")


@pytest.mark.parametrize(("rows", "told"), [(1, "row 3 is empty"), (2, "rows 3 to 4 are empty")])
def test_rows_without_any_name_are_refused(tmp_path: Path, rows: int, told: str) -> None:
    path = sheet(tmp_path, [["a"], ["b"], [], [], ["id"], [1]])
    with pytest.raises(FedReasonError, match=told) as refusal:
        read(path, header_row=3, header_rows=rows)
    assert refusal.value.code is Code.REGISTRY_EMPTY


@pytest.mark.parametrize("size", ["A1", "A1:B2", "A1:ZZ9"])
def test_the_size_that_a_file_states_of_itself_is_not_believed(tmp_path: Path, size: str) -> None:
    path = sheet(tmp_path, [["id", "a", "b"], *([i, 1, 2] for i in range(20))])
    expected = list(read(path).rows)
    stated = tmp_path / "stated.xlsx"
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(stated, "w") as changed:
        for name in whole.namelist():
            content, _ = re.subn(rb"<dimension[^>]*>", f'<dimension ref="{size}"/>'.encode(), whole.read(name))
            changed.writestr(name, content)
    assert len(expected) == 20 and list(read(stated).rows) == expected


def test_a_number_that_cannot_be_the_date_it_is_shown_as_is_missing_and_not_told(tmp_path: Path) -> None:
    path = sheet(tmp_path, [["id", "a"], ["p1", 471147114711]])
    book = openpyxl.load_workbook(path)
    book.active["B2"].number_format = "yyyy-mm-dd"
    book.save(path)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        list(openpyxl.load_workbook(path, read_only=True).active.values)
    assert any("471147114711" in str(warning.message) for warning in told)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert list(read(path).rows) == [(2, ["p1", ""])]
    assert not told


@pytest.mark.parametrize("rows", [0, 1, 30])
def test_the_workbook_is_closed_with_its_last_row_or_when_asked(tmp_path: Path, rows: int) -> None:
    path = sheet(tmp_path, [["id", "a"], *([i, i] for i in range(30))])
    with closing(read(path)) as table:
        assert str(path) in open_files()
        for _ in range(rows):
            next(table.rows)
    assert str(path) not in open_files()
    list(read(path).rows)
    assert str(path) not in open_files()
