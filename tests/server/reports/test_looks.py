"""What the guard saw of a run is told with the right values, by status and on the page; a liar's counts are none."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from common.config import RunConfig
from server.reports.looks import looks_of
from server.reports.report import write_run_report
from server.reports.rows import read_rows
from server.reports.status import RunStatus, status_of
from server.reports.tables import looks_table
from server.rounds.store import FallRow, LookRow, RunStore
from tests.server.reports.pages import HOSTILE, Page, round_row, run_config
from tests.server.rounds.faults.scene import make_federation


def guarded() -> RunConfig:
    return RunConfig.model_validate({**run_config().model_dump(), "guard": {"every": 2, "questions": 64}})


def said(right: int, boxed: int = 60, other: int = 48) -> dict[str, int]:
    return {"asked": 64, "boxed": boxed, "right": right, "other": other}


def agreed(right: float, boxed: float = 0.9375, other: float = 0.75) -> dict[str, float]:
    return {"boxed": boxed, "right": right, "other": other}


NORTH, SOUTH, EAST = "north", "south", "east"
ANSWERS = [
    {NORTH: said(32), SOUTH: said(32)},
    {NORTH: said(40), SOUTH: said(40), EAST: said(64)},
    {NORTH: said(40), SOUTH: said(41), EAST: {}},
]
LOOKS = [
    LookRow(round=0, shares=agreed(0.5), counts=ANSWERS[0], disagreeing=[]),
    LookRow(round=2, shares=agreed(0.625), counts=ANSWERS[1], disagreeing=[EAST]),
    LookRow(round=4, shares=agreed(0.6328125), counts=ANSWERS[2], disagreeing=[EAST]),
]
FALL = FallRow(
    round=4,
    back_to=2,
    shares=agreed(0.15625, 0.3125, 0.25),
    lost=agreed(0.625),
    counts={NORTH: said(10, 20, 16), SOUTH: said(10, 20, 16), EAST: said(40)},
    disagreeing=[EAST],
    sites=[EAST, NORTH],
)


def made(folder: Path, *rows: LookRow | FallRow) -> Path:
    with RunStore.opened(folder, guarded()) as store:
        for number in range(1, 5):
            store.record(round_row(number))
        for row in rows:
            store.record(row)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return made(tmp_path / "trial", *(LookRow(**values(row)) for row in LOOKS), FallRow(**values(FALL)))


def values(row: LookRow | FallRow) -> dict[str, object]:
    return {name: value for name, value in vars(row).items() if not name.startswith("_")}


def test_looks_are_in_the_order_of_time_with_each_sites_shares_the_median_and_what_was_undone(folder: Path) -> None:
    looks = read_rows(folder).looks
    assert [(look.round, look.back_to) for look in looks] == [(0, None), (2, None), (4, 2), (4, None)]
    first, second, undone, last = looks
    assert first.sites == {NORTH: agreed(0.5), SOUTH: agreed(0.5)} and first.agreed == agreed(0.5)
    assert first.remark == ""
    assert second.sites[EAST] is None, "right in more questions than it has boxed"
    assert second.remark == "otherwise: east"
    assert undone.sites[NORTH] == agreed(0.15625, 0.3125, 0.25) and undone.sites[EAST] == agreed(0.625)
    assert undone.since == (EAST, NORTH) and undone.lost == agreed(0.625)
    assert undone.undone == {EAST: (2, 0), NORTH: (2, 0)}, "a version before named no more than these two"
    assert undone.remark == (
        "taken back to round 2: boxed from 0.94 to 0.31, right from 0.62 to 0.16, other from 0.75 to 0.25; "
        "otherwise: east"
    )
    assert last.sites == {NORTH: agreed(0.625), SOUTH: agreed(0.640625), EAST: None}
    assert last.agreed == agreed(0.6328125)


def test_the_page_shows_every_number_of_every_look_and_what_was_taken_back(folder: Path) -> None:
    page = Page(write_run_report(folder))
    assert "public" in page.figures
    for text in (
        "0.500", "0.625", "0.641", "0.633", "0.156", "0.312", "0.250", "0.938", "0.750",
        "Round 4 was taken back: boxed from 0.94 to 0.31", "The run was put back to round 2",
        "in the rounds since took part: east, north.",
    ):  # fmt: skip
        assert text in page.words, text
    for mark in ("south, 0: 0.500", "south, 2: 0.625", "south, 4: 0.641", "taken back, 4: 0.156"):
        assert mark in page.text, mark
    assert "median: 0.5 at 0, 0.633 at 4." in page.words


def test_status_tells_the_looks_of_a_run_for_people_and_for_programs(tmp_path: Path) -> None:
    federation = make_federation(tmp_path / "fed")
    folder = made(federation.runs / "trial", *(LookRow(**values(row)) for row in LOOKS), FallRow(**values(FALL)))
    (folder / "standing.json").write_text(f'{{"since": "{datetime.now(UTC).isoformat()}"}}')
    (run,) = status_of(federation).runs
    assert isinstance(run, RunStatus) and run.looks == read_rows(folder).looks
    told = run.model_dump(mode="json")["looks"]
    assert told[2]["round"] == 4 and told[2]["back_to"] == 2 and told[2]["since"] == [EAST, NORTH]
    assert told[1]["sites"] == {EAST: None, NORTH: agreed(0.625), SOUTH: agreed(0.625)}
    console = Console(width=200, record=True)
    console.print(looks_table("trial", run.looks))
    lines = [line.replace("│", " ").split() for line in console.export_text().splitlines()]
    assert ["0", "0.500", "0.500", "0.500", "0.938", "0.750"] in lines, "no word of east"
    assert ["2", "0.625", "0.625", "0.625", "0.938", "0.750", "otherwise:", EAST] in lines
    assert any(line[:8] == ["4", "0.625", "0.156", "0.156", "0.156", "0.312", "0.250", "taken"] for line in lines)
    assert ["4", "0.625", "0.641", "0.633", "0.938", "0.750", "otherwise:", EAST] in lines


def test_of_many_looks_status_shows_the_latest(tmp_path: Path) -> None:
    rows = [LookRow(round=n, shares=agreed(n / 64), counts={NORTH: said(n)}, disagreeing=[]) for n in range(20)]
    shown = looks_table("trial", looks_of(rows, [])).columns[0]._cells
    assert list(shown) == [str(n) for n in range(12, 20)]


def test_of_many_sites_status_shows_those_that_say_otherwise() -> None:
    answers = {f"site-{number:02}": said(32) for number in range(20)} | {"site-07": said(1)}
    row = LookRow(round=0, shares=agreed(0.5), counts=answers, disagreeing=["site-07"])
    assert [column.header for column in looks_table("trial", looks_of([row], [])).columns][:3] == [
        "round", "right, site-07", "right, median",
    ]  # fmt: skip


def test_a_run_without_a_guard_or_of_a_version_before_has_no_looks(tmp_path: Path) -> None:
    federation = make_federation(tmp_path / "fed")
    folder = made(federation.runs / "trial")
    (folder / "standing.json").write_text(f'{{"since": "{datetime.now(UTC).isoformat()}"}}')
    assert status_of(federation).runs[0].looks == ()
    assert "public questions" not in Page(write_run_report(folder)).words
    with sqlite3.connect(folder / "rounds.sqlite") as database:
        database.execute("DROP TABLE looks")
        database.execute("DROP TABLE falls")
    assert read_rows(folder).looks == () and len(read_rows(folder).rounds) == 4
    assert status_of(federation).runs[0].looks == ()
    (folder / "rounds.sqlite").write_bytes(b"no database" * 500)
    assert status_of(federation).runs[0].looks == ()


def test_an_adapter_that_no_site_computes_with_is_told_without_answers(tmp_path: Path) -> None:
    zero = dict.fromkeys(agreed(0.0), 0.0)
    row = FallRow(round=3, back_to=2, shares=zero, lost=agreed(0.5), counts={}, disagreeing=[], sites=[NORTH])
    page = Page(write_run_report(made(tmp_path / "trial", row)))
    assert "Round 3 was taken back: boxed from 0.94 to 0.00" in page.words


def test_a_hostile_name_stays_text(tmp_path: Path) -> None:
    row = LookRow(round=0, shares=agreed(0.5), counts={HOSTILE: said(32)}, disagreeing=[HOSTILE])
    page = Page(write_run_report(made(tmp_path / "trial", row)))
    assert HOSTILE in page.words
    assert page.fetched == []
