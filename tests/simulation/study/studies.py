"""A small study written, started, finished or killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import tomli_w

from bench.waiting import PATIENCE
from tests.paths import ROOT
from tests.small import write_config


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
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    return output


def killed(process: subprocess.Popen[str], folder: Path, sign: str, often: int) -> None:
    """Kill the study once so many files of a kind are there; what it started ends with it."""
    until = time.monotonic() + PATIENCE
    while len(list(folder.glob(sign))) < often:
        assert process.poll() is None and time.monotonic() < until, process.communicate()[0]
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
