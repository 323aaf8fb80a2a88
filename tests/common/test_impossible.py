"""Numbers with which no work can be done are refused with the configuration, before a budget pays for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from common.config import OptimizerConfig, RunConfig, load_config
from common.errors import Code, FedReasonError
from common.model.optimizer import Optimizer

INFINITE, NO_NUMBER = float("inf"), float("nan")
PRIVACY = {"clip_norm": 0.5, "noise_multiplier": 1.0, "delta": 1e-5}
IMPOSSIBLE: dict[str, tuple[Any, ...]] = {
    "adapter.rank": (0, 10**9),
    "adapter.alpha": (0, 10**400),
    "questions.weights": ({"age": INFINITE}, {"age": 0.0}),
    "grpo.temperature": (1.4e-38, 0.0, 1e30, INFINITE, NO_NUMBER),
    "grpo.top_p": (0.0, NO_NUMBER),
    "grpo.kl": (1e38, INFINITE, NO_NUMBER),
    "federation.population": (10**400,),
    "federation.sampling_rate": (1e-320, NO_NUMBER),
    "optimizer.learning_rate": (1e30, 1e300, INFINITE, NO_NUMBER),
    "optimizer.momentum": (1.0, -0.1, NO_NUMBER),
    "optimizer.second_momentum": (1.0, NO_NUMBER),
    "optimizer.epsilon": (1e-60, INFINITE, NO_NUMBER),
    "optimizer.max_gradient_norm": (INFINITE, NO_NUMBER),
    "lattice.clip_norm": (1e308, INFINITE, NO_NUMBER),
    "privacy.clip_norm": (1e38, INFINITE, NO_NUMBER),
    "privacy.noise_multiplier": (1e300, INFINITE, NO_NUMBER),
    "privacy.metrics_noise_multiplier": (1e300, INFINITE, NO_NUMBER),
    "privacy.metrics_questions": (10**400,),
    "privacy.answer_every": (INFINITE, NO_NUMBER),
}


def table(key: str, value: Any) -> dict[str, Any]:
    """Return a run in which one number is this one."""
    run: dict[str, Any] = {
        "name": "trial",
        "federation": {"name": "fed", "rounds": 4, "sites": 5, "population": 1500, "sampling_rate": 0.1},
        "optimizer": {"learning_rate": 0.01},
    }
    section, name = key.split(".")
    run[section] = {**run.get(section, PRIVACY if section == "privacy" else {}), name: value}
    return run


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in IMPOSSIBLE.items() for value in values])
def test_a_number_that_makes_the_work_impossible_is_refused_by_its_key(tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=key):
        RunConfig.model_validate(table(key, value))
    path = tmp_path / "run.toml"
    path.write_text(tomli_w.dumps(table(key, value)))
    with pytest.raises(FedReasonError) as caught:
        load_config(path)
    assert caught.value.code is Code.CONFIG_VALUE and key in caught.value.found


VALUES = st.one_of(
    st.floats(-1e30, 1e30), st.sampled_from([0.0, 1e-45, -1e-30, 3e38, -3e38, INFINITE, -INFINITE, NO_NUMBER])
)


@given(
    st.builds(
        OptimizerConfig,
        name=st.sampled_from(["adamw", "sgd"]),
        learning_rate=st.floats(0, 1e6, exclude_min=True),
        momentum=st.floats(0, 1, exclude_max=True),
        second_momentum=st.floats(0, 1, exclude_max=True),
        epsilon=st.floats(1e-30, 1),
        warmup_rounds=st.integers(0, 10**30),
        decay=st.floats(0, 1),
        max_gradient_norm=st.none() | st.floats(0, 1e30, exclude_min=True),
    ),
    st.lists(st.lists(VALUES, min_size=3, max_size=3), min_size=1, max_size=4),
)
def test_with_any_numbers_that_are_taken_every_step_can_be_taken(
    config: OptimizerConfig, gradients: list[list[float]]
) -> None:
    optimizer = Optimizer(config, np.zeros(3, dtype=np.float32), rounds=4)
    for number, gradient in enumerate(gradients, start=1):
        with np.errstate(all="ignore"):
            optimizer.step(np.array(gradient), number)
    assert optimizer.adapter.shape == (3,)


@given(
    st.builds(OptimizerConfig, learning_rate=st.floats(0, 1e6, exclude_min=True), epsilon=st.floats(1e-30, 1)),
    st.sampled_from([0.0, 1e-45, 1e-30, 1e-8]),
)
def test_a_vanishing_gradient_leaves_the_adapter_numbers(config: OptimizerConfig, value: float) -> None:
    optimizer = Optimizer(config, np.zeros(2, dtype=np.float32), rounds=1)
    optimizer.step(np.array([value, 0.0]), 1)
    assert np.isfinite(optimizer.adapter).all()
