"""A site that is put back to a snapshot in the middle of a secure sum: what notices it, and what nothing does.

A snapshot of files, after which the process starts anew, gets no second sum under masks that were used: keys live in
memory alone. One of the memory too does, and docs/privacy.md says so.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.privacy.claims import machine_folder
from client.site.anchor import ANCHOR
from client.training import secure
from client.training.workplace import Workplace
from common import synthetic
from common.config import RunConfig
from common.errors import Code, FedReasonError
from common.messages.kinds import Task
from simulation.prepare import prepare
from tests.common.secagg.cohort import Cohort
from tests.secure_session import Coordinator
from tests.whole_site import FakeSite, recorded, run_of

_SITE = "north"
_FIVE = {"hospitals": ["coast", "east", "north", "south", "west"], "patients": 4}
_SHARED = {"noise": "distributed", "colluders": 1, "dropouts": 1}
_EXACT: dict[str, Any] = {"privacy": None, "lattice": {"bits": 20, "clip_norm": 1.0}}


def secure_run(**sections: Any) -> RunConfig:
    federation = {"sites": 5, "quorum": 4, "population": 100, "aggregation": "secure"}
    return run_of(**{"federation": federation, "privacy": _SHARED, "simulation": _FIVE, **sections})


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of what the machine of all sites knows."""
    monkeypatch.setenv("FEDREASON_STATE", str(tmp_path / "machine"))
    return machine_folder()


class Disk:
    """What a snapshot holds of a site, to be put back."""

    def __init__(self, folder: Path, machine: Path, kept: Path, *names: str) -> None:
        self._places = {name: machine if name == "machine" else folder / name for name in names}
        self._kept = kept
        for name, place in self._places.items():
            copy(place, kept / name)

    def put_back(self) -> None:
        for name, place in self._places.items():
            copy(self._kept / name, place)


def copy(source: Path, target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    target.unlink(missing_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    elif source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


class Masked:
    """Five sites that have masked their sums; of one there is a snapshot from just before."""

    def __init__(self, config: RunConfig, root: Path, machine: Path, *names: str) -> None:
        self.here = here = Coordinator(config, prepare(config, synthetic.codebook(), root / "sites"), opened=FakeSite)
        self.folder = here.places[_SITE].folder
        with recorded(self.folder):
            self.opening = here.exchange()[0][_SITE]
            here.exchange()
            self.disk = Disk(self.folder, machine, root / "snapshot", *names)
            self.inbox = here.exchange()[0][_SITE]

    def put_back(self, *, restarted: bool) -> Workplace:
        """Put the site back, and return it as its process is then."""
        self.disk.put_back()
        return FakeSite(self.folder) if restarted else self.here.places[_SITE]


def refusal(site: Workplace, task: Task) -> Code:
    """Return how a site refuses a task, for which no record is used."""
    with recorded(site.folder) as seen, pytest.raises(FedReasonError) as caught:
        secure.take_part(site, task)
    assert not seen.touched and not seen.noise
    return caught.value.code


@pytest.mark.parametrize("restarted", [False, True])
def test_a_state_folder_that_was_put_back_gets_no_second_sum_of_a_private_run(
    tmp_path: Path, machine: Path, restarted: bool
) -> None:
    """What stands outside it of the ledger, or the process that runs, knows more lines."""
    done = Masked(secure_run(), tmp_path, machine, "state")
    site = done.put_back(restarted=restarted)
    assert refusal(site, done.inbox) is Code.LEDGER_ROLLED_BACK
    assert refusal(site, done.opening) is Code.LEDGER_ROLLED_BACK


@pytest.mark.parametrize("restarted", [False, True])
def test_a_state_folder_that_was_put_back_gets_no_second_sum_of_a_run_without_privacy(
    tmp_path: Path, machine: Path, restarted: bool
) -> None:
    """A process that runs is past that message, and one that starts has no key of the session."""
    done = Masked(secure_run(**_EXACT), tmp_path, machine, "state")
    assert refusal(done.put_back(restarted=restarted), done.inbox) is Code.SECAGG_TURN


def test_a_whole_disk_that_was_put_back_is_noticed_by_the_heads_that_peers_saw_and_else_cannot_go_on(
    tmp_path: Path, machine: Path
) -> None:
    """A process that starts has no key of the session, and the snapshot knows that it was begun.

    One from before the session makes other keys, which no peer takes (tests/common/secagg/test_journal.py).
    """
    done = Masked(secure_run(), tmp_path, machine, "state", ANCHOR, "machine")
    head = done.here.places[_SITE].ledger.head
    site = done.put_back(restarted=True)
    assert head.sequence == 1 and site.ledger.entries() == [], "the line of the sum that left is gone"
    for task in (done.inbox, done.opening):
        assert refusal(site, replace(task, ledgers={_SITE: {"west": head}})) is Code.LEDGER_ROLLED_BACK
    assert refusal(site, done.inbox) is Code.SECAGG_TURN
    assert refusal(site, done.opening) is Code.SECAGG_REPLAYED


def test_a_snapshot_of_the_memory_masks_two_sums_by_the_same_masks_and_nothing_at_the_site_notices() -> None:
    """A fork is such a snapshot, files and all. What the coordinator gets is the difference of two noised sums."""
    cohort = Cohort(5).until(2)
    site, message = cohort.sites["site-000"], cohort.server.proceed()["site-000"]
    first: Any = site_in_a_fork(lambda: site.take(message), np.uint32)
    sent = cohort.vectors["site-000"]
    cohort.vectors["site-000"] = np.random.default_rng().integers(-(2**20), 2**20, sent.size)
    second: Any = site.take(message)
    difference = (second.words - first).astype(np.int32)
    assert np.array_equal(difference, cohort.vectors["site-000"] - sent)


def site_in_a_fork(act: Callable[[], Any], kind: type) -> Any:
    """Return the words of the message that a copy of this process makes."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(act().words.tobytes())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        content = pipe.read()
    os.waitpid(child, 0)
    return np.frombuffer(content, dtype=kind)
