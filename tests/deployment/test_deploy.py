"""A real federation on loopback ends with the adapter of the run without Flower, whichever of its processes dies.

So does one whose sums are secret, over TLS and nginx, also where a site is killed in mid-session.

The tests share one deployment and run in the order in which they stand.
"""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from bench.deployment import NGINX, ROOT, Deployment, descendants
from bench.waiting import PATIENCE, until
from client.privacy.ledger import Ledger, ledger_folder
from client.privacy.peers import heard_of_peers
from common.accounting import epsilon, rdp
from common.config import PrivacyConfig, RunConfig
from common.errors import Code
from server.reports.report import write_run_report
from server.rounds.store import RunStore
from tests.deployment.hospitals import HOSPITALS, POLICY, config_of, reached, under_way, undisturbed, written
from tests.deployment.secured import STEPS, attempts, ended, masked, plain, secure, sent

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.skipif(not Path(NGINX).exists(), reason="nginx is not installed"),
]


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
        timeout=PATIENCE,
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
        path.unlink(missing_ok=True)  # nobody reads it again: it may lie where only who started the run sees it
        deployment.kill(name, below)
        if not below:
            deployment.processes.pop(name).wait()
            deployment.start_site(name)
    assert run.wait(PATIENCE) == 0, deployment.log("run") + deployment.log("up")
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
    assert deployment.processes.pop("north").wait(PATIENCE) == -signal.SIGKILL, deployment.log("north")
    deployment.start_site("north")
    assert run.wait(PATIENCE) == 0, deployment.log("run") + deployment.log("north")
    deployment.processes.pop("run")
    assert reached(deployment, config) == undisturbed(config, prepared, tmp_path / "alone")
    assert "run halfway, round 1: asked again" not in deployment.log("north"), (
        "the answer in hand is the one that counted"
    )


def test_a_site_that_was_taken_for_dead_is_told_so_truly_and_comes_back_without_changing_a_bit(
    deployment: Deployment, prepared: dict[str, Path], small_model: Path, tmp_path: Path
) -> None:
    config = config_of(small_model, "dead", 3)

    def site(name: str) -> dict[str, Any]:
        return next(one for one in deployment.status()["sites"] if one["site"] == name)

    def contact(name: str) -> float:
        return datetime.fromisoformat(site(name)["contact"]).timestamp()

    run = deployment.start("run", sys.executable, "-m", "server", "run", written(config, tmp_path))
    under_way(deployment, config, 2)
    deployment.kill("west")
    killed = time.time()
    until(lambda: site("west")["presence"] == "offline", lambda: str(site("west")))
    assert killed - 15 < contact("west") <= killed + 1
    assert min(contact(name) for name in HOSPITALS if name != "west") > killed + 15
    assert run.poll() is None and "west" in deployment.log("run")
    deployment.processes.pop("west").wait()
    deployment.start_site("west")
    assert run.wait(PATIENCE) == 0, deployment.log("run") + deployment.log("up")
    deployment.processes.pop("run")
    assert reached(deployment, config) == undisturbed(config, prepared, tmp_path / "alone")


