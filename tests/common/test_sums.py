"""What a run states about its sums: a secure one has to fit 32 bits, and nothing that contradicts itself is taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w

from common.config import RunConfig, load_config
from common.errors import Code, FedReasonError

NORM = {"bits": 21, "clip_norm": 0.5}
SECURE = {"aggregation": "secure"}
PRIVACY = {"clip_norm": 0.5, "noise_multiplier": 1.0, "delta": 1e-5}


def table(**changes: dict[str, Any]) -> dict[str, Any]:
    run: dict[str, Any] = {
        "name": "trial",
        "federation": {"name": "fed", "rounds": 4, "sites": 5, "population": 1500, "sampling_rate": 0.1},
        "optimizer": {"learning_rate": 0.01},
    }
    for section, values in changes.items():
        run[section] = {**run.get(section, {}), **values}
    return run


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"federation": SECURE}, "lattice.clip_norm"),
        ({"federation": {**SECURE, "sites": 2}, "lattice": NORM}, "3 sites"),
        ({"federation": {**SECURE, "protocol": "fedavg"}, "lattice": NORM}, "fedsgd"),
        ({"federation": {"protocol": "fedavg"}, "lattice": NORM}, "without [privacy]"),
        ({"lattice": NORM, "privacy": PRIVACY}, "without [privacy]"),
        ({"lattice": {"bits": 8, "clip_norm": 1e-3}}, "less than one unit"),
        ({"federation": SECURE, "lattice": {**NORM, "bits": 22}}, "lower lattice.bits"),
        (
            {"federation": SECURE, "privacy": {**PRIVACY, "clip_units": 1_000_000, "noise_multiplier": 1e3}},
            "clip_units",
        ),
        ({"privacy": {**PRIVACY, "noise": "distributed", "colluders": 1}}, 'aggregation = "secure"'),
    ],
)
def test_a_run_whose_sums_cannot_be_is_refused_by_number(tmp_path: Path, changes: Any, told: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(tomli_w.dumps(table(**changes)))
    with pytest.raises(FedReasonError) as caught:
        load_config(path)
    assert caught.value.code is Code.CONFIG_VALUE
    assert told in caught.value.found


def test_the_largest_population_that_fits_is_taken_and_one_more_is_not(tmp_path: Path) -> None:
    lattice = {"bits": 20, "clip_norm": 1.0}
    most = (2**31 - 1) // 2**20
    RunConfig.model_validate(table(federation={**SECURE, "population": most}, lattice=lattice))
    with pytest.raises(ValueError, match="32 bits"):
        RunConfig.model_validate(table(federation={**SECURE, "population": most + 1}, lattice=lattice))


def test_a_run_that_states_none_of_this_travels_as_before() -> None:
    told = RunConfig.model_validate(table(privacy=PRIVACY)).model_dump_json()
    assert not any(key in told for key in ('"aggregation"', '"noise"'))
    assert "clip_norm" not in RunConfig.model_validate(table()).model_dump_json()
    for changes in ({"federation": SECURE, "lattice": NORM}, {"federation": SECURE, "privacy": PRIVACY}):
        config = RunConfig.model_validate(table(**changes))
        assert RunConfig.model_validate_json(config.model_dump_json()) == config
        assert config.sha256 != RunConfig.model_validate(table()).sha256
