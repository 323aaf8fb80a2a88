"""Attention masks as a model's layers take them: by kind of layer where it has several."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedModel


def masks(base: PreTrainedModel, visible: Callable[[int | None], Tensor]) -> Tensor | dict[str, Tensor]:
    """Return the masks [B, 1, Q, S] of a model's layers.

    Parameters
    ----------
    visible
        Which place each query attends to, booleans [B, 1, Q, S], by the length of the sliding window, None without one.
    """
    config = base.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return _as_taken(base, visible(window))
    windows = {"full_attention": None, "sliding_attention": window}
    return {kind: _as_taken(base, visible(windows[kind])) for kind in dict.fromkeys(kinds)}


def _as_taken(base: PreTrainedModel, visible: Tensor) -> Tensor:
    """Write a mask as the attention takes it: booleans for SDPA, numbers to be added for others."""
    if base.config._attn_implementation == "sdpa":
        return visible
    hidden = torch.zeros(visible.shape, dtype=base.dtype, device=visible.device)
    return hidden.masked_fill(~visible, torch.finfo(base.dtype).min)
