"""A real federation on loopback: five hospitals, TLS, node authentication, nginx in front, and everything that can die.

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
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli_w

from bench.deployment import NGINX, ROOT, Deployment, deployed, descendants, state_split, until
from client.privacy.ledger import Ledger, ledger_folder
from client.privacy.peers import heard_of_peers
from client.training.contribution import Site
from common import synthetic
from common.accounting import epsilon, rdp
from common.arrays import adapter_sha256
from common.config import PrivacyConfig, RunConfig
from common.errors import Code
from common.identity.keys import new_node_key, save_key
from server.reports.report import write_run_report
from server.rounds.loop import run_rounds
from server.rounds.store import RunStore
from simulation.arms import LocalExchange
from simulation.prepare import prepare
from tests.server.provisioning.test_proxy import SIGNED
from tests.small import small_config

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not Path(NGINX).exists(), reason="nginx is not installed"),
]

HOSPITALS = ("coast", "east", "north", "south", "west")
POLICY = {"metrics": "plain", "base_models": ["*"], "max_rounds": 50, "patient": {"column": "patient_id"}}


def config_of(model: Path, name: str, rounds: int, **changes: object) -> RunConfig:
    """Return a run of five hospitals whose rounds take seconds."""
    federation = {"sites": 5, "population": 60, "sampling_rate": 0.6, "rounds": rounds, "deadline": 90.0}
    simulation = {"hospitals": list(HOSPITALS), "patients": 12}
    return small_config(model, name=name, federation={**federation, **changes}, simulation=simulation)


def written(config: RunConfig, folder: Path) -> Path:
    """Write a run configuration as its author would."""
    table = config.model_dump(mode="json", exclude_none=True)
    table["questions"].pop("codebook_sha256")
    path = folder / f"{config.name}.toml"
    path.write_text(tomli_w.dumps(table))
    return path


@pytest.fixture(scope="module")
def prepared(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Site folders of the same hospitals as a simulation has them, for the undisturbed run."""
    config = config_of(small_model, "prepared", 1)
    folders = prepare(config, synthetic.codebook(), tmp_path_factory.mktemp("prepared"))
    for folder in folders.values():
        state_split(folder)
    return folders


