"""A site that the coordinator does not know yet waits, and ends with its number where that does not change.

Real SuperLink and nginx; the site's node runs in this process. What nginx lets through stands for what is registered.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.deployment import NGINX, Deployment
from bench.waiting import PATIENCE, until
from client.node import node
from client.node.status import Record, read_status
from client.site.config import load_site
from common import synthetic
from common.errors import Code, FedReasonError
from simulation.prepare import prepare
from tests.small import small_config

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.skipif(not Path(NGINX).exists(), reason="nginx is not installed"),
]


@pytest.fixture(scope="module")
def deployment(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("registration")
    prepared = prepare(small_config(small_model), synthetic.codebook(), folder / "p")
    site = next(iter(prepared))
    with Deployment(folder, {site: prepared[site] / "registry.csv"}, {"base_models": ["*"]}) as deployment:
        deployment.provision()
        deployment.up()
        yield deployment


class Running:
    """A site's node in a thread of this process."""

    def __init__(self, deployment: Deployment, *, known: bool) -> None:
        self.folder, self.deployment = deployment.hospitals / deployment.sites[0], deployment
        self.stop, self.ended = threading.Event(), list[FedReasonError]()
        self.know(known)
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        try:
            node.serve(self.folder, load_site(self.folder), self.stop)
        except FedReasonError as error:
            self.ended.append(error)

    @property
    def record(self) -> Record:
        found = read_status(self.folder)
        assert found is not None
        return found

    def eventually(self, true: Callable[[Record], bool]) -> None:
        until(lambda: read_status(self.folder) is not None and true(self.record), lambda: f"{self.record}")

    def know(self, known: bool) -> None:
        """Have the door know the site, or not."""
        let_through = self.deployment.federation / "deploy" / "nginx" / "admitted"
        aside = let_through.with_name("aside")
        if known is not let_through.exists():
            (aside if known else let_through).rename(let_through if known else aside)


@pytest.fixture
def site(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Running]]:
    monkeypatch.setattr(node, "IDLE_POLL", 0.2)
    started: list[Running] = []

    def start() -> Running:
        started.append(Running(deployment, known=False))
        return started[-1]

    yield start
    for one in started:
        one.stop.set()
        one.thread.join(PATIENCE)
        one.know(True)


def test_a_site_that_is_registered_only_later_waits_and_goes_on(site: Callable[[], Running]) -> None:
    running = site()
    running.eventually(lambda record: record.code == Code.KEY_UNKNOWN)
    assert "not registered yet" in running.record.text and "E702 after" in running.record.text
    running.know(True)
    running.eventually(lambda record: record.state == "connected")
    running.know(False)
    running.eventually(lambda record: record.state == "reconnecting")
    running.know(True)
    running.eventually(lambda record: record.state == "connected")
    assert running.ended == []


def test_a_site_that_stays_unknown_ends_with_its_number(
    site: Callable[[], Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "_ADMITTED_SECONDS", 3.0)
    monkeypatch.setattr(node, "_KNOWN_SECONDS", 3.0)
    running = site()
    running.thread.join(PATIENCE)
    assert [error.code for error in running.ended] == [Code.KEY_UNKNOWN]
    assert running.record.state == "refused" and running.record.code == Code.KEY_UNKNOWN
