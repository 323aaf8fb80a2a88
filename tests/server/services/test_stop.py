"""`stop` ends the coordinator that holds the lock, and no process that only bears its number."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bench.waiting import PATIENCE
from common.errors import Code
from common.processes import mark_of
from server.provisioning.federation import Federation
from server.services.coordinator import running, stop
from server.services.supervision import prepare
from tests.federations import refused
from tests.paths import ROOT

COORDINATOR = """
import sys, time
from pathlib import Path
from server.provisioning.federation import Federation
from server.services.coordinator import _alone
with _alone(Federation.open(Path(sys.argv[1]))):
    print("up", flush=True)
    time.sleep(600)
"""
STRANGER = "import time; print('up', flush=True); time.sleep(600)"


@contextmanager
def started(*words: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", *words], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("mark", ["another boot-1", None])
def test_a_process_that_only_bears_the_number_is_left_alone(federation: Federation, mark: str | None) -> None:
    """As the number that the coordinator has in its container is that of somebody else on the host."""
    with started(COORDINATOR, str(federation.folder)), started(STRANGER) as stranger:
        told = {"pid": stranger.pid, "mark": mark} if mark else {"pid": stranger.pid}
        (federation.superlink / "up.json").write_text(json.dumps(told))
        error = refused(Code.SERVICE_FAILED, lambda: stop(federation))
        assert str(stranger.pid) in error.found and "container" in error.found and "docker compose stop" in error.fix
        assert running(federation) == stranger.pid and stranger.poll() is None


def test_a_number_that_nobody_has_here_is_no_traceback(federation: Federation) -> None:
    with started(STRANGER) as gone:
        mark = mark_of(gone.pid)
    with started(COORDINATOR, str(federation.folder)):
        (federation.superlink / "up.json").write_text(json.dumps({"pid": gone.pid, "mark": mark}))
        refused(Code.SERVICE_FAILED, lambda: stop(federation))


def test_the_coordinator_itself_is_stopped(federation: Federation) -> None:
    with started(COORDINATOR, str(federation.folder)) as process:
        assert running(federation) == process.pid
        assert stop(federation)
        assert process.wait(PATIENCE) != 0 and running(federation) is None
    assert not stop(federation)


def test_without_a_lock_nothing_is_stopped_whatever_the_file_says(federation: Federation) -> None:
    prepare(federation)
    with started(STRANGER) as stranger:
        (federation.superlink / "up.json").write_text(json.dumps({"pid": stranger.pid, "mark": mark_of(stranger.pid)}))
        assert not stop(federation) and stranger.poll() is None
