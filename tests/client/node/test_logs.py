"""Our lines stand once in a log, whatever a library does to the root logger."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from bench.waiting import PATIENCE
from client.node.resident import Resident
from common import synthetic
from common.config import PrivacyConfig
from common.messages.kinds import Contribution, Layout, Reply, Task
from simulation.prepare import prepare
from tests.paths import ROOT
from tests.small import small_config

_BOTH = """
import logging
from common.logs import log_to_stderr, logger
log_to_stderr()
logger("site").info("before")
{library}
assert logging.getLogger().handlers, "the library leaves the root logger alone: the check cannot fail"
logger("site").info("after")
logger("server").warning("warned")
"""
_LIBRARIES = {
    "opacus": "import opacus",
    "basicConfig": "logging.basicConfig(level=logging.INFO)",
    "a word to the root logger": "logging.warning('heard')",
}


@pytest.mark.long
@pytest.mark.parametrize("name", _LIBRARIES)
def test_a_line_stands_once_after_a_library_has_given_the_root_logger_a_handler(name: str) -> None:
    script = _BOTH.replace("{library}", _LIBRARIES[name])
    done = subprocess.run([sys.executable, "-c", script, "x"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ours = ("before", "after", "warned")
    assert [line for line in done.stderr.splitlines() if line.endswith(ours)] == [
        "fedreason.site: before",
        "fedreason.site: after",
        "fedreason.server: warned",
    ], done.stderr


def taken(resident: Resident, kind: str, task: Task) -> Reply:
    resident.give(kind, task)
    until = time.monotonic() + PATIENCE
    while (reply := resident.take(0.5)) is None:
        assert time.monotonic() < until
    return reply


def test_the_resident_process_writes_each_line_once_to_terminal_and_file_and_no_library_writes_there(
    small_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A private round, after a model was loaded: transformers and peft come in, with other lines to say."""
    privacy = PrivacyConfig(clip_norm=0.5, noise_multiplier=8.0, delta=1e-5)
    config = small_config(small_model).model_copy(update={"privacy": privacy})
    folder = next(iter(prepare(config, synthetic.codebook(), tmp_path).values()))
    limits = 'base_models = ["*"]\n[patient]\ncolumn = "patient_id"\n'
    (folder / "policy.toml").write_text(limits + "[privacy]\nmin_sites = 1\nmin_noise_multiplier = 1.0\n")
    resident = Resident(folder)
    resident.start()
    try:
        while not resident.ready(1.0):
            pass
        layout = taken(resident, "query", Task(config, 0, 0, None))
        assert isinstance(layout, Layout), layout
        adapter = np.zeros(layout.size, dtype=np.float32)
        for number in (1, 2):
            assert isinstance(taken(resident, "train", Task(config, number, 0, adapter)), Contribution)
    finally:
        resident.stop()
    shown = capfd.readouterr().err.splitlines()
    assert sum("model loaded" in line for line in shown) == 1
    assert Counter(line.partition(" in ")[0] for line in shown if "round 2, contribute" in line).total() == 1
    assert [line for line in shown if not line.startswith("fedreason.")] == []
    kept = (folder / "state" / "log" / "resident.log").read_text().splitlines()
    assert [line.partition(" fedreason.")[2] for line in kept] == [line.removeprefix("fedreason.") for line in shown]
