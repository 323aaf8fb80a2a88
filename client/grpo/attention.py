"""How the packed row attends: by a dense mask, or by FlexAttention, which leaves out the blocks that nobody sees.

A row of a prompt of P and G completions of T tokens uses P^2/2 + G (P T + T^2/2) places, less than half of the square
that a dense mask has worked through. FlexAttention (arXiv 2412.05496) has a backward pass on a GPU alone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Literal

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from transformers import PreTrainedConfig, PreTrainedModel

from client.grpo.row import PackedRow
from common.decoding.masks import by_layer, dense

Attention = Literal["dense", "flex"]
Mask = Tensor | BlockMask

ON_CUDA: Attention = "dense"
"""What the packed pass uses on a GPU. FlexAttention has not run on one here; `bench.grpo` times both."""

BLOCK = 128
"""Places to a side of a block, as FlexAttention has it. Rows are rounded up to it: few lengths are ever compiled."""

FAMILIES = frozenset({"llama", "qwen2", "qwen3", "phi3", "mistral", "gemma3_text"})
"""Whose packed pass by FlexAttention the tests hold against the dense one. Gemma 2 caps its scores: not among them."""
_WIDTHS = (16, 32, 64, 128, 256)
"""Of an attention head: powers of two that its kernels take without padding."""


def attention_for(base: PreTrainedModel) -> Attention:
    """Return what a model's packed pass attends by, where nothing else is asked for."""
    return ON_CUDA if base.device.type == "cuda" and takes_flex(base) else "dense"


def takes_flex(base: PreTrainedModel) -> bool:
    """Whether a model is of a family, and its heads of a width, that FlexAttention is used for."""
    config = base.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return config.model_type in FAMILIES and width in _WIDTHS


def masks(base: PreTrainedModel, row: PackedRow, attention: Attention) -> Mask | dict[str, Mask]:
    """Masks of a row as the model's layers take them: by kind of layer where it has several."""

    def mask(window: int | None) -> Mask:
        return block_mask(row, window) if attention == "flex" else dense(base, row.visible(window)[None, None])

    return by_layer(base, mask)


def block_mask(row: PackedRow, window: int | None) -> BlockMask:
    """Return a row's mask for FlexAttention, L a multiple of BLOCK; no more than BLOCK x L of it is written out."""
    sees = mask_mod(row, window)
    places = torch.arange(len(row.tokens), device=row.tokens.device)
    some, every = [], []
    for queries in places.split(BLOCK):
        seen = sees(0, 0, queries[:, None], places[None, :]).view(BLOCK, -1, BLOCK)
        some.append(seen.any(2).any(0))
        every.append(seen.all(2).all(0))
    whole = torch.stack(every)
    partly = torch.stack(some) & ~whole
    return BlockMask.from_kv_blocks(*_listed(partly), *_listed(whole), BLOCK_SIZE=BLOCK, mask_mod=sees)


def mask_mod(row: PackedRow, window: int | None) -> Callable[..., Tensor]:
    """Return whether a query's place attends to a key's, as `PackedRow.visible` has it.

    The window is a tensor, not a number: layers with and without one then share what is compiled.
    """
    segment, positions = row.segment, row.positions
    reach = torch.tensor(len(segment) if window is None else window, device=segment.device)

    def sees(batch: object, head: object, query: Tensor, key: Tensor) -> Tensor:
        own = (segment[key] == 0) | (segment[key] == segment[query])
        distance = positions[query] - positions[key]
        return own & (distance >= 0) & (distance < reach)

    return sees


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Of blocks [B, B] that are meant or not: how many in each row [1, 1, B], and which, those first [1, 1, B, B]."""
    order = blocks.int().argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32)[None, None], order.int()[None, None]


class Attending(AbstractContextManager[None]):
    """Have a model attend so for a while. The sampler may be the same model, and goes on as it was loaded."""

    def __init__(self, base: PreTrainedModel, attention: Attention) -> None:
        self._config: PreTrainedConfig = base.config.get_text_config()
        self._attention = attention
        self._before: str | None = None

    def __enter__(self) -> None:
        self._before = self._config._attn_implementation
        if self._attention == "flex":
            self._config._attn_implementation = "flex_attention"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._config._attn_implementation = self._before
