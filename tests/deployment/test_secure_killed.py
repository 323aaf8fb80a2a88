"""Secure sums with shared noise over TLS and nginx, each process of the deployment killed in turn between two messages.

Whatever dies, the round is completed or begun anew, every ledger holds each attempt that was begun, once, and no part
of a round is masked twice. The tests share one deployment and run in the order in which they stand.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli_w

from bench.deployment import NGINX, Deployment, started
from bench.waiting import PATIENCE, until
from client.node.outbox import contents, read_entries
from client.node.worker import Parcel
from client.privacy.ledger import Ledger
from common.config import RunConfig
from common.messages.kinds import Step
from common.messages.records import read_reply
from server.rounds.store import RunStore
from tests.deployment.hospitals import HOSPITALS, POLICY, config_of, written

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.skipif(not Path(NGINX).exists(), reason="nginx is not installed"),
]
SHARED = POLICY | {"privacy": {"shared_noise": True, "secure_aggregation": True, "epsilon": 100.0,
                               "min_answer_every": 1.0, "min_sites": 3}}  # fmt: skip

AFTER, CHARGED = ["advertisement", "shares", "masked", "consent", "revealed"], "charged"
KILLS = [
    ("advertisement", "up", "flower-superlink"),
    ("shares", "up", "serverapp"),
    ("masked", "up", "serverapp"),
    ("consent", "up", "flower-superexec"),
    ("shares", "nginx", ""),
    ("masked", "up", "flower-superlink"),
    (CHARGED, "west", "client.node.resident"),
    ("masked", "north", "client.node.resident"),
    ("shares", "east", ""),
    ("revealed", "up", "serverapp"),
]
"""Of each round: after which message of a site what is killed, and which process of it."""


class Kept(Deployment):
    """A deployment whose sites keep the content of every message."""

    def settle(self, site: str) -> None:
        """Say so in site.toml too."""
        super().settle(site)
        path = self.hospitals / site / "site.toml"
        path.write_text(tomli_w.dumps({**tomllib.loads(path.read_text()), "keep_contents": 10_000}))


@pytest.fixture(scope="module")
def deployment(prepared: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    registries = {name: folder / "registry.csv" for name, folder in prepared.items()}
    with started(Kept(tmp_path_factory.mktemp("killed"), registries, SHARED)) as running:
        yield running


def shared(model: Path, name: str, rounds: int) -> RunConfig:
    table = config_of(model, name, rounds, quorum=3, deadline=60.0).model_dump(mode="json")
    table["federation"]["aggregation"] = "secure"
    table["privacy"] = {
        "clip_norm": 0.5, "noise_multiplier": 4.0, "delta": 1e-5, "noise": "distributed", "colluders": 1,
        "dropouts": 1, "answer_every": 2.0,
    }  # fmt: skip
    return RunConfig.model_validate(table)


def attempts_at(deployment: Deployment, site: str, run: str) -> list[dict[str, object]]:
    """What a site wrote down of its attempts at a run."""
    path = deployment.hospitals / site / "state" / "attempts.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in map(json.loads, lines) if line.get("run") == run]


def has_left(deployment: Deployment, site: str, run: str, number: int, what: str) -> bool:
    """Whether a site has sent a message of a round; of `charged`, whether it is about to compute its part."""
    if what == CHARGED:
        told = attempts_at(deployment, site, run)
        return any(line["round"] == number and line["state"] == "computing" for line in told)
    entries = read_entries(deployment.hospitals / site / "state" / "outbox")
    return any((one.run, one.round, one.kind) == (run, number, what) and one.sent for one in entries)


def kill(deployment: Deployment, name: str, below: str) -> None:
    """Kill a process, and start anew what nobody else does."""
    deployment.kill(name, below)
    if below:
        return
    deployment.processes.pop(name).wait()
    if name == "nginx":
        deployment.start_proxy()
    else:
        deployment.start_site(name)


def sums(deployment: Deployment, site: str, run: str) -> dict[tuple[int, int], set[str]]:
    """Hashes of the masked sums that a site sent of a run, by round and attempt."""
    folder = deployment.hospitals / site / "state" / "outbox"
    found = defaultdict(set)
    for entry in read_entries(folder):
        if (entry.run, entry.kind) == (run, "masked"):
            reply = read_reply(Parcel.of(contents(folder, entry.number) or b"").message.content)
            assert isinstance(reply, Step) and reply.words is not None
            found[reply.round, reply.attempt].add(hashlib.sha256(reply.words.tobytes()).hexdigest())
    return dict(found)


def require_right_ledgers(deployment: Deployment, config: RunConfig) -> None:
    """Every attempt that was begun is charged, once, for all noise that the sum is sure to hold; and none else."""
    assert config.privacy is not None
    with RunStore.opened(deployment.federation / "runs" / config.name, config) as store:
        rows = store.rounds()
    assert [row.round for row in rows] == list(range(1, config.federation.rounds + 1))
    assert all(len(row.sites) >= config.quorum for row in rows)
    for site in HOSPITALS:
        releases = [entry.release for entry in Ledger.opened(deployment.hospitals / site).entries()]
        charged = Counter((one.round, one.attempt) for one in releases if one.run == config.name)
        told = attempts_at(deployment, site, config.name)
        begun = {(line["round"], line["attempt"]) for line in told if line["state"] == "computing"}
        left = sums(deployment, site, config.name)
        assert set(charged.values()) == {1}, charged
        assert set(left) <= begun <= set(charged), (left.keys(), begun, charged)
        assert all(len(each) == 1 for each in left.values()), "another sum in place of one that was masked"
        assert len(set().union(*left.values())) == len(left), "a sum that was masked in two attempts"
        assert {one.sigma_units for one in releases} == {config.privacy.sigma_units}
        assert {row.round for row in rows if site in row.sites} <= {number for number, _ in left}
        silent = {(line["round"], line["attempt"]) for line in told if line["state"] == "silent"}
        assert not silent & set(left), "a silence that was broken"
        deployment.must("client", "ledger", "--site", site, "--verify")


def test_each_process_killed_in_turn_leaves_every_round_done_and_the_ledgers_right(
    deployment: Deployment, small_model: Path, tmp_path: Path
) -> None:
    config = shared(small_model, "kills", len(KILLS))
    run = deployment.start("run", sys.executable, "-m", "server", "run", written(config, tmp_path))
    for number, (after, name, below) in enumerate(KILLS, start=1):
        seen = name if name in HOSPITALS else "coast"
        until(
            lambda: has_left(deployment, seen, config.name, number, after),  # noqa: B023
            lambda: f"round {number}: {after}\n" + deployment.log("run") + deployment.log("up"),  # noqa: B023
        )
        kill(deployment, name, below)
    assert run.wait(PATIENCE) == 0, deployment.log("run") + deployment.log("up")
    deployment.processes.pop("run")
    again = {line["round"] for line in attempts_at(deployment, "coast", config.name) if line["attempt"]}
    assert again, "a coordinator that died in mid-session asks for the next attempt"
    require_right_ledgers(deployment, config)
