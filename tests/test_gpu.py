"""The step on a CUDA device; needs nothing of flwr, trl or opacus: `python -m pytest -m gpu tests/test_gpu.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from client.grpo.rollout import roll_out
from client.grpo.step import patient_gradient, rollout_gradient
from common.adapter import trainable
from common.config import AdapterConfig
from common.model import add_lora, load_base
from common.policy import Policy
from common.stream import Stream
from tests.small import small_config
from tests.test_grpo import SETTINGS, questions, with_random_b

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_runs_on_cuda_and_keeps_the_adapter_float32(small_model: Path, dtype: str) -> None:
    config = small_config(small_model).model.model_copy(update={"dtype": dtype})
    base, tokenizer = load_base(config, device="cuda")
    model = with_random_b(add_lora(base, AdapterConfig(rank=4, alpha=8), 0).cpu()).to("cuda")
    policy = Policy(model).model
    gradient, counts = patient_gradient(
        model, tokenizer, questions(), SETTINGS, per_patient=3, stream=Stream.named("a"), policy=policy
    )
    assert counts.rollouts == 12
    assert np.isfinite(gradient).all()
    assert {p.dtype for p in trainable(model)} == {torch.float32}


def test_cuda_gives_the_gradient_of_the_cpu(small_model: Path) -> None:
    base, tokenizer = load_base(small_config(small_model).model)
    model = with_random_b(add_lora(base, AdapterConfig(rank=4, alpha=8), 0))
    rollouts = roll_out(model, tokenizer, questions(), SETTINGS, Stream.named("a"))
    here = rollout_gradient(model, rollouts, SETTINGS, per_patient=3, pad=0)
    moved = type(rollouts.completions)(*(tensor.cuda() for tensor in vars(rollouts.completions).values()))
    object.__setattr__(rollouts, "completions", moved)
    there = rollout_gradient(model.cuda(), rollouts, SETTINGS, per_patient=3, pad=0)
    assert here.any()
    assert torch.allclose(here, there, atol=1e-4 * float(here.abs().max()))
