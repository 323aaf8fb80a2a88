"""The work that the benchmarks of the GRPO step do: random models, prompts and rewards; nothing is downloaded."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, Phi3Config, PreTrainedModel, PreTrainedTokenizerFast, Qwen2Config

from common.config import AdapterConfig
from common.model.adapter import trainable
from common.model.base import add_lora
from common.model.quantization import keep_bits
from common.stream import Stream

MODELS: dict[str, tuple[dict[str, Any], torch.dtype]] = {
    "phi4-random": (
        {
            "vocab_size": 100352,
            "hidden_size": 5120,
            "num_hidden_layers": 40,
            "num_attention_heads": 40,
            "num_key_value_heads": 10,
            "intermediate_size": 17920,
            "rope_theta": 250000.0,
        },
        torch.bfloat16,
    ),
    "tiny-random": (
        {
            "vocab_size": 1024,
            "hidden_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 384,
        },
        torch.float32,
    ),
}
"""Phi-4's 14.7 billion parameters (arXiv 2412.08905), and the same architecture at the size of the embedded model."""
PACKED = "-nf4"
"""Ends the name of a model whose linear layers are in four bits."""
MODELS |= {name + PACKED: (sizes, torch.bfloat16) for name, (sizes, _) in MODELS.items()}


@dataclass(frozen=True)
class Work:
    """What a step does: prompts of so many tokens, of each a group of completions of so many tokens."""

    prompt: int
    completion: int
    groups: int
    generations: int


def words_tokenizer(vocabulary: int = 1024) -> PreTrainedTokenizerFast:
    """Return a tokenizer of numbered words, enough to decode completions to text."""
    words = {"<pad>": 0, "<eos>": 1} | {f"w{i}": i for i in range(2, vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )


def named_model(name: str, device: str, dtype: torch.dtype | None = None, *, window: int | None = None) -> PeftModel:
    """Return a model of MODELS with random weights, made (and packed) on the device, and a random, non-zero B."""
    base = random_phi3(name, device, dtype, window=window)
    if name.endswith(PACKED):
        pack(base)
    return _with_random_b(add_lora(base.requires_grad_(False).eval(), AdapterConfig(), 0))


def random_phi3(
    name: str,
    device: str,
    dtype: torch.dtype | None = None,
    *,
    window: int | None = None,
    layers: int | None = None,
) -> PreTrainedModel:
    """Return a base of MODELS with random weights, of fewer layers where they are given."""
    sizes, usual = MODELS[name]
    sizes = sizes | ({} if layers is None else {"num_hidden_layers": layers})
    config = Phi3Config(
        max_position_embeddings=16384,
        original_max_position_embeddings=16384,
        rms_norm_eps=1e-5,
        sliding_window=window,
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        **sizes,
    )
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype or usual, attn_implementation="sdpa")  # type: ignore[no-any-return]


def pack(base: PreTrainedModel) -> None:
    """Put the linear layers of a model on its device into NF4, one after another; the head stays."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    head, linear = base.get_output_embeddings(), torch.nn.Linear
    for name in [name for name, module in base.named_modules() if isinstance(module, linear) and module is not head]:
        whole = base.get_submodule(name)
        layer = Linear4bit(
            whole.in_features, whole.out_features, bias=False, compute_dtype=base.dtype, quant_type="nf4", device="meta"
        )
        weight = Params4bit(whole.weight.data, quant_type="nf4", compress_statistics=False, module=layer)
        layer.weight = weight.to(whole.weight.device)
        base.set_submodule(name, layer)
    base.is_loaded_in_4bit = True
    keep_bits(base)


def random_model(tokenizer: PreTrainedTokenizerFast) -> PeftModel:
    """Return a Qwen2 of the embedded model's shape with random weights and a random, non-zero B."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=384,
        max_position_embeddings=16384,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        initializer_range=0.05,
    )
    base = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    return _with_random_b(add_lora(base.requires_grad_(False), AdapterConfig(), 0))


def _with_random_b(model: PeftModel) -> PeftModel:
    with torch.no_grad():
        for parameter in trainable(model):
            parameter.normal_(0, 0.02)
    return model


def random_prompts(count: int, length: int) -> list[list[int]]:
    """Return prompts of one length, token ids drawn from a named stream."""
    stream = Stream.named("bench prompts", count, length)
    return [(2 + stream.uniforms(length) * 1000).astype(int).tolist() for _ in range(count)]


def text_reward(_: Sequence[Any], completions: Sequence[str]) -> list[float]:
    """Return a number in [0, 1) that a completion's text fixes, so that no group agrees."""
    return [zlib.crc32(text.encode()) / 2**32 for text in completions]
