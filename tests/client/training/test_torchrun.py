"""Ranks that torchrun starts, as on several machines: the sum of one rank, bit for bit, and refusals by number."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.waiting import PATIENCE
from client.site.config import load_site
from client.site.secret import new_split_secret
from client.training import launch
from client.training.launch import Launch, launched
from client.training.requests import contribute
from client.training.workplace import Workplace
from common import synthetic
from common.errors import FedReasonError
from simulation.prepare import prepare
from tests.client.training.tasks import task_of
from tests.paths import ROOT
from tests.small import small_config

pytestmark = pytest.mark.federation


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@pytest.fixture
def folders(small_model: Path, tmp_path: Path) -> list[Path]:
    """A site on two machines: the second has a copy of site.toml and of the secret, and neither registry nor policy."""
    config = small_config(
        small_model,
        federation={"sites": 1, "quorum": 1, "sampling_rate": 1.0},
        simulation={"hospitals": ["north"], "patients": 9},
    )
    (first,) = prepare(config, synthetic.codebook(), tmp_path / "first").values()
    new_split_secret(first)
    second = tmp_path / "second"
    (second / "keys").mkdir(parents=True, mode=0o700)
    for name in ("site.toml", "keys/split"):
        shutil.copy(first / name, second / name)
    return [first, second]


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()  # what it started ends by itself, without torchrun's store
        process.wait()


def test_two_machines_give_the_sum_of_one_also_when_called_anew(
    small_model: Path, folders: list[Path], started: list[subprocess.Popen[bytes]]
) -> None:
    words = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    words += ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    for number, folder in enumerate(folders):
        command = [*words, "--node-rank", str(number), str(ROOT / "tests" / "torchrun_site.py")]
        environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo"}
        started.append(subprocess.Popen([*command, str(small_model), str(folder)], cwd=ROOT, env=environment))
    sums, until = folders[0] / "sums", time.monotonic() + PATIENCE
    while time.monotonic() < until and started[0].poll() is None:
        if sums.exists() and sums.read_text().count("\n") == 2:
            break
        time.sleep(0.2)
    place = Workplace(folders[0])
    config = small_config(
        small_model,
        federation={"sites": 1, "quorum": 1, "sampling_rate": 1.0},
        simulation={"hospitals": ["north"], "patients": 9},
    )
    alone = [contribute(place, task_of(place, config, number)).total for number in (1, 2)]
    assert sums.read_text().split() == [hashlib.sha256(total.tobytes()).hexdigest() for total in alone]
    assert not (folders[1] / "state").exists(), "nothing is written on the second machine"


TOLD = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}


def test_only_what_torchrun_started_with_others_is_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched() is None
    for name, value in TOLD.items():
        monkeypatch.setenv(name, value)
    assert launched() is None, "such variables stand in many environments"
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert launched() == Launch(rank=1, size=4, local_rank=1, local_size=2)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert launched() is None


def test_a_launch_that_does_not_fit_the_site_is_refused_by_number(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Launch(rank=1, size=2, local_rank=0, local_size=1)
    config = load_site(folders[0])
    assert told.device(config) == "auto"
    with pytest.raises(FedReasonError, match="E861: torchrun started 2 processes on this machine"):
        Launch(rank=1, size=2, local_rank=1, local_size=2).device(config)
    with pytest.raises(FedReasonError, match=r"E104: .*vllm"):
        told.device(config.model_copy(update={"rollouts": "vllm"}))
    (folders[1] / "keys" / "split").unlink()
    with pytest.raises(FedReasonError, match=r"E701: .*split is not there"):
        launch.wait_for_first(folders[1], config, told)
    for name, value in (TOLD | {"MASTER_PORT": str(free_port()), "TORCHELASTIC_USE_AGENT_STORE": "True"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setattr(launch, "_MEET", launch.timedelta(seconds=1))
    with pytest.raises(FedReasonError, match="E861: Rank 1 does not reach torchrun's store at 127"):
        launch.wait_for_first(folders[0], config, told)
