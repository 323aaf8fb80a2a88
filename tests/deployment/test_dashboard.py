"""The dashboard over a real federation: a run is asked about, started, watched and aborted, whoever kills the pages."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bench.deployment import NGINX, Deployment
from bench.waiting import PATIENCE, until
from tests.common.web.served import visitor
from tests.deployment.hospitals import config_of, reached, standing, under_way, undisturbed, written
from tests.federations import free_port

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.skipif(not Path(NGINX).exists(), reason="nginx is not installed"),
]


@pytest.fixture
def served(deployment: Deployment) -> Iterator[Deployment]:
    yield deployment
    if "dashboard" in deployment.processes:
        deployment.end("dashboard")


def opened(deployment: Deployment) -> httpx.Client:
    """Start the dashboard as people do, and come in by its link."""
    before = len(deployment.log("dashboard"))
    port = free_port()
    deployment.start("dashboard", sys.executable, "-m", "server", "dashboard", "--port", port)
    until(lambda: "Open " in deployment.log("dashboard")[before:], lambda: deployment.log("dashboard"))
    link = re.findall(r"Open (\S+)", deployment.log("dashboard"))[-1]
    until(lambda: answers(port), "the dashboard answers")
    return visitor(link)


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/style.css").status_code == 200
    except httpx.TransportError:
        return False


def said(client: httpx.Client, path: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", client.get(path, timeout=PATIENCE).text))


def sends(client: httpx.Client, path: str, fields: dict[str, str]) -> str:
    """Send a form of the first page; returns the address of what came of it."""
    found = re.search(r'name="token" value="([^"]+)"', client.get("/").text)
    assert found
    return client.post(path, data=fields | {"token": found[1]}, timeout=PATIENCE).url.path


def test_a_run_goes_on_to_the_same_bits_while_the_pages_that_started_it_are_killed(
    served: Deployment, small_model: Path, prepared: dict[str, Path], tmp_path: Path
) -> None:
    config = config_of(small_model, "paged", 4)
    expected = undisturbed(config, prepared, tmp_path / "alone")
    configs = served.federation / "configs"
    configs.mkdir(exist_ok=True)
    shutil.copy(written(config, tmp_path), configs)
    client = opened(served)
    assert "flower-superlink up flower-superexec up" in said(client, "/")
    asked = sends(client, "/ask", {"file": "paged.toml"})
    until(lambda: "Outcome done" in said(client, asked), lambda: said(client, asked))
    assert "5 of 5 sites would take part; the quorum is 5." in said(client, asked)
    started = sends(client, "/start", {"file": "paged.toml"})
    until(lambda: "Outcome done" in said(client, started), lambda: said(client, started))
    under_way(served, config, 2)
    until(lambda: "5 of 5 sites are there." in said(client, "/runs/paged"), lambda: said(client, "/runs/paged"))
    assert "no process works on it" not in said(client, "/runs/paged")
    os.kill(served.processes.pop("dashboard").pid, signal.SIGKILL)
    under_way(served, config, 3)
    client = opened(served)
    until(lambda: "State finished" in said(client, "/runs/paged"), lambda: said(client, "/runs/paged"))
    assert reached(served, config) == expected


def test_a_run_is_aborted_from_its_page(served: Deployment, small_model: Path, tmp_path: Path) -> None:
    config = config_of(small_model, "given-up", 50)
    shutil.copy(written(config, tmp_path), served.federation / "configs")
    client = opened(served)
    sends(client, "/start", {"file": "given-up.toml"})
    under_way(served, config, 1)
    aborted = sends(client, "/abort", {"run": "given-up"})
    until(lambda: "Outcome done" in said(client, aborted), lambda: said(client, aborted))
    assert standing(served, config)["state"] == "aborted"
    assert "given-up was aborted." in said(client, aborted)
