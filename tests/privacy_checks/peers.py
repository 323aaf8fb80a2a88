"""A ledger that was put back with its mark is noticed by the other sites, over whole runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from client.node.handlers import HANDLERS, answer
from client.privacy.chain import ledger_folder
from client.privacy.ledger import Ledger
from client.site.anchor import ANCHOR
from client.training.workplace import Workplace
from common import synthetic
from common.config import RunConfig
from common.errors import Code
from common.messages.heads import Gathered
from common.messages.kinds import Reply, Task
from server.rounds.loop import run_rounds
from server.rounds.store import RoundRow, RunStore
from simulation.arms import LocalExchange
from simulation.prepare import prepare
from tests.privacy_checks import Check, on_broken
from tests.small import make_small_model, small_config

PRIVACY = {"clip_norm": 0.5, "noise_multiplier": 8.0, "delta": 1e-5}
PUT_BACK = "south"


class Answering(LocalExchange):
    """Sites that start anew with each run, and whose refusals travel, as they do from a hospital."""

    def contributions(self, task: Task, enough: Callable[[], bool]) -> Iterator[Reply]:
        """Ask for each site's part of a round."""
        for site in self._sites:
            with patch.dict("client.node.handlers._sites", {site.folder: site}):
                yield answer(site.folder, HANDLERS["train"], task)

    def evaluations(self, task: Task, enough: Callable[[], bool]) -> Iterator[Reply]:
        """Ask for each site's held-out counts, which its policy keeps."""
        for site in self._sites:
            with patch.dict("client.node.handlers._sites", {site.folder: site}):
                yield answer(site.folder, HANDLERS["evaluate"], task)


@cache
def _folder() -> TemporaryDirectory[str]:
    return TemporaryDirectory()


@cache
def _model() -> Path:
    return make_small_model(Path(_folder().name))


def private_config(model: Path, name: str) -> RunConfig:
    """Return a run of one round, from which one of three sites may be missing."""
    federation = {"population": 30, "sampling_rate": 0.1, "rounds": 1, "quorum": 2}
    return small_config(model, name=name, federation=federation, privacy=PRIVACY)


def ran(config: RunConfig, folders: dict[str, Path], folder: Path) -> RoundRow:
    """Run a round with sites that have just started and a coordinator that remembers nothing; return its row."""
    with RunStore.opened(folder / config.name, config) as store:
        run_rounds(config, Answering([Workplace(path) for path in folders.values()]), store)
        return store.rounds()[0]


def put_back(folder: Path, copy: Path) -> None:
    """Replace the whole folder of a ledger by an older copy, as restoring a snapshot does."""
    shutil.rmtree(ledger_folder(folder))
    shutil.copytree(copy / "ledger", ledger_folder(folder))
    shutil.copy(copy / ANCHOR, folder / ANCHOR)


def check_put_back() -> bool:
    """After a second run south's ledger is put back to the first: in the third run it refuses, and charges nothing."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        configs = [private_config(_model(), run) for run in ("one", "two", "three")]
        folders = prepare(configs[0], synthetic.codebook(), folder / "sites")
        all_three = ran(configs[0], folders, folder).sites
        shutil.copytree(ledger_folder(folders[PUT_BACK]), folder / "copy" / "ledger")
        shutil.copy(folders[PUT_BACK] / ANCHOR, folder / "copy" / ANCHOR)
        if ran(configs[1], folders, folder).sites != all_three:
            return False
        put_back(folders[PUT_BACK], folder / "copy")
        third = ran(configs[2], folders, folder)
        lines = len(Ledger.opened(folders[PUT_BACK]).entries())
        return third.refused == {PUT_BACK: int(Code.LEDGER_ROLLED_BACK)} and lines == 1


def _forgetful(self: Gathered, site: str, heads: object) -> None:
    """Pass nothing on."""


CHECKS = [
    Check(
        "ledger: heads over a federation",
        check_put_back,
        {
            "the coordinator passes nothing on": partial(
                on_broken, check_put_back, "common.messages.heads.Gathered.take", _forgetful
            ),
            "the peers remember nothing": partial(
                on_broken, check_put_back, "client.training.walk.heard_of_peers", lambda folder: {}
            ),
            "the site does not ask": partial(
                on_broken, check_put_back, "client.privacy.ledger.Ledger.seen_by_peers", lambda *_: None
            ),
        },
    )
]
