"""Whether a process holds the lock of a file: told by others who look at the same time, and without a lock."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from common.processes import held, seen_held

HOLDS = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("told", [held, seen_held])
def test_a_lock_is_seen_while_another_process_holds_it_and_no_longer(
    tmp_path: Path, told: Callable[[Path], bool]
) -> None:
    path = tmp_path / ".lock"
    assert not told(path)
    command = [sys.executable, "-c", HOLDS, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert told(path)
        process.kill()
    path.touch()
    assert not told(path)


@pytest.mark.parametrize("told", [held, seen_held])
def test_who_only_looks_is_not_taken_for_the_holder(tmp_path: Path, told: Callable[[Path], bool]) -> None:
    path = tmp_path / ".lock"
    with path.open("w") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        assert not told(path)


def test_a_lock_is_seen_without_taking_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / ".lock"
    path.touch()
    monkeypatch.setattr(fcntl, "flock", lambda *_: pytest.fail("a lock was taken"))
    assert not seen_held(path)
