"""How the packed row attends: by a dense mask, or by parts that leave out what nobody sees.

A row of a prompt of P and G completions of T tokens uses P^2/2 + G (P T + T^2/2) places, less than half of the square
that a dense mask has worked through (`client.grpo.parts`).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Literal

from transformers import PreTrainedConfig, PreTrainedModel

from client.grpo.parts import NAME, split
from common.decoding.attend import flash_takes
from common.decoding.masks import by_layer, dense
from common.decoding.row import PackedRow

Attention = Literal["dense", "parts"]

FAMILIES = frozenset({"llama", "qwen2", "qwen3", "phi3", "mistral"})
"""Whose packed pass in parts the tests hold against the dense one. Gemmas look through windows."""


def attention_for(base: PreTrainedModel) -> Attention:
    """Return what a model's packed pass attends by, where nothing else is asked for: parts where FlashAttention is."""
    config = base.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return "parts" if takes_parts(base) and flash_takes(base.device, base.dtype, width) else "dense"


def takes_parts(base: PreTrainedModel) -> bool:
    """Whether a model is of a family whose row can be taken in parts, and looks through no window."""
    config = base.config.get_text_config()
    return config.model_type in FAMILIES and getattr(config, "sliding_window", None) is None


def seen(base: PreTrainedModel, row: PackedRow, attention: Attention) -> dict[str, Any]:
    """Return what the model is told of who sees whom: a row's parts, or masks by kind of layer."""
    if attention == "parts":
        return {"attention_mask": None, "parts": split(row)}
    return {"attention_mask": by_layer(base, lambda window: dense(base, row.visible(window)[None, None]))}


class Attending(AbstractContextManager[None]):
    """Have a model attend so for a while. The sampler may be the same model, and goes on as it was loaded."""

    def __init__(self, base: PreTrainedModel, attention: Attention) -> None:
        self._config: PreTrainedConfig = base.config.get_text_config()
        self._attention = attention
        self._before: str | None = None

    def __enter__(self) -> None:
        self._before = self._config._attn_implementation
        if self._attention == "parts":
            self._config._attn_implementation = NAME

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._config._attn_implementation = self._before
