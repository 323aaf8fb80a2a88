"""A real SuperLink and superexec under `python -m server up`: killed, stopped, behind nginx, with runs that go on.

The tests share one coordinator and run in the order in which they stand. Sites are Flower's own SuperNodes.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
import tomli_w

from bench.waiting import PATIENCE, until
from common.errors import Code
from common.identity.keys import new_node_key, save_key
from server.provisioning.deploy import proxy_command
from server.provisioning.federation import Federation
from server.reports.status import status_of
from server.rounds.runs import abort, find_run, record_of, served
from server.rounds.standing import FILE, Standing, read_standing
from server.services import control, flower
from server.services.admission import revoke
from server.services.coordinator import running, stop
from server.services.supervision import services_up
from tests.federations import command, free_port, joined, made, refused
from tests.paths import ROOT
from tests.small import small_config

pytestmark = pytest.mark.deploy

NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")


@dataclass
class Live:
    """A coordinator that runs, and what was started beside it."""

    federation: Federation
    sites: dict[str, Path]
    folder: Path
    up: subprocess.Popen[bytes] | None = None
    others: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        with (self.folder / "up.log").open("ab") as log:
            words = [sys.executable, "-m", "server", "up", "--federation", str(self.federation.folder)]
            self.up = subprocess.Popen(words, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        self.eventually(lambda: all(services_up(self.federation).values()))

    def eventually(self, holds: Callable[[], object]) -> None:
        until(holds, self.log)

    def log(self) -> str:
        return (self.folder / "up.log").read_text()

    def process(self, name: str) -> int:
        """Number of a service of this coordinator, or of a ServerApp below it."""
        assert self.up is not None
        return next(number for number, line in below(self.up.pid).items() if name in line)

    def standing(self, run: str) -> Standing:
        return read_standing(self.federation.runs / run / FILE) or pytest.fail(f"{run} has no standing")


def below(number: int) -> dict[int, str]:
    """Command lines of everything that a process started, but for what has ended."""
    found: dict[int, str] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            line = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if parent == number and line:
                found |= {int(path.name): line} | below(int(path.name))
    return found


def left_over(federation: Federation) -> list[str]:
    """Command lines on this machine that name the federation."""
    lines = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(federation.folder) in line and "nginx" not in line:
                lines.append(line)
    return lines


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("live")
    federation = made(folder, hosts=["localhost"], port=free_port()).federation
    found = Live(federation, {"amc": joined(federation, "amc")[0]}, folder)
    try:
        found.start()
        yield found
    finally:
        for process in (found.up, *found.others):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()


def config_file(live: Live, name: str, **federation: object) -> Path:
    config = small_config(Path("none"), name=name, federation={"name": "sepsis", "sites": 2, "quorum": 2, **federation})
    table = config.model_dump(mode="json", exclude_none=True)
    table["questions"].pop("codebook_sha256")
    path = live.folder / f"{name}.toml"
    path.write_text(tomli_w.dumps(table))
    return path


def server(live: Live, *words: object) -> subprocess.CompletedProcess[str]:
    return command("server", *words, "--federation", live.federation.folder)


# --- sites come and go ---


def test_up_registers_who_is_on_the_roster_and_admission_whoever_comes_later(live: Live) -> None:
    live.eventually(lambda: "amc is registered" in live.log())
    live.sites["snubh"] = joined(live.federation, "snubh")[0]
    assert {node.site for node in control.nodes(live.federation)} == {"amc", "snubh"}
    assert [site.presence for site in status_of(live.federation).sites] == ["never seen", "never seen"]
    assert control.sync_nodes(live.federation) == []


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
def test_a_site_comes_online_through_nginx_and_a_stranger_does_not(live: Live) -> None:
    subprocess.run(proxy_command(live.federation), check=True)
    live.eventually(lambda: (live.federation.deploy / "nginx" / "nginx.pid").exists())
    try:
        save_key(live.folder / "stranger" / "node", new_node_key())
        strange = supernode(live, live.folder / "stranger" / "node")
        known = supernode(live, live.sites["amc"] / "keys" / "node")
        live.eventually(lambda: [node.site for node in control.nodes(live.federation) if node.online] == ["amc"])
        strange.wait(PATIENCE)  # nginx turns its key away, and Flower's own node gives up
        live.eventually(lambda: "amc is online" in live.log())
        known.terminate()
        assert known.wait(PATIENCE) == 0
        live.eventually(lambda: status_of(live.federation).sites[0].presence == "offline")
        for path, expected in {"/v1/control/list-nodes": 403, "/v1/runtime/x": 403, "/x": 404, "/health": 200}.items():
            assert through_nginx(live, "GET", path) == expected
        assert through_nginx(live, "POST", "/v1/fleet/x/../../control/list-nodes") == 403
        assert through_nginx(live, "GET", "/v1/fleet/pull-messages") == 403
    finally:
        os.kill(int((live.federation.deploy / "nginx" / "nginx.pid").read_text()), signal.SIGTERM)


def supernode(live: Live, key: Path) -> subprocess.Popen[bytes]:
    words = ["--root-certificates", str(live.federation.ca_certificate), "--auth-supernode-private-key", str(key)]
    words += ["--superlink", f"localhost:{live.federation.config.port}", "--isolation", "process"]
    words += ["--port", str(free_port()), "--superexec-auth-secret-file", str(live.federation.superlink / "secret.bin")]
    environment = flower.environment(live.federation) | {"FLWR_HOME": str(live.folder / "node")}
    with (live.folder / "node.log").open("ab") as log:
        command = [flower.executable("flower-supernode"), *words]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    live.others.append(process)
    return process


def through_nginx(live: Live, method: str, path: str) -> int:
    context = ssl.create_default_context(cafile=live.federation.ca_certificate)
    link = http.client.HTTPSConnection("localhost", live.federation.config.port, context=context, timeout=PATIENCE)
    with contextlib.closing(link):
        link.request(method, path)
        return link.getresponse().status


def test_the_superlink_listens_on_loopback_alone(live: Live) -> None:
    port = f"{live.federation.config.superlink_port:04X}"
    tables = [Path("/proc/net/tcp").read_text(), Path("/proc/net/tcp6").read_text()]
    listening = [line.split()[1] for table in tables for line in table.splitlines()[1:] if line.split()[3] == "0A"]
    assert [place for place in listening if place.endswith(f":{port}")] == [f"0100007F:{port}"]


# --- runs without sites: they wait, are killed, go on, are aborted ---


def test_a_run_waits_for_its_sites_and_says_for_whom(live: Live) -> None:
    done = server(live, "run", config_file(live, "waits"), "--detach")
    assert done.returncode == 0, done.stderr
    live.eventually(lambda: live.standing("waits").waiting_for == ("amc", "snubh"))
    again = server(live, "run", config_file(live, "waits"), "--detach")
    assert "under way" in again.stderr
    told = status_of(live.federation, "waits").runs[0]
    assert told.served and told.restarts == 0


@pytest.mark.parametrize("victim", ["flwr-serverapp", "flower-superexec", "flower-superlink"])
def test_whatever_is_killed_the_run_goes_on(live: Live, victim: str) -> None:
    folder, before = find_run(live.federation, "waits"), record_of(find_run(live.federation, "waits"))
    assert before is not None
    os.kill(live.process(victim), signal.SIGKILL)
    if victim != "flower-superlink":
        live.eventually(lambda: (record_of(folder) or before).run_id != before.run_id)
    live.eventually(lambda: all(services_up(live.federation).values()))
    live.eventually(lambda: served(folder) and live.standing("waits").waiting_for == ("amc", "snubh"))
    assert live.standing("waits").state == "waiting"


def test_a_coordinator_that_was_killed_leaves_nothing_and_its_run_goes_on_with_the_next(live: Live) -> None:
    assert live.up is not None
    live.up.kill()
    live.up.wait()
    folder = find_run(live.federation, "waits")
    # A process that ends gives up its memory, and with it its command line, before its files and their locks.
    live.eventually(lambda: not left_over(live.federation) and not served(folder))
    started = datetime.now(UTC)
    live.start()
    # By Flower where its ServerApp had not begun to run, else by us: the run's number tells nothing.
    live.eventually(lambda: served(folder) and live.standing("waits").since > started)
    live.eventually(lambda: live.standing("waits").waiting_for == ("amc", "snubh"))


def test_an_aborted_run_ends_stays_ended_and_can_be_started_again(live: Live) -> None:
    done = server(live, "abort", "waits")
    assert done.returncode == 0, done.stderr
    folder = find_run(live.federation, "waits")
    assert live.standing("waits").state == "aborted" and not served(folder)
    assert not abort(live.federation, "waits")
    time.sleep(8)
    assert not served(folder)
    followed = server(live, "run", config_file(live, "waits"), "--detach")
    assert "was handed to Flower" in followed.stderr
    live.eventually(lambda: live.standing("waits").waiting_for == ("amc", "snubh"))
    assert abort(live.federation, "waits")


def test_a_run_that_stops_ends_its_follower_with_the_runs_own_number(live: Live) -> None:
    done = server(live, "run", config_file(live, "late", deadline=2.0))
    assert done.returncode == 1 and "E503" in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert live.standing("late").code == Code.RUN_QUORUM


def test_a_question_nobody_answers_ends_with_each_name(live: Live) -> None:
    done = server(live, "ask", config_file(live, "asked", deadline=2.0), "--json")
    assert done.returncode == 1, done.stderr
    assert done.stdout.count('"code": 507') == 2 and '"would_start": false' in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("handed_over", [False, True])
def test_a_question_that_is_interrupted_leaves_no_run_and_no_process(
    live: Live, number: signal.Signals, handed_over: bool
) -> None:
    """While it is handed over, and while its ServerApp starts; a second signal changes nothing."""
    name = f"interrupted{number}-{handed_over:d}"
    words = [sys.executable, "-m", "server", "ask", str(config_file(live, name, deadline=120.0))]
    asking = subprocess.Popen(
        [*words, "--federation", str(live.federation.folder)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert live.up is not None
    up = live.up.pid
    live.eventually(lambda: (live.federation.runs / name).exists())
    if handed_over:
        live.eventually(lambda: any("serverapp" in line for line in below(up).values()))
    asking.send_signal(number)
    time.sleep(0.3)
    asking.send_signal(number)
    _, error = asking.communicate(timeout=PATIENCE)
    assert asking.returncode == 130 and "Traceback" not in error, error
    assert not any("serverapp" in line for line in below(up).values())
    listed = flower.flwr(live.federation, "ls", flower.CONNECTION)["runs"]
    assert all(run["status"].startswith("finished") for run in listed), listed


# --- the end ---


def test_a_revoked_key_is_taken_back_and_never_comes_again(live: Live) -> None:
    key = live.federation.node_key("snubh").read_text()
    assert "The SuperLink knows." in revoke(live.federation, ["snubh"]).lines()
    assert {node.site for node in control.nodes(live.federation)} == {"amc"}
    live.federation.node_key("snubh").write_text(key)
    refused(Code.SERVICE_FAILED, lambda: control.register(live.federation, "snubh"))


def test_stop_leaves_no_process(live: Live) -> None:
    server(live, "run", config_file(live, "left", quorum=1), "--detach")
    live.eventually(lambda: served(live.federation.runs / "left"))
    assert live.up is not None and running(live.federation) == live.up.pid
    assert stop(live.federation)
    assert live.up.wait(PATIENCE) == 0 and not left_over(live.federation)
    assert running(live.federation) is None and not any(services_up(live.federation).values())
    assert live.standing("left").code == Code.COORDINATOR_DOWN


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_everything_in_order(live: Live, number: signal.Signals) -> None:
    live.start()
    assert live.up is not None
    live.up.send_signal(number)
    assert live.up.wait(PATIENCE) == 0
    assert not left_over(live.federation)
    assert live.log().rstrip().endswith("Stopped.")


def test_a_superlink_that_cannot_start_is_told_at_once(live: Live) -> None:
    (live.federation.superlink / "secret.bin").write_bytes(b"")
    done = server(live, "up")
    assert done.returncode == 1 and "E904" in done.stderr and "secret" in done.stderr.lower(), done.stderr
    assert not left_over(live.federation)
