"""A study by Ray: the table that processes give, also where it was killed; a cluster that is not there is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bench.waiting import PATIENCE
from common.errors import Code, FedReasonError
from simulation.study.cluster import do_by_ray
from tests.paths import ROOT
from tests.simulation.study.studies import finished, killed, start, write_study

pytest.importorskip("ray")


def by_ray(study: Path, runs: Path, address: str = "local") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "simulation", "study", str(study), "--runs", str(runs), "--address", address]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


@pytest.mark.federation
def test_a_study_by_ray_killed_and_resumed_has_the_table_of_one_by_processes(small_model: Path, tmp_path: Path) -> None:
    study = write_study(tmp_path, small_model, arms=["majority", "before", "alone", "federated"], seeds=[4])
    finished(start(study, tmp_path / "processes"))
    folder = tmp_path / "ray" / "studies" / "small"
    killed(by_ray(study, tmp_path / "ray"), folder, "units/*.parquet", 2)
    assert not (folder / "study.parquet").exists()
    output = finished(by_ray(study, tmp_path / "ray"))
    assert "units were done before" in output and "6 of 6 units" in output
    one, other = (
        pq.read_table(tmp_path / name / "studies" / "small" / "study.parquet") for name in ("processes", "ray")
    )
    assert other.equals(one, check_metadata=True)


@pytest.mark.federation
def test_a_refusal_of_a_unit_is_told_by_its_number(small_model: Path, tmp_path: Path) -> None:
    study = write_study(tmp_path, tmp_path / "no-model", arms=["before"], seeds=[4])
    process = by_ray(study, tmp_path / "runs")
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1 and f"E{Code.MODEL_MISSING.value}" in output and "Traceback" not in output


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999"])
def test_a_cluster_that_is_not_there_is_named_at_once(tmp_path: Path, address: str) -> None:
    with pytest.raises(FedReasonError) as refused:
        do_by_ray(tmp_path / "study.toml", tmp_path, [], address, lambda event: None)
    assert refused.value.code is Code.RUN_FAILED and address in str(refused.value)
