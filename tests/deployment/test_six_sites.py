"""Six hospitals on one machine over TLS: one is killed, taken for dead, and comes back; no bit changes."""

from __future__ import annotations

import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from bench.deployment import NGINX, Deployment, started, state_split
from bench.waiting import until
from common import synthetic
from simulation.prepare import write_site
from tests.deployment.hospitals import POLICY, reached, under_way, undisturbed, written
from tests.small import small_config

pytestmark = [
    pytest.mark.deploy,
    pytest.mark.slow,
    pytest.mark.skipif(not Path(NGINX).exists(), reason="nginx is not installed"),
]

SIX = ("coast", "east", "hill", "north", "south", "west")


def test_a_site_that_was_taken_for_dead_is_told_so_truly_and_comes_back_without_changing_a_bit(
    small_model: Path, tmp_path: Path
) -> None:
    federation = {"sites": 6, "population": 60, "sampling_rate": 0.6, "rounds": 3, "deadline": 120.0}
    config = small_config(small_model, name="six", federation=federation)
    codebook = synthetic.codebook()
    rows = [row for name in ("north", "south", "west") for row in synthetic.registry(name, 20, config.seed)]
    columns = [codebook.patient, *codebook.by_name]
    prepared = {
        name: write_site(tmp_path / "prepared" / name, name, columns, rows[place :: len(SIX)], codebook)
        for place, name in enumerate(SIX)
    }
    for folder in prepared.values():
        state_split(folder)
    expected = undisturbed(config, prepared, tmp_path / "alone")
    registries = {name: folder / "registry.csv" for name, folder in prepared.items()}
    (tmp_path / "deploy").mkdir()
    with started(Deployment(tmp_path / "deploy", registries, POLICY)) as deployment:

        def site(name: str) -> dict[str, object]:
            return next(one for one in deployment.status()["sites"] if one["site"] == name)

        run = deployment.start("run", sys.executable, "-m", "server", "run", written(config, tmp_path))
        under_way(deployment, config, 2)
        deployment.kill("hill")
        killed = time.time()
        until(lambda: site("hill")["presence"] == "offline", lambda: str(site("hill")))
        contact = datetime.fromisoformat(str(site("hill")["contact"])).timestamp()
        assert killed - 15 < contact <= killed + 1
        others = [datetime.fromisoformat(str(site(name)["contact"])).timestamp() for name in SIX if name != "hill"]
        assert min(others) > killed + 15
        assert run.poll() is None and "hill" in deployment.log("run")
        deployment.processes.pop("hill")
        deployment.start_site("hill")
        until(lambda: run.poll() is not None, lambda: deployment.log("run")[-3000:])
        assert run.returncode == 0, deployment.log("run")
        assert reached(deployment, config) == expected
