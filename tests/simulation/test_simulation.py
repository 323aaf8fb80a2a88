"""The whole path as a person runs it: processes, signals, exit statuses, the report on disk."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.waiting import PATIENCE, until
from tests.paths import ROOT
from tests.small import write_config

ROUNDS = 8


def start(config: Path, runs: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "simulation", str(config), "--runs", str(runs)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, output


def wait_for_round(folder: Path, number: int, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        try:
            with sqlite3.connect(f"file:{folder / 'rounds.sqlite'}?mode=ro", uri=True) as database:
                if (database.execute("select max(round) from rounds").fetchone()[0] or 0) >= number:
                    return
        except sqlite3.OperationalError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"round {number} was not reached: {finish(process)}")


def running_below(folder: Path) -> list[int]:
    """Processes whose command line names the run folder's parent: nothing of ours may outlive a run."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder) in (process / "cmdline").read_bytes().decode(errors="replace"):
                found.append(int(process.name))
        except OSError:
            continue
    return found


@pytest.mark.federation
def test_ctrl_c_in_round_3_and_a_kill_in_round_5_cost_nothing(small_model: Path, tmp_path: Path) -> None:
    config = write_config(
        tmp_path,
        small_model,
        federation={"rounds": ROUNDS, "sampling_rate": 1.0},
        simulation={"hospitals": ["north", "south", "west"], "patients": 14, "compare": False, "processes": 1},
    )
    status, output = finish(start(config, tmp_path / "undisturbed"))
    assert status == 0, output
    expected = json.loads((tmp_path / "undisturbed" / "small" / "summary.json").read_text())
    assert expected["rounds"] == ROUNDS
    assert 20_000 < (tmp_path / "undisturbed" / "small" / "report.html").stat().st_size < 200_000

    runs = tmp_path / "disturbed"
    for number, stop, code in ((3, signal.SIGINT, 130), (5, signal.SIGKILL, -signal.SIGKILL)):
        process = start(config, runs)
        wait_for_round(runs / "small", number, process)
        process.send_signal(stop)
        status, output = finish(process)
        assert status == code
        assert "Traceback" not in output
        if stop == signal.SIGINT:
            assert "goes on from the last finished round" in output
        until(lambda: running_below(runs) == [])
        assert not (runs / "small" / "summary.json").exists()
    status, output = finish(start(config, runs))
    assert status == 0, output
    summary = json.loads((runs / "small" / "summary.json").read_text())
    assert summary["adapter_sha256"] == expected["adapter_sha256"]
    assert summary["accuracy"] == expected["accuracy"]
    assert summary["bytes_up"] == expected["bytes_up"]


@pytest.mark.federation
def test_the_federation_on_flower_equals_the_pooled_run_bit_for_bit(small_model: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, small_model)
    status, output = finish(start(config, tmp_path / "runs"))
    assert status == 0, output
    summary = json.loads((tmp_path / "runs" / "small" / "summary.json").read_text())
    assert summary["federated_equals_pooled"] is True
    assert summary["adapter_sha256"] == summary["pooled_adapter_sha256"]
    keys = {"chance", "majority", "before", "best_no_training", "alone_mean", "federated", "pooled"}
    assert set(summary["accuracy"]) == keys
    for row in ("before", "one site alone", "federated", "all records pooled"):
        assert row in output
    assert (tmp_path / "runs" / "small" / "adapter" / "adapter_model.safetensors").exists()


def refused(config: Path, runs: Path) -> str:
    process = subprocess.run(
        [sys.executable, "-m", "simulation", str(config), "--runs", str(runs)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=os.environ | {"COLUMNS": "500"},
    )
    output = process.stdout + process.stderr
    assert process.returncode == 1, output
    assert "Traceback" not in output
    return output


def table_config(tmp_path: Path, csv_text: str, codebook_extra: str = "") -> Path:
    (tmp_path / "table.csv").write_text(csv_text)
    (tmp_path / "book.toml").write_text(
        'title = "t"\npatient = "id"\n'
        '[[features]]\nname = "age"\nsection = "S"\nlabel = "Age"\nkind = "numeric"\nlow = 0\nhigh = 120\nstep = 10\n'
        '[[features]]\nname = "sex"\nsection = "S"\nlabel = "Sex"\nkind = "categorical"\ncategories = ["m", "f"]\n'
        + codebook_extra
    )
    path = tmp_path / "run.toml"
    path.write_text(
        'name = "t"\n[questions]\ncodebook = "book.toml"\n'
        '[federation]\nname = "t"\nrounds = 1\nsites = 2\npopulation = 4\nsampling_rate = 1.0\n'
        "[optimizer]\nlearning_rate = 1e-3\n"
        '[simulation]\nregistry = "table.csv"\nstratify = ["sex"]\n'
    )
    return path


GOOD = "id,age,sex\na,50,m\nb,60,f\nc,70,m\nd,80,f\n"


@pytest.mark.federation
@pytest.mark.parametrize(
    ("csv_text", "extra", "number", "says"),
    [
        ("id,age\na,50\n", "", 302, "sex"),
        ("", "", 303, "table.csv"),
        ("id,age,sex\n", "", 303, "table.csv"),
        (GOOD + "e,9", "", 304, "line 6"),
        (
            GOOD,
            '[[features]]\nname = "age"\nsection = "S"\nlabel = "A"\nkind = "categorical"\ncategories = ["1", "2"]\n',
            204,
            "age",
        ),
    ],
    ids=["missing-column", "empty-file", "header-only", "torn-last-line", "feature-twice"],
)
def test_bad_input_is_one_numbered_line(tmp_path: Path, csv_text: str, extra: str, number: int, says: str) -> None:
    config = table_config(tmp_path, csv_text, extra)
    output = refused(config, tmp_path / "runs")
    assert f"E{number}" in output
    assert says in output
    assert "50" not in output.replace("E50", "")


@pytest.mark.federation
def test_an_unknown_key_is_refused_with_its_line_and_a_missing_file_by_name(tmp_path: Path) -> None:
    config = table_config(tmp_path, GOOD)
    config.write_text(config.read_text().replace("rounds = 1", "rounds = 1\nround = 2"))
    output = refused(config, tmp_path / "runs")
    assert "E103" in output
    assert "line 7, federation.round" in output
    assert "E101" in refused(tmp_path / "none.toml", tmp_path / "runs")
