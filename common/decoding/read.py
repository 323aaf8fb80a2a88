"""A prompt that was read alone: what decoding goes on from, and a training pass where it was read with gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache


@dataclass(frozen=True)
class Read:
    """Keys and values of a prompt in every layer, and the logits [1, V] behind its last token.

    With gradient they hold the prompt's activations until a backward pass has used them.
    """

    cache: DynamicCache
    logits: Tensor


def read_prompt(model: torch.nn.Module, prompt: Sequence[int]) -> Read:
    """Read a prompt; with gradient where the caller has it switched on."""
    cache = DynamicCache()
    ids = torch.tensor([list(prompt)], dtype=torch.long, device=next(model.parameters()).device)
    logits = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
    return Read(cache, logits)
