"""A run's database is read while it is written: all of it, each row once, and nobody who writes it has to wait."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.stored import evaluation_of, round_of, stages_of
from common.arrays import zero_adapter
from common.config import RunConfig
from server.dashboard import history as module
from server.dashboard.history import COUNTS, FALLS, LOOKS, NEWEST, ROUNDS, SAME, STAGES, TOLD, Database, History, stamp
from server.dashboard.watch import RunWatch
from server.reports.rows import read_rows
from server.rounds.stages import Took
from server.rounds.store import Checkpoint, FallRow, LookRow, RoundRow, RunStore
from tests.small import small_config

SITES = ["amc", "snubh"]


@pytest.fixture
def config() -> RunConfig:
    return small_config(Path("none"), name="trial")


def look_of(number: int) -> LookRow:
    counts = {site: {"right": 5, "asked": 10} for site in SITES}
    return LookRow(round=number, shares={"right": 0.5}, counts=counts, disagreeing=[])


def fall_of(number: int, back_to: int) -> FallRow:
    told = {"shares": {"right": 0.1}, "lost": {"right": 0.5}, "counts": {}, "disagreeing": [], "sites": SITES}
    return FallRow(round=number, back_to=back_to, **told)


def one_more(store: RunStore, number: int, seconds: float | None = None) -> None:
    row = round_of(number, SITES)
    row.seconds = seconds or row.seconds
    store.record(row)
    for place, site in enumerate(SITES):
        store.record(evaluation_of(number, site, place))


def plain(rows: Any) -> list[dict[str, Any]]:
    return [{key: value for key, value in vars(row).items() if not key.startswith("_")} for row in rows]


def agrees(history: History, folder: Path) -> None:
    """What was added up look by look is what is read at once."""
    rows = read_rows(folder)
    assert plain(history.rounds) == plain(rows.rounds)
    assert plain(history.evaluations(sorted(history.evaluated))) == plain(rows.evaluations)
    assert history.looks == rows.looks
    assert history.sites == rows.sites


@given(st.lists(st.sampled_from(["round", "look", "fall", "back", "look at it"]), max_size=25))
def test_whatever_a_run_does_the_history_is_what_its_database_holds(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("run")
    config = small_config(Path("none"), name="trial")
    history, number = History(folder), 0
    with RunStore.opened(folder, config) as store:
        for place, step in enumerate(steps):
            if step == "round":
                number += 1
                one_more(store, number, seconds=place + 0.5)
            elif step == "look":
                store.record(look_of(number))
            elif step == "fall" and number:
                store.record(fall_of(number, number // 2))
            elif step == "back":
                number //= 2
                store.save(Checkpoint(number, zero_adapter(4), {}))
                store.load()
            else:
                history.look()
        history.look()
        agrees(history, folder)


def test_a_row_is_read_once_and_an_untouched_file_not_at_all(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = History(tmp_path)
    with RunStore.opened(tmp_path, config) as store:
        for number in range(1, 41):
            one_more(store, number)
        history.look()
        before = history.rows_read
        assert before == 40 + 40
        one_more(store, 41)
        history.look()
        assert history.rows_read - before == 1 + 2, "the round; who was evaluated after it, and after the one before"
        monkeypatch.setattr(module.sqlite3, "connect", lambda *_, **__: pytest.fail("nothing has changed"))
        assert history.look() == history.look() == 2


def test_a_run_begun_from_nothing_is_not_taken_for_the_old_one(config: RunConfig, tmp_path: Path) -> None:
    history = History(tmp_path)
    with RunStore.opened(tmp_path, config) as store:
        one_more(store, 1)
        one_more(store, 2)
        store.record(fall_of(2, 1))
    history.look()
    for path in tmp_path.iterdir():
        path.rename(path.with_name(f"old-{path.name}"))
    with RunStore.opened(tmp_path, config) as store:
        one_more(store, 1, seconds=9.0)
    history.look()
    agrees(history, tmp_path)


def test_no_write_waits_for_a_reader_and_what_is_read_is_never_part_of_one(config: RunConfig, tmp_path: Path) -> None:
    """In the middle of a read another connection, which waits for nobody, writes; the read is done again."""
    with RunStore.opened(tmp_path, config) as store:
        for number in range(1, 4):
            one_more(store, number)
    path = tmp_path / "rounds.sqlite"
    reads: list[int] = []

    def read(link: sqlite3.Connection) -> int:
        rows = link.execute("select round from rounds")
        rows.fetchone()
        if not reads:
            with closing(sqlite3.connect(path, timeout=0)) as writer, writer:
                writer.execute("update rounds set seconds = 77")
        reads.append(len(rows.fetchall()) + 1)
        return int(link.execute("select min(seconds) from rounds").fetchone()[0])

    done = Database(path).read(read)
    assert done is not None and done[0] == 77
    assert len(reads) == 2, "what was read while somebody wrote does not count"


def test_nothing_is_read_while_a_commit_is_under_way(config: RunConfig, tmp_path: Path) -> None:
    history = History(tmp_path)
    with RunStore.opened(tmp_path, config) as store:
        one_more(store, 1)
    history.look()
    path = tmp_path / "rounds.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("begin")
        writer.execute("pragma cache_spill = 1")
        writer.execute("delete from rounds")
        assert stamp(path, before=True) is None and stamp(path, before=False) is None
        history.look()
        assert len(history.rounds) == 1
        writer.execute("rollback")
    history.look()
    assert len(history.rounds) == 1


@pytest.mark.parametrize("content", [None, b"", b"no database", b"SQLite format 3\0" + bytes(5000)])
def test_what_is_no_database_yet_has_no_rows(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "rounds.sqlite").write_bytes(content)
    history = History(tmp_path)
    history.look()
    assert (history.rounds, history.looks, history.sites, history.evaluations([0, 1])) == ([], (), [], [])


def test_looking_writes_nothing_makes_nothing_and_locks_nothing(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunStore.opened(tmp_path, config) as store:
        one_more(store, 1)
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.iterdir()}
    with closing(sqlite3.connect(tmp_path / "rounds.sqlite", timeout=0, isolation_level=None)) as writer:
        writer.execute("pragma locking_mode = exclusive")
        writer.execute("begin exclusive")
        history = History(tmp_path)
        history.look()
        assert [row.round for row in history.rounds] == [1], "also while a writer lets no reader in"
        writer.execute("rollback")
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.iterdir()} == before
    if os.getuid():
        tmp_path.chmod(0o500)
        History(tmp_path).look()


@pytest.mark.parametrize("query", [SAME, ROUNDS, TOLD, COUNTS, LOOKS, FALLS, NEWEST, STAGES])
def test_no_query_goes_through_a_whole_table(config: RunConfig, tmp_path: Path, query: str) -> None:
    with RunStore.opened(tmp_path, config) as store:
        one_more(store, 1)
    with closing(sqlite3.connect(tmp_path / "rounds.sqlite")) as link:
        plan = [row[3] for row in link.execute(f"explain query plan {query}", (1,) * query.count("?"))]
    assert plan and all(step.startswith("SEARCH") for step in plan), plan


def test_the_stages_of_the_last_rounds_are_read_and_none_of_a_version_that_did_not_keep_them(
    config: RunConfig, tmp_path: Path
) -> None:
    history = History(tmp_path)
    assert history.stages(3) == history.stages(1, 5) == []
    with RunStore.opened(tmp_path, config) as store:
        for number in range(1, 5):
            one_more(store, number)
            store.record(stages_of(number, SITES, ["snubh"] if number == 3 else []))
        history.look()
        assert [number for number, _ in history.stages(3)] == [4, 3, 2]
        assert history.stages(1, 3)[0][1]["train"]["snubh"] == Took(None, 0, 0)
        assert history.stages(1, 10**12)[0][0] == 4
        store.save(Checkpoint(2, zero_adapter(4), {}))
        store.load()
        history.look()
        assert [number for number, _ in history.stages(9)] == [2, 1], (
            "a round that is taken back takes its stages along"
        )
    with closing(sqlite3.connect(tmp_path / "rounds.sqlite")) as link, link:
        link.execute("update stages set stages = '{\"train\": 3}'")
    assert history.stages(9) == []
    with closing(sqlite3.connect(tmp_path / "rounds.sqlite")) as link, link:
        link.execute("drop table stages")
    assert history.stages(9) == []


def test_a_store_of_a_version_without_a_guard_is_read(config: RunConfig, tmp_path: Path) -> None:
    with RunStore.opened(tmp_path, config) as store:
        one_more(store, 1)
    with closing(sqlite3.connect(tmp_path / "rounds.sqlite")) as link, link:
        link.execute("drop table looks")
        link.execute("drop table falls")
    history = History(tmp_path)
    history.look()
    assert isinstance(history.rounds[0], RoundRow)


def test_a_round_is_told_once_the_checkpoint_holds_it_though_the_database_says_nothing_new(
    config: RunConfig, tmp_path: Path
) -> None:
    watch = RunWatch(tmp_path)

    def told() -> tuple[int, list[int], float | None]:
        return len(watch.read().rounds), sorted(watch.history.evaluated), watch.totals(ended=False).last_seconds

    with RunStore.opened(tmp_path, config) as store:
        store.save(Checkpoint(0, zero_adapter(4), {}))
        for number in (1, 2):
            one_more(store, number, seconds=float(number))
            store.record(look_of(number))
            store.record(stages_of(number, SITES))
            assert told() == (number - 1, list(range(1, number)), number - 1 or None)
            assert len(watch.history.looks) == len(watch.history.stages(9)) == number - 1
            before = watch.sections()
            store.save(Checkpoint(number, zero_adapter(4), {}))
            assert told() == (number, list(range(1, number + 1)), number)
            watch._rests_until = 0.0
            assert watch.sections() != before
            agrees(watch.history, tmp_path)


def test_a_run_that_has_ended_is_read_once_for_its_totals_and_no_row_of_it_is_kept(
    tmp_path: Path, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunStore.opened(tmp_path, config) as store:
        for number in (1, 2, 3):
            one_more(store, number, seconds=2.0)
    watch, reads = RunWatch(tmp_path), list[int]()
    read = Database.read

    def counted(self: Database, what: Any) -> Any:
        reads.append(1)
        return None if len(reads) == 1 else read(self, what)

    monkeypatch.setattr(Database, "read", counted)
    assert watch.totals(ended=True).rounds == 0, "it cannot be read now"
    told = watch.totals(ended=True)
    assert (told.rounds, told.seconds, told.last_seconds) == (3, 6.0, 2.0)
    assert watch.totals(ended=True) == told and len(reads) == 2 and watch.history.rounds == []
    agrees(watch.read(), tmp_path)
    with RunStore.opened(tmp_path, config) as store:
        one_more(store, 4, seconds=4.0)
    assert (watch.totals(ended=True).rounds, watch.totals(ended=False).seconds) == (4, 10.0)
