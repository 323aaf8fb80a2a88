"""A study as a person runs it: killed at any moment and started again it ends with the table of an undisturbed one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tomli_w

from tests.paths import ROOT
from tests.small import write_config

ARMS = ["majority", "boosting", "before", "alone", "federated", "pooled"]


def write_study(folder: Path, model: Path, *, arms: list[str], **more: object) -> Path:
    """Write a study of two seeds over a small run of three hospitals."""
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, model, simulation={"patients": 24}, questions={"held_out": 0.5})
    table = {"name": "small", "config": "run.toml", "seeds": [4, 5], "arms": arms, "resamples": 199, **more}
    path = folder / "study.toml"
    path.write_text(tomli_w.dumps(table))
    return path


def start(study: Path, runs: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "simulation", "study", str(study), "--runs", str(runs)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finished(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


def killed(process: subprocess.Popen[str], units: Path, done: int) -> None:
    """Kill the study once so many units are there, and with it whatever it started."""
    until = time.monotonic() + 600
    while len(list(units.glob("*.parquet"))) < done:
        assert process.poll() is None and time.monotonic() < until, process.communicate()[0]
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.federation
def test_a_study_killed_twice_and_resumed_has_the_table_of_an_undisturbed_one(
    small_model: Path, tmp_path: Path
) -> None:
    study = write_study(tmp_path, small_model, arms=ARMS, comparisons=[["federated", "alone"], ["federated", "own"]])
    output = finished(start(study, tmp_path / "whole"))
    assert "federated - own" in output and "16 of 16 units" in output
    for done in (2, 9):
        killed(start(study, tmp_path / "torn"), tmp_path / "torn" / "studies" / "small" / "units", done)
    output = finished(start(study, tmp_path / "torn"))
    assert "units were done before" in output

    folders = [tmp_path / name / "studies" / "small" for name in ("whole", "torn")]
    whole, torn = (pq.read_table(folder / "study.parquet") for folder in folders)
    assert torn.equals(whole, check_metadata=True)
    one, other = (json.loads((folder / "results.json").read_text()) for folder in folders)
    assert one == other
    assert "done in" not in finished(start(study, tmp_path / "torn")), "nothing is run again"
