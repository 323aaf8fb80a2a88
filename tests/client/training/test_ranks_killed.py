"""A rank of a running site is killed: told by number in its own log, charged once, nothing sent, the next answered."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.waiting import until
from client.site.stage import Stage
from client.training.states import Silent
from client.training.workplace import Workplace
from common import synthetic
from common.errors import Code
from common.messages.kinds import Contribution, Refusal
from simulation.prepare import prepare
from tests.adversary.running import Site, once_charged
from tests.small import small_config
from tests.whole_site import CLIP

pytestmark = pytest.mark.federation


def site_of(small_model: Path, place: Path, **sections: object) -> Site:
    config = small_config(
        small_model,
        federation={"sites": 1, "quorum": 1, "sampling_rate": 1.0, "rounds": 9, "population": 2000},
        simulation={"hospitals": ["north"], "patients": 300},
        **sections,
    )
    (folder,) = prepare(config, synthetic.codebook(), place).values()
    path = folder / "site.toml"
    path.write_text(path.read_text().replace('device = "auto"', 'devices = ["cpu", "cpu"]'))
    size = Workplace(folder).engine(config).layout.size
    return Site(folder, config, size)


@pytest.fixture
def site(small_model: Path, tmp_path: Path) -> Iterator[Site]:
    running = site_of(small_model, tmp_path, privacy=CLIP)
    yield running
    running.computing.stop()


def ranks_of(site: Site) -> list[int]:
    """Return the processes that the site's resident process started to compute with it."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            continue
        if b"client.training.rank" in words and str(site.folder).encode() in words:
            found.append(int(process.name))
    return found


def kill_rank(site: Site) -> None:
    (rank,) = ranks_of(site)
    os.kill(rank, signal.SIGKILL)


def logged(site: Site) -> str:
    return (site.folder / "state" / "log" / "resident.log").read_text()


def few(site: Site) -> None:
    """Let the rounds to come have few patients."""
    federation = site.config.federation.model_copy(update={"sampling_rate": 0.025})
    site.config = site.config.model_copy(update={"federation": federation})


def test_a_rank_that_is_killed_after_the_charge_is_silence_and_the_next_task_is_answered(site: Site) -> None:
    once_charged(site, lambda: kill_rank(site))
    for _ in range(2):
        with pytest.raises(Silent):
            site.ask(1)
    assert site.charged == [(1, 0)] and site.deaths == 1
    assert "E860: Rank 1 of this site ended" in logged(site)
    few(site)
    assert isinstance(site.ask(2), Contribution) and site.charged == [(1, 0), (2, 0)]
    assert site.computing._resident.starts == 1, "the process that holds registry and ledger lives on"
    (rank,) = ranks_of(site)
    site.computing.stop()
    until(lambda: not Path(f"/proc/{rank}").exists(), "a site that stops leaves no rank behind")


def test_a_rank_that_is_killed_over_a_task_without_privacy_is_a_refusal_by_number_and_the_site_goes_on(
    small_model: Path, tmp_path: Path
) -> None:
    site = site_of(small_model, tmp_path)
    try:
        few(site)
        assert isinstance(site.ask(1), Contribution)
        (rank,) = ranks_of(site)
        whole = site.config.federation.model_copy(update={"sampling_rate": 1.0})
        site.config = site.config.model_copy(update={"federation": whole})

        def staged(stage: Stage) -> None:
            """Kill it as soon as the first rank begins with its own patients: it has been given all of the others."""
            if stage is Stage.SAMPLING:
                site.staged = lambda _: None
                os.kill(rank, signal.SIGKILL)

        site.staged = staged
        reply = site.ask(2)
        assert isinstance(reply, Refusal) and reply.code == Code.RANK_LOST
        few(site)
        assert isinstance(site.ask(3), Contribution)
    finally:
        site.computing.stop()
