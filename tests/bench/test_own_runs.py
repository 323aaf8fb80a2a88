"""Measurements that take a simulation of one's own instead of the one that they know: `--run FILE`."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomli_w

from tests.bench.called import figures
from tests.small import small_config

pytestmark = pytest.mark.federation


@pytest.fixture
def stated(small_model: Path, tmp_path: Path) -> Path:
    config = small_config(small_model, simulation={"patients": 10, "compare": False}, evaluation={"every": 0})
    table = config.model_dump(mode="json", exclude_none=True)
    table["questions"].pop("codebook_sha256")
    path = tmp_path / "own.toml"
    path.write_text(tomli_w.dumps(table))
    return path


def test_its_federation_is_rehearsed_in_fewer_rounds_and_equals_pooled_training(stated: Path) -> None:
    found = figures("rehearsal", "--run", stated, "--rounds", 2)
    assert found["run"] == "small" and len(found["rewards"]) == 2
    assert found["moved"] and found["identical"]


def test_its_recipe_is_tried_over_seeds_and_what_is_finished_is_not_run_again(stated: Path, tmp_path: Path) -> None:
    words = ("--run", stated, "--seed", 4, "--seed", 5, "--processes", 1, "--runs", tmp_path / "runs")
    found = figures("learning", *words)
    assert set(found["gain_over_no_training"]) == {"4", "5"}
    assert [(result["run"], result["rounds"]) for result in found["results"]] == [("small", 3)] * 2
    assert all(result["questions"] > 0 and 0 <= result["federated"] <= 1 for result in found["results"])
    kept = sorted((tmp_path / "runs").glob("*/result.json"))
    before = [path.stat().st_mtime_ns for path in kept]
    assert len(kept) == 2 and figures("learning", *words) == found
    assert [path.stat().st_mtime_ns for path in kept] == before
