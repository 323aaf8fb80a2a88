"""A real federation on loopback: what is reached and refused, its pages, how sites pause, stop and leave, what is told.

The tests share one deployment and run in the order in which they stand.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.deployment import NGINX, ROOT, Deployment, descendants
from bench.waiting import PATIENCE, until
from common.identity.keys import new_node_key, save_key
from server.rounds.store import RunStore
from tests.deployment.hospitals import (
    HOSPITALS,
    config_of,
    reached,
    refused,
    standing,
    state,
    under_way,
    undisturbed,
    written,
)
from tests.deployment.paged import opened, said, sends
from tests.tls import SIGNED

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.skipif(not Path(NGINX).exists(), reason="nginx is not installed"),
]


@pytest.fixture
def served(deployment: Deployment) -> Iterator[Deployment]:
    yield deployment
    if "dashboard" in deployment.processes:
        deployment.end("dashboard")


def test_only_the_fleet_api_is_reached_from_outside(deployment: Deployment) -> None:
    context = ssl.create_default_context(cafile=str(deployment.federation / "certificates" / "ca.crt"))

    def status(path: str) -> int:
        request = urllib.request.Request(
            f"https://127.0.0.1:{deployment.port}{path}", data=b"", headers=SIGNED, method="POST"
        )
        try:
            return int(urllib.request.urlopen(request, context=context, timeout=PATIENCE).status)
        except urllib.error.HTTPError as error:
            return error.code

    for path in ("/v1/control/start-run", "/v1/control/register-node", "/v1/runtime/acquire-task", "/v1/runtime/x"):
        assert status(path) in (403, 404), path
    for path in ("/v1/fleet/../control/start-run", "/v1/fleet/%2e%2e/control/start-run", "/", "/v1", "/docs"):
        assert status(path) in (400, 403, 404), path
    assert status("/v1/fleet/pull-messages") not in (403, 404)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and iproute2")
def test_from_another_machine_the_superlink_cannot_be_reached_and_nginx_can(deployment: Deployment) -> None:
    name = f"fr{os.getpid() % 10000}"

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    try:
        ip("netns", "add", name)
    except subprocess.CalledProcessError:
        pytest.skip("network namespaces are not allowed here")
    try:
        ip("link", "add", f"{name}h", "type", "veth", "peer", "name", f"{name}g", "netns", name)
        ip("addr", "add", "10.231.7.1/30", "dev", f"{name}h")
        ip("link", "set", f"{name}h", "up")
        ip("-n", name, "addr", "add", "10.231.7.2/30", "dev", f"{name}g")
        ip("-n", name, "link", "set", f"{name}g", "up")

        def connects(port: int) -> bool:
            program = f"import socket; socket.create_connection(('10.231.7.1', {port}), 3)"
            command = ["ip", "netns", "exec", name, sys.executable, "-c", program]
            return subprocess.run(command, capture_output=True).returncode == 0

        assert connects(deployment.port)
        assert not connects(deployment.superlink_port)
    finally:
        ip("netns", "del", name)


def test_a_second_start_and_a_used_port_are_refused(deployment: Deployment) -> None:
    assert refused(deployment, "client", "--site", "north") == "E811"
    assert refused(deployment, "server", "up") in ("E902", "E904")


def test_there_is_no_insecure_mode(deployment: Deployment) -> None:
    assert refused(deployment, "client", "--site", "north", "--insecure") == "E803"
    assert refused(deployment, "server", "up", "--insecure") == "E803"


def test_a_run_outside_a_site_s_policy_is_refused_by_its_number_before_it_starts(
    deployment: Deployment, small_model: Path, tmp_path: Path
) -> None:
    config = config_of(small_model, "long", 51)
    done = deployment.command("server", "ask", written(config, tmp_path), "--json")
    assert done.returncode != 0, done.stdout + done.stderr
    assert done.stdout.count("832") == len(HOSPITALS), done.stdout + done.stderr
    done = deployment.command("server", "run", written(config, tmp_path))
    assert done.returncode == 1 and "E503" in done.stderr and "E832" in done.stderr, done.stdout + done.stderr
    assert not (deployment.federation / "runs" / "long" / "checkpoint.safetensors").exists()


def test_before_a_run_every_site_says_whether_it_would_take_part(
    deployment: Deployment, small_model: Path, tmp_path: Path
) -> None:
    config = config_of(small_model, "asked", 4)
    done = deployment.command("server", "ask", written(config, tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(site in done.stdout for site in HOSPITALS)


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
    assert "4 of 4 sites would take part; the quorum is 4." in said(client, asked)
    started = sends(client, "/start", {"file": "paged.toml"})
    until(lambda: "Outcome done" in said(client, started), lambda: said(client, started))
    under_way(served, config, 2)
    until(lambda: "4 of 4 sites are there." in said(client, "/runs/paged"), lambda: said(client, "/runs/paged"))
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


def test_a_paused_site_is_left_out_and_comes_back(deployment: Deployment, small_model: Path, tmp_path: Path) -> None:
    config = config_of(small_model, "paused", 3, quorum=3)
    resident = [number for number, line in descendants(deployment.processes["west"].pid).items() if "resident" in line]
    assert resident
    deployment.must("client", "pause", "--site", "west", "--reason", "the GPU is needed")
    until(lambda: not Path(f"/proc/{resident[0]}").exists(), "the resident process of west ends")
    deployment.must("server", "run", written(config, tmp_path))
    with RunStore.opened(deployment.federation / "runs" / config.name, config) as store:
        rows = store.rounds()
    assert all("west" not in row.sites and len(row.sites) == 3 for row in rows)
    assert {row.refused.get("west") for row in rows} == {812}
    deployment.must("client", "resume", "--site", "west")
    until(lambda: "ready" in deployment.log("west"), lambda: deployment.log("west"))


def test_an_aborted_run_stops_the_sites_that_compute(deployment: Deployment, small_model: Path, tmp_path: Path) -> None:
    config = config_of(small_model, "aborted", 50)
    run = deployment.start("run", sys.executable, "-m", "server", "run", written(config, tmp_path))
    until(lambda: standing(deployment, config).get("round") == 2, lambda: deployment.log("run"))
    deployment.must("server", "abort", "aborted")
    assert run.wait(PATIENCE) == 1
    assert "E912" in deployment.log("run")
    deployment.processes.pop("run")
    assert standing(deployment, config)["state"] == "aborted"
    until(lambda: all("working" not in state(deployment, site) for site in HOSPITALS), "the sites stop working")


def test_status_outbox_and_health_tell_what_happened(deployment: Deployment) -> None:
    status = deployment.status()
    text = json.dumps(status)
    assert all(site in text for site in HOSPITALS)
    entries = json.loads(deployment.must("client", "outbox", "--site", "north", "--json"))
    kinds = {entry["kind"] for entry in entries}
    assert {"layout", "contribution", "evaluation", "estimate", "refusal"} <= kinds
    last = entries[-1]
    content = subprocess.run(
        [sys.executable, "-m", "client", "outbox", "--site", "north", "--contents", str(last["number"])],
        cwd=ROOT, env=deployment.environment, capture_output=True, check=True,
    ).stdout  # fmt: skip
    assert len(content) == last["bytes"]
    deployment.must("client", "status", "--site", "north")


def test_stopped_by_a_signal_a_site_leaves_no_process_and_comes_back(deployment: Deployment) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        process = deployment.processes["east"]
        below = descendants(process.pid)
        for child in below if number == signal.SIGHUP else ():  # a terminal that is closed tells them all
            os.kill(child, number)
        process.send_signal(number)
        assert process.wait(PATIENCE) == 0, deployment.log("east")
        assert not any(Path(f"/proc/{child}").exists() for child in below)
        (deployment.folder / "east.log").unlink()
        deployment.start_site("east")
        until(lambda: "connected" in deployment.log("east"), lambda: deployment.log("east"))


def test_a_registry_that_vanished_is_refused_at_the_start(deployment: Deployment, prepared: dict[str, Path]) -> None:
    registry = prepared["west"] / "registry.csv"
    deployment.end("west")
    registry.rename(registry.with_suffix(".away"))
    assert refused(deployment, "client", "--site", "west") == "E301"
    registry.with_suffix(".away").rename(registry)
    deployment.start_site("west")


def test_another_authority_is_refused(deployment: Deployment, tmp_path: Path) -> None:
    deployment.must(
        "server", "provision", "--name", "other", "--host", "127.0.0.1", "--site", "x", "--out", tmp_path / "k"
    )
    folder = deployment.hospitals / "west"
    deployment.end("west")
    mine = (folder / "ca.crt").read_bytes()
    (folder / "ca.crt").write_bytes((tmp_path / "k" / "x" / "ca.crt").read_bytes())
    assert refused(deployment, "client", "--site", "west") == "E802"
    (folder / "ca.crt").write_bytes(mine)
    deployment.start_site("west")


def test_a_key_that_is_not_registered_is_refused(deployment: Deployment) -> None:
    keys = deployment.hospitals / "west" / "keys"
    deployment.end("west")
    for name in ("node", "node.pub"):
        (keys / name).rename(keys / f"{name}.mine")
    save_key(keys / "node", new_node_key(), "west")
    assert refused(deployment, "client", "--site", "west") in ("E702", "E712")
    for name in ("node", "node.pub"):
        (keys / f"{name}.mine").replace(keys / name)
    deployment.start_site("west")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")
def test_a_full_disk_stops_the_site_with_its_number_and_nothing_is_lost(deployment: Deployment, tmp_path: Path) -> None:
    folder = deployment.hospitals / "west" / "state"
    deployment.end("west")
    shutil.copytree(folder, tmp_path / "state")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with (folder / "filler").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 4096)
            except OSError:
                pass
        assert refused(deployment, "client", "--site", "west") == "E821"
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    deployment.start_site("west")
    until(lambda: state(deployment, "west") == "connected", lambda: deployment.log("west"))


def test_an_old_roster_is_refused_and_a_revoked_site_ends_with_its_number(
    deployment: Deployment, small_model: Path, tmp_path: Path
) -> None:
    process = deployment.processes["coast"]
    started = time.monotonic()
    deployment.must("server", "revoke", "coast")
    assert process.wait(PATIENCE) == 1
    print(f"revoked site ended after {time.monotonic() - started:.1f} s")
    assert "E702" in deployment.log("coast")
    assert refused(deployment, "client", "--site", "coast") == "E702"
    config = config_of(small_model, "three", 2, sites=3)
    done = deployment.command("server", "ask", written(config, tmp_path), "--json")
    assert done.returncode != 0 and done.stdout.count("712") == 3, done.stdout + done.stderr
    for site in HOSPITALS[1:]:
        assert (deployment.hospitals / site / "roster.pending.json").exists()
        deployment.must("client", "roster", "accept", "--site", site, "--yes")
    deployment.must("server", "run", written(config, tmp_path))
