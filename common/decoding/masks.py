"""Attention masks as a model's layers take them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

_Mask = TypeVar("_Mask")


def by_layer(base: PreTrainedModel, mask: Callable[[int | None], _Mask]) -> _Mask | dict[str, _Mask]:
    """Return the masks of a model's layers: by kind of layer where it has several.

    Parameters
    ----------
    mask
        Gives a mask by the length of the sliding window, None without one.
    """
    config = base.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return mask(window)
    windows = {"full_attention": None, "sliding_attention": window}
    return {kind: mask(windows[kind]) for kind in dict.fromkeys(kinds)}


def dense(base: PreTrainedModel, visible: Tensor) -> Tensor:
    """Write which place each query attends to [B, 1, Q, S]: booleans for SDPA, numbers to be added for others."""
    if base.config._attn_implementation == "sdpa":
        return visible
    hidden = torch.zeros(visible.shape, dtype=base.dtype, device=visible.device)
    return hidden.masked_fill(~visible, torch.finfo(base.dtype).min)
