"""Small random models of every family that hospitals may bring, with windows shorter than the prompts of tests."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from tests.small import small_sizes

WINDOW = 24
FAMILIES: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "llama": (LlamaConfig, {}),
    "qwen2": (Qwen2Config, {}),
    "qwen2, half of it sliding": (
        Qwen2Config,
        {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    ),
    "qwen3": (Qwen3Config, {"head_dim": 8}),
    "phi3 and phi4": (Phi3Config, {"sliding_window": WINDOW}),
    "mistral": (MistralConfig, {"sliding_window": WINDOW}),
    "gemma2": (Gemma2Config, {"sliding_window": WINDOW, "head_dim": 8}),
    "gemma3": (
        Gemma3TextConfig,
        {"sliding_window": WINDOW, "head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]},
    ),
}


def random_base(family: str, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Return a model of four heads, two of them distinct for keys, the same at every call."""
    kind, options = FAMILIES[family]
    torch.manual_seed(0)
    sizes = small_sizes(tokenizer, num_attention_heads=4, num_key_value_heads=2, initializer_range=0.2, **options)
    base = AutoModelForCausalLM.from_config(kind(**sizes), dtype=dtype)
    assert isinstance(base, PreTrainedModel)
    return base.eval()
