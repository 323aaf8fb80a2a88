"""Children end with their parent, also those that wait for what never comes; the collector rests over imports."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

from bench.waiting import PATIENCE
from common.processes import loading, mark_of

CHILD = """
import signal, sys, time
from common.processes import outlive_parent_by
for one in (signal.SIGINT, signal.SIGTERM):
    signal.signal(one, signal.SIG_IGN)
if sys.argv[1] == "watched late":
    time.sleep(3)
if sys.argv[1] != "left alone":
    outlive_parent_by(0.5, int(sys.argv[2]))
print("ready", flush=True)
time.sleep(600)
"""
PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[2], sys.argv[1], str(os.getpid())])
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(("kind", "ends"), [("watched", True), ("watched late", True), ("left alone", False)])
def test_a_child_that_hangs_ends_with_its_parent(kind: str, ends: bool) -> None:
    words = [sys.executable, "-c", PARENT, kind, CHILD]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        said = [parent.stdout.readline() for _ in range(1 if kind == "watched late" else 2)]
        child = next(int(line) for line in said if line.strip().isdigit())
        parent.kill()
    try:
        until = time.monotonic() + (PATIENCE if ends else 2)
        while alive(child) and time.monotonic() < until:
            time.sleep(0.1)
        assert alive(child) != ends
    finally:
        if alive(child):
            os.kill(child, signal.SIGKILL)


def test_the_collector_rests_while_libraries_are_loaded_and_works_afterwards_whatever_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "large_library.py").write_text("made = [[] for _ in range(1000)]\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = gc.get_freeze_count()
    with loading():
        assert not gc.isenabled()
        with loading():
            made = import_module("large_library").made
        assert not gc.isenabled(), "the outer one is not through"
    assert gc.isenabled() and gc.get_freeze_count() >= before + len(made), "nor does it look at them later"
    with pytest.raises(ImportError), loading():
        raise ImportError
    assert gc.isenabled()


def test_what_is_loaded_already_keeps_nothing_else() -> None:
    """A round loop or an accountant that is begun often, in one process, would keep what lies about each time."""
    before = gc.get_freeze_count()
    with loading():
        import_module("common.processes")
    assert gc.get_freeze_count() <= before


def alive(number: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        with open(f"/proc/{number}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_mark_tells_a_process_from_a_later_one_and_a_zombie_has_none() -> None:
    assert mark_of(os.getpid()) == mark_of(os.getpid()) is not None
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as one:
        assert mark_of(one.pid) not in (None, mark_of(os.getpid()))
        one.kill()
        os.waitid(os.P_PID, one.pid, os.WEXITED | os.WNOWAIT)
        assert mark_of(one.pid) is None
