"""A run whose program vanished is brought back, however often; one that has just stopped is started again at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from filelock import FileLock

from common.errors import Code, FedReasonError
from common.identity.keys import private_folder
from server.provisioning.federation import Federation
from server.rounds import runs
from server.rounds.runs import RECORD, Reviver, RunRecord, record_of, start
from server.rounds.standing import FILE, Standing, read_standing
from server.services.control import FlowerRun
from tests.clock import Clock
from tests.small import small_config


class Flower:
    """What Flower says of the runs that it was given: each runs until it is stopped."""

    def __init__(self) -> None:
        self.stopped: list[int] = []
        self.submitted = 1

    def run_status(self, federation: Federation, run_id: int) -> FlowerRun:
        status, outcome = ("finished", "stopped") if run_id in self.stopped else ("running", "")
        return FlowerRun(run_id, status, outcome, "")

    def stop_run(self, federation: Federation, run_id: int) -> bool:
        self.stopped.append(run_id)
        return True

    def submit(self, *_: Any) -> int:
        self.submitted += 1
        return self.submitted


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> Flower:
    made = Flower()
    monkeypatch.setattr(runs, "control", made)
    return made


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return cast(Federation, SimpleNamespace(runs=tmp_path / "runs"))


def vanished(folder: Path, *, restarts: int, ago: float, state: str = "waiting", run_id: int = 1) -> None:
    """Leave a run's folder as its program left it, which was handed over so many seconds ago."""
    private_folder(folder)
    submitted = datetime.now(UTC) - timedelta(seconds=ago)
    record = RunRecord(run_id=run_id, config=folder / "c.toml", submitted=submitted, restarts=restarts)
    (folder / RECORD).write_text(record.model_dump_json())
    standing = Standing.model_validate({"state": state, "since": submitted + timedelta(seconds=0.5), "rounds": 3})
    (folder / FILE).write_text(standing.model_dump_json())


def test_a_run_that_vanished_again_at_once_is_brought_back_later_and_not_taken_for_aborted(
    link: Flower, federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "time", clock := Clock())
    folder = federation.runs / "often"
    vanished(folder, restarts=2, ago=1.0)
    reviver = Reviver(federation, lambda line: None)
    for _ in range(20):
        reviver.look()
        clock.sleep(5)
    assert link.stopped == [] and (read_standing(folder / FILE) or pytest.fail()).state == "waiting"
    vanished(folder, restarts=2, ago=60.0)
    for _ in range(5):
        reviver.look()
        clock.sleep(5)
    assert link.stopped == [1] and (record_of(folder) or pytest.fail()).run_id == 2


def test_a_run_that_cannot_be_brought_back_keeps_no_other_from_it_and_is_told(
    link: Flower, federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "time", clock := Clock())
    for run_id, name in enumerate(("broken", "well")):
        vanished(federation.runs / name, restarts=0, ago=60.0, run_id=run_id)
    submit = link.submit

    def refuse(federation: Federation, path: Path, *words: object) -> int:
        if path.parent.name == "broken":
            raise FedReasonError(Code.SERVICE_FAILED, "It is refused.", "Look at it.")
        return submit()

    monkeypatch.setattr(link, "submit", refuse)
    reviver = Reviver(federation, lambda line: None)
    reviver.look()
    clock.sleep(5)
    with pytest.raises(FedReasonError, match="It is refused"):
        reviver.look()
    assert (record_of(federation.runs / "well") or pytest.fail()).restarts == 1


@contextmanager
def ending(folder: Path, seconds: float) -> Iterator[None]:
    """Hold a run's folder, as a program does that has said that its run stopped, and ends soon."""
    lock = FileLock(folder / ".lock", thread_local=False)
    lock.acquire()
    timer = threading.Timer(seconds, lock.release)
    timer.start()
    yield
    timer.join()


@pytest.mark.parametrize(("state", "handed_over"), [("stopped", True), ("waiting", False)])
def test_a_run_whose_program_is_about_to_end_is_waited_for_where_it_has_stopped(
    link: Flower, federation: Federation, tmp_path: Path, state: str, handed_over: bool
) -> None:
    config = small_config(tmp_path, name="again")
    folder = federation.runs / "again"
    vanished(folder, restarts=0, ago=60.0, state=state)
    link.stopped = [1]
    with ending(folder, 0.5):
        assert start(federation, tmp_path / "again.toml", config) is handed_over


def test_flower_is_asked_once_about_a_run_that_failed_however_often_the_coordinator_starts(
    federation: Federation, link: Flower, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each such run costs a call of `flwr ls`, and after years there are many."""
    folder, clock, asked = federation.runs / "old", Clock(), list[int]()
    vanished(folder, restarts=0, ago=3e5, state="stopped")
    standing = read_standing(folder / FILE)
    assert standing is not None
    (folder / FILE).write_text(standing.model_copy(update={"code": int(Code.RUN_FAILED)}).model_dump_json())
    monkeypatch.setattr(runs, "time", clock)
    monkeypatch.setattr(link, "run_status", lambda _, run_id: asked.append(run_id))
    for _ in range(3):
        reviver = Reviver(federation, lambda line: None)
        for _ in range(5):
            reviver.look()
            clock.now += 30
    assert asked == [1] and link.submitted == 1
