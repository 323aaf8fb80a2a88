"""`flwr run . local --stream` on the real bundle ends with the adapter of the same run without Flower."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.waiting import PATIENCE
from client.training.workplace import Workplace
from common import synthetic
from common.arrays import adapter_sha256
from common.config import load_config
from server.rounds.loop import run_rounds
from server.rounds.store import RunStore
from simulation.arms import LocalExchange
from simulation.prepare import prepare
from tests.paths import ROOT
from tests.small import write_config


def stop_superlink(home: Path) -> None:
    """Stop the detached SuperLink that `flwr run` leaves, found by the home it was started with."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode(errors="replace")
            if str(home) in command and "superlink" in command:
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:
            continue


@pytest.mark.federation
@pytest.mark.parametrize(("aggregation", "processes"), [("plain", 2), ("secure", 1)])
def test_flwr_run_gives_the_adapter_of_the_same_run_without_flower(
    small_model: Path, tmp_path: Path, aggregation: str, processes: int
) -> None:
    """The run without Flower is a plain one: secure sums change no bit."""
    lattice = {"bits": 24, "clip_norm": 0.5}
    path = write_config(tmp_path, small_model, federation={"aggregation": aggregation}, lattice=lattice)
    config, codebook = load_config(path)
    assert codebook.sha256 == synthetic.codebook().sha256
    folders = prepare(config, codebook, tmp_path / "runs" / config.name)
    open_sums = config.model_copy(update={"federation": config.federation.model_copy(update={"aggregation": "plain"})})
    with RunStore.opened(tmp_path / "alone", open_sums) as store:
        sites = [Workplace(folder) for folder in folders.values()]
        expected = adapter_sha256(run_rounds(open_sums, LocalExchange(sites), store))

    home = tmp_path / "flower"
    home.mkdir()
    settings = {"config": path, "runs": tmp_path / "runs", "sites": tmp_path / "runs" / config.name / "sites"}
    flwr = str(Path(sys.executable).with_name("flwr"))
    federation = f"num-supernodes=3 client-resources-num-cpus=1 init-args-num-cpus={processes}"
    command = [flwr, "run", ".", "local", "--federation-config", federation, "--stream"]
    for name, value in settings.items():
        command += ["-c", f'{name}="{value}"']
    environment = os.environ | {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    finally:
        stop_superlink(home)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    with RunStore.opened(tmp_path / "runs" / config.name, config) as store:
        rounds = store.rounds()
        assert [row.round for row in rounds] == [1, 2, 3], output
        assert rounds[-1].adapter_sha256 == expected
        assert rounds[-1].sites == ["north", "south", "west"]
        assert store.evaluations()
