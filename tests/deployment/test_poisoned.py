"""A site that poisons secure sums, over TLS and nginx: the guard stops the run, the site is revoked, the run ends well.

Nobody sees its part. What is left of the run is what the others would have made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bench.deployment import NGINX, Deployment, started
from bench.waiting import until
from client.training.workplace import Workplace
from common.arrays import adapter_sha256
from common.config import RunConfig
from common.messages.kinds import Contribution, Reply, Task
from server.reports.rows import read_rows
from server.rounds.loop import run_rounds
from server.rounds.store import RunStore
from simulation.arms import LocalExchange
from tests.deployment.hospitals import HOSPITALS, POLICY, config_of, reached, written

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.skipif(not Path(NGINX).exists(), reason="nginx is not installed"),
]
POISONING, FROM = "east", 3
HONEST = [site for site in HOSPITALS if site != POISONING]

HOOK = f"""
import sys

if "client.node.resident" in sys.orig_argv and any(word.endswith("/{POISONING}") for word in sys.orig_argv):
    from client.training import secure

    honest = secure.site_sum

    def site_sum(engine, maker, patients, task, *more):
        total, counted = honest(engine, maker, patients, task, *more)
        far = -(2**28 // max(1, abs(total).max()))
        return total * (far if task.round >= {FROM} else 1), counted

    secure.site_sum = site_sum
"""
"""What every Python process runs first: in that of one site the sum has its sign turned round and fills the range."""


class Poisoned(Deployment):
    """A deployment, one site of which runs another program than it should."""

    @property
    def environment(self) -> dict[str, str]:
        """Environment of every process."""
        hook = self.folder / "hook"
        hook.mkdir(exist_ok=True)
        (hook / "sitecustomize.py").write_text(HOOK)
        return {**super().environment, "PYTHONPATH": str(hook)}


class WithoutLater(LocalExchange):
    """Sites in this process, one of which has no part from a round on, when the others are asked once more."""

    def contributions(self, task: Task, enough: Callable[[], bool]) -> Iterator[Reply]:
        """Ask for each site's part of a round."""
        later = task.round >= FROM
        asked = replace(task, attempt=1 if task.round == FROM else 0)
        for reply in super().contributions(asked, enough):
            assert isinstance(reply, Contribution)
            if not (later and reply.site == POISONING):
                yield replace(reply, attempt=task.attempt)


@pytest.fixture(scope="module")
def deployment(prepared: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Poisoned]:
    registries = {name: folder / "registry.csv" for name, folder in prepared.items()}
    folder = tmp_path_factory.mktemp("poisoned")
    with started(Poisoned(folder, registries, POLICY | {"privacy": {"min_sites": 3}})) as running:
        yield running


def guarded(model: Path) -> RunConfig:
    table = config_of(model, "guarded", 5, quorum=3).model_dump(mode="json")
    table["federation"]["aggregation"] = "secure"
    table["lattice"] = {"bits": 22, "clip_norm": 0.5}
    table["optimizer"] = {"name": "sgd", "learning_rate": 0.5, "momentum": 0.0, "warmup_rounds": 0, "decay": 0.0}
    table["guard"] = {"every": 1, "questions": 16, "margin": 0.3}
    return RunConfig.model_validate(table)


def undisturbed(config: RunConfig, prepared: dict[str, Path], folder: Path) -> str:
    """Hash of the adapter that all sites make of the first rounds and the honest ones of those after."""
    federation = config.federation.model_copy(update={"aggregation": "plain"})
    config = config.model_copy(update={"federation": federation, "guard": None})
    exchange = WithoutLater([Workplace(path) for path in prepared.values()])
    with RunStore.opened(folder, config) as store:
        return adapter_sha256(run_rounds(config, exchange, store))


def test_a_run_that_the_guard_stopped_goes_on_without_the_site_that_poisons_it_and_ends_as_if_it_had_left_in_time(
    deployment: Poisoned, prepared: dict[str, Path], small_model: Path, tmp_path: Path
) -> None:
    config = guarded(small_model)
    path, folder = written(config, tmp_path), deployment.federation / "runs" / config.name
    stopped = deployment.command("server", "run", path)
    told = " ".join((stopped.stdout + stopped.stderr).split())
    assert stopped.returncode != 0 and f"E546: Round {FROM}: the adapter's answers fell" in told, told
    assert f"The run is back at round {FROM - 1}. In the rounds since took part: {', '.join(HOSPITALS)}." in told
    for command in ("server revoke SITE", "client roster accept", "server run CONFIG"):
        assert f"`python -m {command}`" in told, "the message says what comes next"

    (run,) = deployment.status()["runs"]
    assert [(look["round"], look["back_to"]) for look in run["looks"]] == [(0, None), (1, None), (2, None), (3, 2)]
    undone = run["looks"][-1]
    assert undone["since"] == list(HOSPITALS) and set(undone["sites"]) == set(HOSPITALS)
    assert undone["sites"]["north"] == undone["agreed"] != run["looks"][2]["agreed"]
    shown = deployment.must("server", "status")
    assert "public questions of guarded" in shown and "taken back to round 2" in shown

    assert "accept this version" in deployment.must("server", "revoke", POISONING)
    early = deployment.command("server", "run", path)
    assert early.returncode != 0 and "E712" in early.stdout + early.stderr, "nobody has accepted the roster yet"
    for site in HONEST:
        deployment.accept(site)
    ended = deployment.command("server", "run", path)
    assert ended.returncode == 0, ended.stdout + ended.stderr + deployment.log("up")

    looks = read_rows(folder).looks
    assert [(look.round, look.back_to) for look in looks][3:] == [(3, 2), (3, None), (4, None), (5, None)]
    with RunStore.opened(folder, config) as store:
        assert [row.sites for row in store.rounds()] == [list(HOSPITALS)] * 2 + [HONEST] * 3
    assert reached(deployment, config) == undisturbed(config, prepared, tmp_path / "alone")
    until(lambda: "revoked" in deployment.log(POISONING), lambda: deployment.log(POISONING))