@pytest.fixture(scope="module")
def deployment(prepared: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    registries = {name: folder / "registry.csv" for name, folder in prepared.items()}
    with deployed(tmp_path_factory.mktemp("deploy"), registries, POLICY) as running:
        yield running


def undisturbed(config: RunConfig, prepared: dict[str, Path], folder: Path) -> str:
    """Hash of the adapter that the same hospitals reach in one process, without Flower."""
    with RunStore.opened(folder, config) as store:
        return adapter_sha256(run_rounds(config, LocalExchange([Site(f) for f in prepared.values()]), store))


def reached(deployment: Deployment, config: RunConfig) -> str:
    """Hash of the adapter in the run folder."""
    with RunStore.opened(deployment.federation / "runs" / config.name, config) as store:
        checkpoint = store.load()
        assert checkpoint is not None and checkpoint.round == config.federation.rounds
        return adapter_sha256(checkpoint.adapter)


def standing(deployment: Deployment, config: RunConfig) -> dict[str, object]:
    path = deployment.federation / "runs" / config.name / "standing.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def under_way(deployment: Deployment, config: RunConfig, number: int) -> None:
    """Wait until the sites are asked for their part of a round."""
    until(
        lambda: (
            standing(deployment, config).get("round") == number
            and standing(deployment, config).get("exchange") == "train"
        ),
        180,
        lambda: f"round {number}: {standing(deployment, config)} {deployment.log('run')} {deployment.log('up')}",
    )


def test_flwr_run_prod_over_tls_and_nginx_ends_with_the_adapter_of_the_run_without_flower(
    deployment: Deployment, prepared: dict[str, Path], small_model: Path, tmp_path: Path
) -> None:
    config = config_of(small_model, "flwr", 4)
    path = written(config, tmp_path)
    flwr = str(Path(sys.executable).with_name("flwr"))
    done = subprocess.run(
        [flwr, "run", ".", "prod", "--stream", "-c", f'config="{path}"'],
        cwd=ROOT,
        env=deployment.environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert reached(deployment, config) == undisturbed(config, prepared, tmp_path / "alone")
    folder = deployment.federation / "runs" / config.name
    with RunStore.opened(folder, config) as store:
        assert [row.sites for row in store.rounds()] == [list(HOSPITALS)] * 4
    assert "flwr" in write_run_report(folder).read_text()


def test_no_site_ever_asked_for_the_bundle(deployment: Deployment) -> None:
    log = (deployment.federation / "deploy" / "nginx" / "access.log").read_text()
    assert "/v1/fleet/push-messages" in log
    assert "get-fab" not in log


def test_each_process_killed_in_turn_changes_no_bit(
    deployment: Deployment, prepared: dict[str, Path], small_model: Path, tmp_path: Path
) -> None:
    config = config_of(small_model, "kills", 7)
    path = written(config, tmp_path)
    run = deployment.start("run", sys.executable, "-m", "server", "run", path)

    victims = {1: ("up", "flower-superlink"), 2: ("up", "flower-superexec"), 3: ("up", "serverapp"), 4: ("east", ""),
               5: ("west", "client.node.resident")}  # fmt: skip
    for number, (name, below) in victims.items():
        under_way(deployment, config, number)
        deployment.kill(name, below)
        if not below:
            deployment.processes.pop(name).wait()
            deployment.start_site(name)
    assert run.wait(400) == 0, deployment.log("run") + deployment.log("up")
    deployment.processes.pop("run")
    assert reached(deployment, config) == undisturbed(config, prepared, tmp_path / "alone")
    with RunStore.opened(deployment.federation / "runs" / config.name, config) as store:
        assert [row.sites for row in store.rounds()] == [list(HOSPITALS)] * 7


_DIES_IN_MID_SEND = """
import os, signal, sys
from client import __main__
from client.node import worker
call = worker.Fleet._call
def dying(self, method, request):
    if type(request).__name__ == "PushObjectRequest" and len(request.object_content) > 2000:
        os.kill(os.getpid(), signal.SIGKILL)
    return call(self, method, request)
worker.Fleet._call = dying
sys.argv = ["client", "--site", "north"]
__main__.main()
"""


def test_a_site_killed_between_the_head_and_the_parts_of_its_answer_goes_on_at_once(
    deployment: Deployment, prepared: dict[str, Path], small_model: Path, tmp_path: Path
) -> None:
    config = config_of(small_model, "halfway", 2)
    deployment.end("north")
    deployment.start("north", sys.executable, "-c", _DIES_IN_MID_SEND)
    run = deployment.start("run", sys.executable, "-m", "server", "run", written(config, tmp_path))
    assert deployment.processes.pop("north").wait(200) == -signal.SIGKILL, deployment.log("north")
    deployment.start_site("north")
    assert run.wait(80) == 0, deployment.log("run") + deployment.log("north")
    deployment.processes.pop("run")
    assert reached(deployment, config) == undisturbed(config, prepared, tmp_path / "alone")


def test_a_private_run_in_which_processes_die_is_charged_for_all_that_left_and_goes_on_without_a_site_at_its_cap(
    deployment: Deployment, small_model: Path, tmp_path: Path
) -> None:
    privacy = {"clip_norm": 0.5, "noise_multiplier": 8.0, "delta": 1e-5}
    config = config_of(small_model, "private", 5, quorum=4).model_copy(update={"privacy": PrivacyConfig(**privacy)})
    two_rounds = epsilon(rdp(noise_multiplier=8.0, sampling_rate=0.6, steps=2), 1e-5)
    (deployment.hospitals / "coast" / "policy.toml").write_text(
        tomli_w.dumps(POLICY | {"privacy": {"epsilon": two_rounds * 1.01}})
    )
    run = deployment.start("run", sys.executable, "-m", "server", "run", written(config, tmp_path))
    for number, (name, below) in {
        1: ("north", ""),
        2: ("west", "client.node.resident"),
        4: ("up", "serverapp"),
    }.items():
        under_way(deployment, config, number)
        deployment.kill(name, below)
        if not below:
            deployment.processes.pop(name).wait()
            deployment.start_site(name)
    assert run.wait(400) == 0, deployment.log("run") + deployment.log("up")
    deployment.processes.pop("run")
    (deployment.hospitals / "coast" / "policy.toml").write_text(tomli_w.dumps(POLICY))
    with RunStore.opened(deployment.federation / "runs" / config.name, config) as store:
        rows = store.rounds()
    away = {"north"} if "north" in rows[0].refused else set()
    expected = [set(HOSPITALS) - away, set(HOSPITALS), *[set(HOSPITALS) - {"coast"}] * 3]
    assert [set(row.sites) for row in rows] == expected
    assert {row.refused.get("coast") for row in rows[2:]} == {int(Code.BUDGET_SPENT)}
    for site in HOSPITALS:
        told = json.loads(deployment.must("client", "ledger", "--site", site, "--verify", "--json"))
        charged = Counter(entry.release.round for entry in Ledger.opened(deployment.hospitals / site).entries())
        left = json.loads(deployment.must("client", "outbox", "--site", site, "--json"))
        sent = Counter(entry["round"] for entry in left if (entry["run"], entry["kind"]) == ("private", "contribution"))
        assert all(charged[row.round] >= 1 for row in rows if site in row.sites) and charged >= Counter(set(sent))
        assert charged.total() <= 5 + 2 and told["releases"] == charged.total()
        assert site != "coast" or charged == Counter({1: 1, 2: 1})
        heard = heard_of_peers(ledger_folder(deployment.hospitals / site))
        assert heard.keys() == set(HOSPITALS) - {site}


def test_a_bundle_that_would_write_a_file_at_the_hospitals_is_never_run(deployment: Deployment, tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    planted = tmp_path / "planted"
    evil.mkdir()
    (evil / "client" / "training").mkdir(parents=True)
    for package in ("client", "client/training"):
        (evil / package / "__init__.py").write_text("")
    code = f"import pathlib, os; pathlib.Path({str(planted)!r} + str(os.getpid())).write_text('ran')\n"
    for name in ("client/app.py", "client/training/contribution.py", "common.py"):
        (evil / name).write_text(code + "from flwr.clientapp import ClientApp\napp = ClientApp()\n")
    (evil / "evil.py").write_text(
        "from flwr.app import Message, RecordDict, ConfigRecord\n"
        "from flwr.serverapp import ServerApp\n"
        "app = ServerApp()\n"
        "@app.main()\n"
        "def main(grid, context):\n"
        "    content = RecordDict({'task': ConfigRecord({'code': 'import os'})})\n"
        "    kinds = ('train', 'query.anything')\n"
        "    ask = [Message(content, node, kind) for kind in kinds for node in grid.get_node_ids()]\n"
        "    for reply in grid.send_and_receive(ask, timeout=60):\n"
        "        print('REPLY', reply.content['reply.0']['frame'] if reply.has_content() else 'none', flush=True)\n"
    )
    app = {
        "project": {"name": "evil", "version": "1.0.0"},
        "tool": {
            "flwr": {
                "app": {
                    "publisher": "evil",
                    "fab-include": ["**/*.py"],
                    "components": {"serverapp": "evil:app", "clientapp": "client.app:app"},
                }
            }
        },
    }
    (evil / "pyproject.toml").write_text(tomli_w.dumps(app))
    flwr = str(Path(sys.executable).with_name("flwr"))
    done = subprocess.run(
        [flwr, "run", str(evil), "prod", "--stream"], env=deployment.environment, capture_output=True, text=True,
        timeout=200,
    )  # fmt: skip
    output = done.stdout + done.stderr
    assert output.count('"code": 504') == 10, output
    assert list(tmp_path.glob("planted*")) == []
    for site in HOSPITALS:
        assert deployment.processes[site].poll() is None


def test_only_the_fleet_api_is_reached_from_outside(deployment: Deployment) -> None:
    context = ssl.create_default_context(cafile=str(deployment.federation / "certificates" / "ca.crt"))

    def status(path: str) -> int:
        request = urllib.request.Request(
            f"https://127.0.0.1:{deployment.port}{path}", data=b"", headers=SIGNED, method="POST"
        )
        try:
            return int(urllib.request.urlopen(request, context=context, timeout=10).status)
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


def refused(deployment: Deployment, *words: object) -> str:
    """Run a command that must refuse, and return the number; the time is printed, for `pytest -s`."""
    started = time.monotonic()
    done = deployment.command(*words, seconds=60)
    output = done.stdout + done.stderr
    assert done.returncode not in (0, None), output
    assert "Traceback" not in output
    lines = [line for line in output.splitlines() if line.startswith("E")]
    assert len(lines) == 1, output
    print(f"{time.monotonic() - started:.1f} s  {lines[0]}")
    return lines[0].split(":")[0]


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
    done = deployment.command("server", "ask", written(config, tmp_path), "--json", seconds=200)
    assert done.returncode != 0, done.stdout + done.stderr
    assert done.stdout.count("832") == 5, done.stdout + done.stderr
    done = deployment.command("server", "run", written(config, tmp_path), seconds=200)
    assert done.returncode == 1 and "E503" in done.stderr and "E832" in done.stderr, done.stdout + done.stderr
    assert not (deployment.federation / "runs" / "long" / "checkpoint.safetensors").exists()


def test_before_a_run_every_site_says_whether_it_would_take_part(
    deployment: Deployment, small_model: Path, tmp_path: Path
) -> None:
    config = config_of(small_model, "asked", 4)
    done = deployment.command("server", "ask", written(config, tmp_path), seconds=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(site in done.stdout for site in HOSPITALS)


def test_a_paused_site_is_left_out_and_comes_back(deployment: Deployment, small_model: Path, tmp_path: Path) -> None:
    config = config_of(small_model, "paused", 3, quorum=4)
    resident = [number for number, line in descendants(deployment.processes["south"].pid).items() if "resident" in line]
    assert resident
    deployment.must("client", "pause", "--site", "south", "--reason", "the GPU is needed")
    until(lambda: not Path(f"/proc/{resident[0]}").exists(), 20, "the resident process of south ends")
    deployment.must("server", "run", written(config, tmp_path), seconds=300)
    with RunStore.opened(deployment.federation / "runs" / config.name, config) as store:
        rows = store.rounds()
    assert all("south" not in row.sites and len(row.sites) == 4 for row in rows)
    assert {row.refused.get("south") for row in rows} == {812}
    deployment.must("client", "resume", "--site", "south")
    until(lambda: "ready" in deployment.log("south"), 20, lambda: deployment.log("south"))


def test_an_aborted_run_stops_the_sites_that_compute(deployment: Deployment, small_model: Path, tmp_path: Path) -> None:
    config = config_of(small_model, "aborted", 50)
    run = deployment.start("run", sys.executable, "-m", "server", "run", written(config, tmp_path))
    until(lambda: standing(deployment, config).get("round") == 2, 200, lambda: deployment.log("run"))
    deployment.must("server", "abort", "aborted")
    assert run.wait(60) == 1
    assert "E912" in deployment.log("run")
    deployment.processes.pop("run")
    assert standing(deployment, config)["state"] == "aborted"
    until(lambda: all("working" not in state(deployment, site) for site in HOSPITALS), 30, "the sites stop working")


def state(deployment: Deployment, site: str) -> str:
    return str(json.loads((deployment.hospitals / site / "state" / "status.json").read_text())["state"])


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
    for number in (signal.SIGTERM, signal.SIGINT):
        process = deployment.processes["east"]
        below = descendants(process.pid)
        process.send_signal(number)
        assert process.wait(20) == 0, deployment.log("east")
        assert not any(Path(f"/proc/{child}").exists() for child in below)
        (deployment.folder / "east.log").unlink()
        deployment.start_site("east")
        until(lambda: "connected" in deployment.log("east"), 60, lambda: deployment.log("east"))


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
    until(lambda: state(deployment, "west") == "connected", 60, lambda: deployment.log("west"))


def test_an_old_roster_is_refused_and_a_revoked_site_ends_with_its_number(
    deployment: Deployment, small_model: Path, tmp_path: Path
) -> None:
    process = deployment.processes["coast"]
    started = time.monotonic()
    deployment.must("server", "revoke", "coast")
    assert process.wait(30) == 1
    print(f"revoked site ended after {time.monotonic() - started:.1f} s")
    assert "E702" in deployment.log("coast")
    assert refused(deployment, "client", "--site", "coast") == "E702"
    config = config_of(small_model, "four", 2, sites=4)
    done = deployment.command("server", "ask", written(config, tmp_path), "--json", seconds=200)
    assert done.returncode != 0 and done.stdout.count("712") == 4, done.stdout + done.stderr
    for site in HOSPITALS[1:]:
        assert (deployment.hospitals / site / "roster.pending.json").exists()
        deployment.must("client", "roster", "accept", "--site", site, "--yes")
    deployment.must("server", "run", written(config, tmp_path), seconds=300)


def test_stop_ends_every_process(deployment: Deployment) -> None:
    below = descendants(deployment.processes["up"].pid)
    assert len(below) >= 2
    deployment.must("server", "stop")
    assert deployment.processes["up"].wait(60) == 0
    assert not any(Path(f"/proc/{number}").exists() for number in below)
