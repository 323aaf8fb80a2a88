"""A base model that a run would train wrongly is refused before anything is charged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    GraniteConfig,
    LlamaConfig,
    Phi3Config,
)

from client.grpo.fit import require_fit
from client.training.engine import Engine
from common import synthetic
from common.config import AdapterConfig, RunConfig
from common.errors import Code, FedReasonError
from common.model.base import add_lora
from tests.families import FAMILIES, random_base
from tests.small import make_small_tokenizer, small_config, small_sizes

pytestmark = pytest.mark.model
TOKENIZER = make_small_tokenizer()


def fits(base: Any, config: RunConfig) -> bool:
    dtype = str(base.dtype).removeprefix("torch.")
    config = config.model_copy(update={"model": config.model.model_copy(update={"dtype": dtype})})
    try:
        require_fit(add_lora(base, AdapterConfig(rank=4, alpha=8), seed=0), TOKENIZER, config)
    except FedReasonError as refusal:
        assert refusal.code is Code.MODEL_UNFIT
        return False
    return True


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_of_the_tests_fits(family: str, checkpointing: bool, small_model: Path) -> None:
    config = small_config(small_model, grpo={"checkpointing": checkpointing})
    assert fits(random_base(family, TOKENIZER), config)


@pytest.mark.parametrize(
    ("kind", "options"),
    [(GraniteConfig, {"logits_scaling": 8.0}), (CohereConfig, {"logit_scale": 0.06})],
    ids=["granite", "cohere"],
)
def test_a_model_that_scales_what_its_head_says_is_trained_by_its_own_pass_alone(
    kind: Any, options: dict[str, Any], small_model: Path
) -> None:
    """The packed pass would give the gradient of a policy several times sharper than the one sampled."""
    sizes = small_sizes(TOKENIZER, num_attention_heads=4, initializer_range=0.2)
    for dtype in (torch.float32, torch.bfloat16):
        for checkpointing in (False, True):
            torch.manual_seed(0)
            base = AutoModelForCausalLM.from_config(kind(**sizes | options), dtype=dtype).eval()
            config = small_config(small_model, grpo={"checkpointing": checkpointing})
            assert fits(base, config) is not checkpointing


@pytest.mark.parametrize("sharper", [1.0, 256.0])
def test_roundings_of_a_model_in_half_precision_are_no_other_pass(sharper: float, small_model: Path) -> None:
    base = random_base("llama", TOKENIZER, torch.bfloat16)
    base.model.norm.weight.data *= sharper
    assert fits(base, small_config(small_model, grpo={"checkpointing": True}))


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_rows_beyond_the_length_at_which_angles_change_are_refused(kind: str, small_model: Path) -> None:
    """Sampled beside a longer one a row would have other angles than when it is trained alone."""
    rope: dict[str, Any] = {"rope_type": kind, "factor": 4.0, "rope_theta": 1e4}
    sizes = small_sizes(TOKENIZER, num_attention_heads=4)
    if kind == "longrope":
        half = sizes["hidden_size"] // 4 // 2
        rope |= {"short_factor": [1.0] * half, "long_factor": [2.0] * half}
        sizes |= {"original_max_position_embeddings": 64}
    made: Any = Phi3Config if kind == "longrope" else LlamaConfig
    sizes |= {"max_position_embeddings": 256 if kind == "longrope" else 64}
    for longest, fit in ((64, True), (65, False)):
        base = AutoModelForCausalLM.from_config(made(**sizes, rope_parameters=rope), dtype=torch.float32).eval()
        grpo = {"max_prompt_tokens": 40, "max_completion_tokens": longest - 40}
        assert fits(base, small_config(small_model, grpo=grpo)) is fit


def test_an_engine_that_is_kept_asks_anew_for_another_run(small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import client.training.engine as engine

    asked = list[bool]()
    monkeypatch.setattr(engine, "require_fit", lambda model, tokenizer, config: asked.append(config.grpo.checkpointing))
    monkeypatch.setattr(engine, "_ENGINES", engine._Engines())
    for checkpointing in (False, True, False):
        config = small_config(small_model, grpo={"checkpointing": checkpointing})
        engine.resident_engine(config, synthetic.codebook(), device="cpu", rollouts="transformers", models=small_model)
    assert asked == [False, True]


def test_an_engine_asks_it_and_a_template_that_makes_nothing_is_refused_there(
    small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import client.training.engine as engine

    real = engine.load_base

    def loaded(*given: Any) -> Any:
        base, tokenizer = real(*given)
        tokenizer.chat_template = "{{ raise_exception('nothing') }}"
        return base, tokenizer

    monkeypatch.setattr(engine, "load_base", loaded)
    with pytest.raises(FedReasonError) as refusal:
        Engine(small_config(small_model), None, "cpu")
    assert refusal.value.code is Code.MODEL_UNFIT
