"""Five hospitals sum in secret, over TLS and nginx: the plain run's adapter, also where one is killed in mid-session.

The tests share one deployment and run in the order in which they stand.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import tomli_w

from bench.deployment import NGINX, ROOT, Deployment
from bench.waiting import PATIENCE, until
from client.node.outbox import contents, read_entries
from client.node.worker import Parcel
from client.privacy.ledger import Ledger
from client.training.workplace import Workplace
from common.arrays import adapter_sha256
from common.config import RunConfig
from common.messages.kinds import Contribution, Reply, Step, Task
from common.messages.records import read_reply
from server.rounds.loop import run_rounds
from server.rounds.store import RunStore
from simulation.arms import LocalExchange
from tests.deployment.hospitals import HOSPITALS, POLICY, config_of, reached, written

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.skipif(not Path(NGINX).exists(), reason="nginx is not installed"),
]
STEPS = ("advertisement", "shares", "masked", "consent", "revealed")
LATTICE = {"bits": 22, "clip_norm": 0.5}


def secure(model: Path, name: str, rounds: int, **changes: object) -> RunConfig:
    table = config_of(model, name, rounds, **changes).model_dump(mode="json")
    table["lattice"], table["federation"]["aggregation"] = LATTICE, "secure"
    table["seed"] = len(name)  # of the same seed the sums of both runs would be the same, and no site masks one twice
    return RunConfig.model_validate(table)


class Again(LocalExchange):
    """Sites in this process that are asked for a given attempt at each round."""

    attempts: dict[int, int]

    def contributions(self, task: Task, enough: Callable[[], bool]) -> Iterator[Reply]:
        asked = replace(task, attempt=self.attempts.get(task.round, 0))
        for reply in super().contributions(asked, enough):
            assert isinstance(reply, Contribution)
            yield replace(reply, attempt=task.attempt)


def plain(config: RunConfig, prepared: dict[str, Path], folder: Path, attempts: dict[int, int]) -> str:
    """Hash of the adapter of the plain run in one process."""
    federation = config.federation.model_copy(update={"aggregation": "plain"})
    config = config.model_copy(update={"federation": federation})
    exchange = Again([Workplace(path) for path in prepared.values()])
    exchange.attempts = attempts
    with RunStore.opened(folder, config) as store:
        return adapter_sha256(run_rounds(config, exchange, store))


def sent(deployment: Deployment, site: str, run: str, number: int) -> list[str]:
    entries = read_entries(deployment.hospitals / site / "state" / "outbox")
    return [entry.kind for entry in entries if (entry.run, entry.round) == (run, number) and entry.sent]


def masked(deployment: Deployment, site: str, run: str, number: int) -> int:
    """How many different masked sums have left; one whose arrival was not noted goes again, as it was."""
    folder = deployment.hospitals / site / "state" / "outbox"
    seen = set()
    for entry in read_entries(folder):
        if (entry.run, entry.round, entry.kind) == (run, number, "masked"):
            reply = read_reply(Parcel.of(contents(folder, entry.number) or b"").message.content)
            assert isinstance(reply, Step) and reply.words is not None
            seen.add(reply.words.tobytes())
    return len(seen)


def attempts(deployment: Deployment, config: RunConfig) -> dict[int, int]:
    told = json.loads((deployment.federation / "runs" / config.name / "attempt.json").read_text())
    return {int(number): attempt for number, attempt in told.items()}


def ended(deployment: Deployment, run: object) -> None:
    assert run.wait(PATIENCE) == 0, deployment.log("run") + deployment.log("up")  # type: ignore[attr-defined]
    deployment.processes.pop("run")


def test_flwr_run_prod_of_a_secure_run_ends_with_the_adapter_of_the_plain_one(
    deployment: Deployment, prepared: dict[str, Path], small_model: Path, tmp_path: Path
) -> None:
    config = secure(small_model, "flwr", 2)
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
    """Once its masked sum has arrived the others unmask it; before, the round is begun anew, of all five."""
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


def test_a_private_round_with_shared_noise_goes_on_without_a_site_that_dies_over_its_part_and_the_ledgers_are_right(
    deployment: Deployment, small_model: Path, tmp_path: Path
) -> None:
    name = "shared"
    table = config_of(small_model, name, 3, quorum=4, deadline=40.0).model_dump(mode="json")
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
    until(lambda: ledger.exists() and ledger.read_text().count("\n") == 2, lambda: deployment.log("run"))
    deployment.kill("east", "client.node.resident")
    ended(deployment, run)
    with RunStore.opened(deployment.federation / "runs" / name, config) as store:
        rows = store.rounds()
    assert all(len(row.sites) >= 4 for row in rows)
    for site in HOSPITALS:
        entries = Ledger.opened(deployment.hospitals / site).entries()
        assert {entry.release.mechanism for entry in entries} == {"fedsgd-shared"}
        charged = Counter(entry.release.round for entry in entries)
        for row in rows:
            assert charged[row.round] >= sent(deployment, site, name, row.round).count("masked")
            assert site not in row.sites or charged[row.round] >= 1
        deployment.must("client", "ledger", "--site", site, "--verify")
