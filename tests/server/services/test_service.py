"""One service: it is given up when it keeps dying, ends with all that it started, and its log stays small."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.waiting import until
from common.errors import Code
from server.services.supervision import Service
from tests.federations import refused


def service(script: str, log: Path = Path(os.devnull)) -> Service:
    return Service("The thing", ["/bin/sh", "-c", script], dict(os.environ), log)


def test_what_keeps_dying_is_given_up_with_its_last_words(tmp_path: Path) -> None:
    thing = service("echo starting; echo 'ERROR: the disk is on fire'; echo bye; exit 3")
    thing.start(tmp_path)
    until(lambda: not thing.alive and "on fire" in thing.last_words())
    pauses = [thing.died(float(second)) for second in range(4)]
    assert pauses == [0.5, 1.0, 2.0, 4.0]
    assert "the disk is on fire" in refused(Code.SERVICE_FAILED, lambda: thing.died(4.0)).found


def test_deaths_far_apart_are_forgiven(tmp_path: Path) -> None:
    thing = service("exit 0")
    assert [thing.died(100.0 * number) for number in range(9)] == [0.5] * 9


def test_stopping_a_service_ends_what_it_started_and_what_ignores_sigterm(tmp_path: Path) -> None:
    thing = service("trap '' TERM; (trap '' TERM; sleep 600) & echo $! > child; while true; do sleep 1; done")
    thing.start(tmp_path)
    until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text())
    child = int((tmp_path / "child").read_text())
    coordinator_patience = 0.5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("server.services.supervision._STOP_SECONDS", coordinator_patience)
        thing.stop()
    assert not thing.alive
    until(lambda: not Path(f"/proc/{child}/cmdline").exists() or not Path(f"/proc/{child}/cmdline").read_bytes())


def test_requests_that_went_well_leave_no_line_in_a_services_log(tmp_path: Path) -> None:
    line = '2026-01-02T03:04:05.678Z INFO [uvicorn.access] 127.0.0.1:1 - "POST /v1/control/get-run HTTP/1.1"'
    thing = service(f"echo '{line} 200'; echo '{line} 401'; echo started", tmp_path / "log")
    thing.start(tmp_path)
    until(lambda: (tmp_path / "log").exists() and "started" in (tmp_path / "log").read_text())
    assert len((tmp_path / "log").read_text().splitlines()) == 2 and "401" in (tmp_path / "log").read_text()


def test_a_services_log_stays_small_and_plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.services.supervision._LOG_BYTES", 10_000)
    log = tmp_path / "thing.log"
    thing = service("for i in $(seq 2000); do printf '\\033[92mline %s\\033[0m\\n' $i; done", log)
    thing.start(tmp_path)
    until(lambda: not thing.alive and "line 2000" in thing.last_words())
    until(lambda: log.exists() and "line 2000" in log.read_text())
    assert "\x1b" not in log.read_text()
    assert sum(path.stat().st_size for path in tmp_path.glob("thing.log*")) < 50_000
