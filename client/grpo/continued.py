"""Log-probabilities with gradient that go on from a prompt as sampling has read it: it is not read a second time.

The completions are one row behind the prompt, each blind to the others, so that its keys and values are not copied for
each either. For the model families that decode in groups (`common.decoding.shared`); the others have a forked cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from common.decoding.generate import Completions, chosen_logprobs
from common.decoding.masks import by_layer, dense
from common.decoding.read import Read
from common.decoding.row import packed_row


def completion_logprobs(
    model: PeftModel,
    prompt: Sequence[int],
    read: Read,
    completions: Completions,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> Tensor:
    """Differentiable log-probabilities [G, T] of the tokens of one prompt's completions; 0 where masked.

    They are those of sampling with `temperature` and `top_p`. What was read keeps its keys and values; its activations
    last for one backward pass.
    """
    mask, length = completions.mask.bool(), len(prompt)
    row = packed_row(prompt, completions.tokens, mask)
    base = cast(PreTrainedModel, model.get_base_model())
    behind = model(
        input_ids=row.tokens[None, length:],
        position_ids=row.positions[None, length:],
        attention_mask=by_layer(base, lambda window: dense(base, row.visible(window)[None, None, length:])),
        past_key_values=_copied(read.cache),
        use_cache=True,
    ).logits[0]
    logits = torch.cat([read.logits, behind])[row.sources - (length - 1)]
    logprobs = chosen_logprobs(logits, row.targets, temperature, top_p)
    return torch.zeros(mask.shape, dtype=logprobs.dtype, device=mask.device).masked_scatter(mask, logprobs)


def _copied(cache: DynamicCache) -> DynamicCache:
    """Return a cache that grows by itself, of the same keys and values."""
    layers: list[Any] = cache.layers
    return DynamicCache([(layer.keys, layer.values) for layer in layers])
