"""A real process of a site, asked over its pipe as by its node: what changed on disk holds from the next task on."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bench.waiting import PATIENCE
from client.node.resident import Resident
from client.privacy.chain import ledger_folder
from client.site.kit import accepted_roster
from common import synthetic
from common.config import RunConfig
from common.errors import Code
from common.messages.kinds import Layout, Refusal, Reply, Task
from tests.hospitals import federation_of, lines, machine, private_run, refusal, write_registry
from tests.privacy_checks.unit import trained

pytestmark = pytest.mark.federation
ROWS = synthetic.registry("north", 24, seed=7)


@pytest.fixture
def site() -> Iterator[Path]:
    with machine() as folder:
        yield federation_of(folder, "amc", "snubh")[0]


def started(site: Path) -> Resident:
    resident = Resident(site)
    resident.start()
    until = time.monotonic() + PATIENCE
    while not resident.ready(1.0):
        assert time.monotonic() < until
    return resident


def told(resident: Resident, config: RunConfig, number: int) -> Reply:
    bound = accepted_roster(resident.folder).sha256
    layout = given(resident, "query", Task(config, 0, 0, None, bound))
    if isinstance(layout, Refusal):
        return layout
    assert isinstance(layout, Layout)
    return given(resident, "train", Task(config, number, 0, np.zeros(layout.size, dtype=np.float32), bound))


def given(resident: Resident, kind: str, task: Task) -> Reply:
    resident.give(kind, task)
    until = time.monotonic() + PATIENCE
    while (reply := resident.take(1.0)) is None:
        assert time.monotonic() < until
    return reply


def test_erased_and_opted_out_patients_leave_and_a_removed_ledger_stops_the_process_and_the_next(
    site: Path, small_model: Path
) -> None:
    config = private_run(small_model, questions={"held_out": 0.0})
    resident = started(site)
    try:
        assert refusal(told(resident, config, 1)) is None and trained(site, config.name) == 24
        write_registry(site, ROWS[1:])
        assert refusal(told(resident, config, 2)) is None and trained(site, config.name) == 23
        (site / "excluded.txt").write_text(f"{ROWS[5]['patient_id']}\n")
        assert refusal(told(resident, config, 3)) is None and trained(site, config.name) == 22
        (site / "excluded.txt").write_text(f"{ROWS[0]['patient_id']}\n")
        assert refusal(told(resident, config, 4)) == int(Code.SITE_CLOSED)
        (site / "excluded.txt").write_text("")
        assert lines(site) == 3
        shutil.rmtree(ledger_folder(site))
        assert refusal(told(resident, config, 5)) == int(Code.LEDGER_ROLLED_BACK)
    finally:
        resident.stop()
    resident = started(site)
    try:
        assert refusal(told(resident, config, 6)) == int(Code.LEDGER_ROLLED_BACK)
        assert not (ledger_folder(site) / "ledger.jsonl").exists()
    finally:
        resident.stop()
