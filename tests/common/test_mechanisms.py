"""What a run says of its sums before it starts: who can open one, what noise it holds, at which epsilon."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.privacy.clip import clipped
from client.privacy.keystream import Keystream
from common.accounting import epsilon, rdp
from common.config import RunConfig, load_config
from common.mechanisms import (
    drowns,
    kept_length,
    mechanism_document,
    mechanism_lines,
    noise_on_mean,
    noisings,
    opening,
    sums_text,
)
from tests.whole_site import run_of

DELTA = 1e-5
SHARED: dict[str, Any] = {"noise": "distributed", "colluders": 3, "dropouts": 3}


def config_of(sites: int = 10, quorum: int = 7, aggregation: str = "secure", **changes: Any) -> RunConfig:
    federation = {"sites": sites, "quorum": quorum, "population": 1000, "rounds": 30, "aggregation": aggregation}
    return run_of(federation=federation, **changes)


def cost(sigma: float) -> float:
    return epsilon(rdp(noise_multiplier=sigma, sampling_rate=1.0, steps=30), DELTA)


def test_shared_noise_costs_what_local_noise_costs_and_leaves_less_in_the_sum() -> None:
    """Ten sites, three colluders, three dropouts: sqrt(10 / 4) of one trusted server's noise, and not sqrt(10)."""
    shared, local, none = noisings(config_of(privacy=SHARED), DELTA)
    assert (shared.kind, local.kind, none.kind) == ("distributed", "local", "none")
    assert [one.stated for one in (shared, local, none)] == [True, False, False]
    assert shared.epsilon == local.epsilon == local.if_opened == pytest.approx(cost(4.0))
    assert shared.in_sum == pytest.approx(math.sqrt(10 / 4), rel=1e-3)
    assert local.in_sum == pytest.approx(math.sqrt(10))
    assert shared.if_opened == pytest.approx(cost(4.0 / 2), rel=1e-3)
    assert none.epsilon is None


def test_a_run_of_local_noise_says_what_sharing_it_would_take() -> None:
    local, shared, _ = noisings(config_of(aggregation="plain"), DELTA)
    assert local.stated and local.kind == "local" and not shared.stated
    assert shared.in_sum == pytest.approx(math.sqrt(10 / 9), rel=1e-3), "a site knows its own share"


@pytest.mark.parametrize(
    "changes",
    [
        {"sites": 2, "quorum": 2, "aggregation": "plain"},
        {"privacy": SHARED | {"colluders": 0}},
        {"privacy": SHARED | {"colluders": 4}},
        {"sites": 4, "quorum": 3, "privacy": SHARED | {"colluders": 1}},
    ],
    ids=["two sites", "no colluder", "too many colluders", "nobody left"],
)
def test_noise_that_cannot_be_shared_is_given_no_cost(changes: dict[str, Any]) -> None:
    assert "distributed" not in {one.kind for one in noisings(config_of(**changes), DELTA)}


def test_a_run_without_privacy_has_no_epsilon_by_any_name() -> None:
    config = config_of(privacy=None, lattice={"bits": 20, "clip_norm": 1.0})
    (only,) = noisings(config, DELTA)
    assert only.stated and only.epsilon is None
    assert mechanism_lines(config, DELTA)[-1] == (
        "noise", "none, as this run: nothing is charged, and no epsilon holds"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("sites", "threshold", "lost", "conspirators"), [(3, 3, 0, 1), (4, 3, 1, 1), (5, 4, 1, 2), (10, 7, 3, 3)]
)
def test_a_secure_sum_is_opened_by_more_than_two_thirds(
    sites: int, threshold: int, lost: int, conspirators: int
) -> None:
    found = opening(config_of(sites, sites, privacy=None, lattice={"bits": 20, "clip_norm": 1.0}), sites)
    assert found is not None
    assert (found.threshold, found.lost, found.conspirators) == (threshold, lost, conspirators)


def test_shared_noise_allows_as_many_to_be_lost_as_its_dropouts() -> None:
    found = opening(config_of(quorum=9, privacy=SHARED | {"dropouts": 1}), 10)
    assert found is not None and (found.threshold, found.lost) == (7, 1)


