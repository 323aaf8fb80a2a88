"""What the dashboard computes is told of the time in which it may compute."""

from __future__ import annotations

import signal
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench import dashboard
from bench.stored import stored
from tests.small import small_config


class Clock:
    """The processor's seconds of a process that computes whenever it is not halted."""

    def __init__(self) -> None:
        self.spent, self.since, self.awake = 0.0, time.monotonic(), True

    def read(self, process: int) -> float:
        """Return what it has had so far."""
        now = time.monotonic()
        self.spent, self.since = self.spent + self.awake * (now - self.since), now
        return self.spent

    def signalled(self, process: int, sign: int) -> None:
        """Halt it, or let it go on."""
        self.read(process)
        self.awake = sign == signal.SIGCONT


def test_a_dashboard_that_computes_all_the_time_keeps_a_whole_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, clock = ["a", "b", "c"], Clock()
    config = small_config(Path("none"), name="long", federation={"sites": 3, "quorum": 1, "rounds": 50})
    work = dashboard.Work(tmp_path, config, stored(tmp_path, config, names, 3), 10, 0.01)
    monkeypatch.setattr(dashboard, "_SETTLED", 0.0)
    monkeypatch.setattr(dashboard, "Watching", lambda link, browsers: nullcontext(SimpleNamespace(news=0)))
    monkeypatch.setattr(dashboard, "cpu_seconds", clock.read)
    monkeypatch.setattr(dashboard, "megabytes", lambda process: 1)
    monkeypatch.setattr(dashboard.os, "kill", clock.signalled)
    found = dashboard.watched(work, "", 0, (3, 40, 10), 1)
    assert found["dashboard_cores"] > 0.8