def test_flwr_run_prod_of_a_secure_run_ends_with_the_adapter_of_the_plain_one(
    deployment: Deployment, prepared: dict[str, Path], small_model: Path, tmp_path: Path
) -> None:
    config = secure(small_model, "flwr-secure", 2)
    flwr, path = Path(sys.executable).with_name("flwr"), written(config, tmp_path)
    command = [str(flwr), "run", ".", "prod", "--stream", "-c", f'config="{path}"']
    done = subprocess.run(
        command, cwd=ROOT, env=deployment.environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert reached(deployment, config) == plain(config, prepared, tmp_path / "alone", {})
    for site in HOSPITALS:
        for number in (1, 2):
            assert set(sent(deployment, site, config.name, number)) >= set(STEPS)
            assert "contribution" not in sent(deployment, site, config.name, number)


@pytest.mark.parametrize(
    ("name", "after", "attempt"), [("before-the-sum", "shares", 1), ("after-the-sum", "masked", 0)]
)
def test_a_site_killed_and_restarted_in_mid_session_changes_no_bit(
    deployment: Deployment, prepared: dict[str, Path], small_model: Path, tmp_path: Path,
    name: str, after: str, attempt: int,
) -> None:  # fmt: skip
    """Once its masked sum has arrived the others unmask it; before, the round is begun anew, of all sites."""
    config = secure(small_model, name, 2)
    run = deployment.start("run", sys.executable, "-m", "server", "run", written(config, tmp_path))
    until(lambda: after in sent(deployment, "east", name, 2), lambda: deployment.log("run"))
    deployment.kill("east")
    deployment.processes.pop("east").wait()
    deployment.start_site("east")
    ended(deployment, run)
    assert attempts(deployment, config) == {1: 0, 2: attempt}
    assert reached(deployment, config) == plain(config, prepared, tmp_path / "alone", {2: attempt})
    with RunStore.opened(deployment.federation / "runs" / name, config) as store:
        assert [row.sites for row in store.rounds()] == [list(HOSPITALS)] * 2
    for site in HOSPITALS:
        assert "contribution" not in sent(deployment, site, name, 1) + sent(deployment, site, name, 2)
        assert 1 <= masked(deployment, site, name, 2) <= 1 + attempt


def test_a_private_run_in_which_processes_die_is_charged_for_all_that_left_and_goes_on_without_a_site_at_its_cap(
    deployment: Deployment, small_model: Path, tmp_path: Path
) -> None:
    privacy = {"clip_norm": 0.5, "noise_multiplier": 8.0, "delta": 1e-5, "answer_every": 1.0}
    config = config_of(small_model, "private", 5, quorum=3, deadline=90.0)  # once waited for, by whom stays silent
    config = config.model_copy(update={"privacy": PrivacyConfig(**privacy)})
    two_rounds = epsilon(rdp(noise_multiplier=8.0, sampling_rate=0.6, steps=2), 1e-5)
    (deployment.hospitals / "coast" / "policy.toml").write_text(
        tomli_w.dumps(POLICY | {"privacy": {"epsilon": two_rounds * 1.01, "min_answer_every": 1.0}})
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
    assert run.wait(PATIENCE) == 0, deployment.log("run") + deployment.log("up")
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


def test_a_private_round_with_shared_noise_goes_on_without_a_site_that_dies_over_its_part_and_the_ledgers_are_right(
    deployment: Deployment, small_model: Path, tmp_path: Path
) -> None:
    name = "shared"
    table = config_of(small_model, name, 3, quorum=3, deadline=40.0).model_dump(mode="json")
    table["federation"]["aggregation"] = "secure"
    table["privacy"] = {
        "clip_norm": 0.5, "noise_multiplier": 4.0, "delta": 1e-5, "noise": "distributed", "colluders": 1,
        "dropouts": 1, "answer_every": 10.0,
    }  # fmt: skip
    config = RunConfig.model_validate(table)
    for site in HOSPITALS:
        policy = tomli_w.dumps(POLICY | {"privacy": {"shared_noise": True, "epsilon": 100.0}}).encode()
        (deployment.hospitals / site / "policy.toml").write_bytes(policy)
        digest = hashlib.sha256(policy).hexdigest()
        deployment.must("client", "policy", "confirm", "--site", site, "--sha256", digest)
    run = deployment.start("run", sys.executable, "-m", "server", "run", written(config, tmp_path))
    ledger = deployment.hospitals / "east" / "state" / "ledger" / "ledger.jsonl"
    until(lambda: ledger.read_text().count(f'"run":"{name}"') == 2, lambda: deployment.log("run"))
    deployment.kill("east", "client.node.resident")
    ended(deployment, run)
    with RunStore.opened(deployment.federation / "runs" / name, config) as store:
        rows = store.rounds()
    assert all(len(row.sites) >= 3 for row in rows)
    for site in HOSPITALS:
        entries = [one for one in Ledger.opened(deployment.hospitals / site).entries() if one.release.run == name]
        assert {entry.release.mechanism for entry in entries} == {"fedsgd-shared"}
        charged = Counter(entry.release.round for entry in entries)
        for row in rows:
            assert charged[row.round] >= sent(deployment, site, name, row.round).count("masked")
            assert site not in row.sites or charged[row.round] >= 1
        deployment.must("client", "ledger", "--site", site, "--verify")


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
        "    for reply in grid.send_and_receive(ask, timeout=400):\n"
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
        timeout=PATIENCE,
    )  # fmt: skip
    output = done.stdout + done.stderr
    assert output.count('"code": 504') == 2 * len(HOSPITALS), output
    assert list(tmp_path.glob("planted*")) == []
    for site in HOSPITALS:
        assert deployment.processes[site].poll() is None


def test_stop_ends_every_process(deployment: Deployment) -> None:
    below = descendants(deployment.processes["up"].pid)
    assert len(below) >= 2
    deployment.must("server", "stop")
    assert deployment.processes["up"].wait(PATIENCE) == 0
    assert not any(Path(f"/proc/{number}").exists() for number in below)