def test_the_smallest_round_is_told_where_the_quorum_is_smaller() -> None:
    assert "In the smallest round, of 7 sites, 5 open it" in sums_text(config_of(privacy=SHARED))
    assert "smallest" not in sums_text(config_of(quorum=10, privacy=SHARED))
    assert sums_text(config_of(aggregation="plain")) == "plain: the coordinator sees the sum of each site"


def test_a_program_reads_the_same_also_where_nothing_is_bounded() -> None:
    weak = config_of(privacy=SHARED | {"noise_multiplier": 0.004})
    told = json.loads(json.dumps(mechanism_document(weak, DELTA), allow_nan=False))
    assert told["aggregation"] == "secure" and told["opening"]["threshold"] == 7
    assert {one["kind"] for one in told["noise"]} == {"distributed", "local", "none"}


@pytest.mark.parametrize(
    ("name", "changes", "length"),
    [
        ("demo-dp", {}, 0.69),
        ("demo-distributed", {"noise": "local", "colluders": 0, "dropouts": 0}, 1.89),
        ("demo-distributed", {}, 0.95),
    ],
    ids=["three sites", "ten, all of it each", "ten, a share each"],
)
def test_the_noise_on_the_mean_is_that_of_the_published_table(
    name: str, changes: dict[str, Any], length: float
) -> None:
    """docs/privacy.md: 16,896 values, 200 patients a step."""
    run, _ = load_config(Path(f"configs/{name}.toml"))
    table = run.model_dump(mode="json", exclude_none=True)
    run = RunConfig.model_validate(table | {"privacy": table["privacy"] | changes})
    assert noise_on_mean(run, 16_896) == pytest.approx(length, abs=0.005)
    told = dict(mechanism_lines(run, DELTA, 16_896))["mean"]
    assert told.startswith("of 200 patients a step, ") and "teach nothing" not in told


def test_the_example_of_the_guide_is_what_is_said_of_it() -> None:
    """docs/coordinator.md: B of q and v in 28 layers, rank 16, of widths 3,584 and 512."""
    run, _ = load_config(Path("configs/qwen.toml"))
    table = run.model_dump(mode="json", exclude_none=True)
    run = RunConfig.model_validate(table | {"privacy": {"clip_norm": 1.0, "noise_multiplier": 0.8, "delta": 1e-5}})
    assert noise_on_mean(run, 28 * 16 * (3_584 + 512)) == pytest.approx(75.7, abs=0.1)


def test_noise_that_drowns_every_gradient_is_said_before_it_is_paid_for() -> None:
    config = config_of(privacy=SHARED)
    assert drowns(config, 10**9) and not drowns(config, 10)
    assert "the run would spend budget and teach nothing" in dict(mechanism_lines(config, DELTA, 10**9))["mean"]
    assert "mean" not in dict(mechanism_lines(config, DELTA)), "of an adapter whose size is not known nothing is said"
    assert mechanism_document(config, DELTA, 10**9)["noise_on_mean"] == noise_on_mean(config, 10**9)
    plain = config_of(privacy=None, lattice={"bits": 20, "clip_norm": 1.0})
    assert not drowns(plain, 10**9) and noise_on_mean(plain, 10**9) is None
    assert "mean" not in dict(mechanism_lines(plain, DELTA, 10**9))


@pytest.mark.parametrize(("units", "size"), [(100, 200_000), (300, 200_000), (2000, 200_000), (100, 500)])
def test_what_too_few_units_leave_of_a_gradient_is_said_before_it_is_paid_for(units: int, size: int) -> None:
    config = config_of(privacy=SHARED | {"clip_units": units})
    gradient = np.random.default_rng(0).standard_normal(size)
    gradient /= np.linalg.norm(gradient)
    clipped_to, _ = clipped(gradient.astype(np.float32), 1.0, units, Keystream(bytes(32)))
    kept = float(np.dot(clipped_to / units, gradient))
    assert kept_length(config, size) == pytest.approx(kept, abs=0.06)
    told = dict(mechanism_lines(config, DELTA, size))["mean"]
    assert ("with 448 or more a gradient keeps its length" in told) == (units < 447 and size > 500) == (kept < 0.85)
    assert mechanism_document(config, DELTA, size)["kept_length"] == kept_length(config, size)
