"""A coordinator whose disk is full goes on with what it can, and says so by its number, once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.waiting import until
from server.services.supervision import Service
from tests.small_disk import needs_small_disk, on_small_disk

FEDERATION = """
from pathlib import Path
from server.provisioning import deploy
from server.provisioning.federation import Federation, FederationConfig
federation = Federation(Path("/mnt"), FederationConfig(name="sepsis", host="localhost", sites=("amc",)))
deploy._LOG_BYTES = 10_000
log = federation.deploy / "nginx" / "access.log"
log.parent.mkdir(parents=True)
log.write_text("x" * 20_000)
"""


def test_a_service_whose_log_has_no_space_prints_no_traceback(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["/bin/sh", "-c", "for i in 1 2 3 4; do echo line $i; done"]
    thing = Service("The thing", words, dict(os.environ), Path("/dev/full"))
    thing.start(tmp_path)
    until(lambda: not thing.alive and "line 4" in thing.last_words())  # those before have gone to the log
    assert capfd.readouterr().err == ""


@needs_small_disk
def test_a_proxys_log_begins_anew_also_where_there_is_no_space_to_keep_it() -> None:
    on_small_disk(
        FEDERATION
        + """
fill()
try:
    deploy.trim_logs(federation)
except OSError as error:
    assert error.errno == 28
assert log.stat().st_size == 0 and not log.with_name("access.log.1").exists()
"""
    )


@needs_small_disk
def test_a_full_disk_keeps_neither_the_roster_nor_runs_from_being_looked_after() -> None:
    on_small_disk(
        FEDERATION
        + """
from server.services import chores
told, done = [], []
chores.flower.superlink_answers = lambda federation: True
chores.control.sync_nodes = lambda federation: done.append("roster") or []
chores.Chores._warn = lambda self: None  # it has no certificates
chores = chores.Chores(federation, told.append, lambda: done.append("runs"))
fill()
for _ in range(2):
    chores.do()
assert done == ["roster", "runs", "runs"], done
assert [line[:4] for line in told] == ["No s", "E821"], told
"""
    )
