"""Log-probabilities with gradient from one row: the prompt once, then its completions, each blind to the others.

For long prompts: activations are made again in the backward pass, and memory grows with one question. Shorter ones are
faster by a forked cache (`client.grpo.forked`), which allows no recomputation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import cast

import torch
from peft import PeftModel
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from client.grpo.attention import Attending, Attention, attention_for, seen
from client.grpo.groups import USED
from common.decoding.generate import Completions, chosen_logprobs
from common.decoding.row import PackedRow, packed_row

HEAD_CHUNK = 1024
"""Positions that go through the LM head at a time."""
_AT_WORK = 3
"""Layers' worth of memory for the one that is at work."""
_LOGIT = 20
"""Bytes of one logit while the log-probabilities are taken and differentiated."""


def completion_logprobs(
    model: PeftModel,
    prompts: Sequence[Sequence[int]],
    completions: Completions,
    *,
    group_size: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    attention: Attention | None = None,
) -> Tensor:
    """Differentiable log-probabilities [P*G, T] of the completions' tokens; 0 where masked.

    They are those of sampling with `temperature` and `top_p`. The rows attend by `attention`, as is usual for the model
    and its device where None.
    """
    mask = completions.mask.bool()
    rows = [
        packed_row(prompt, tokens, kept)
        for prompt, tokens, kept in zip(
            prompts, completions.tokens.split(group_size), mask.split(group_size), strict=True
        )
    ]
    attention = attention or attention_for(cast(PreTrainedModel, model.get_base_model()))
    logprobs = torch.cat([_target_logprobs(model, row, temperature, top_p, attention) for row in rows])
    return torch.zeros(mask.shape, dtype=logprobs.dtype, device=mask.device).masked_scatter(mask, logprobs)


def _target_logprobs(
    model: PeftModel, row: PackedRow, temperature: float, top_p: float, attention: Attention
) -> Tensor:
    """Log-probabilities [N] of the row's targets; the LM head sees their sources alone, some at a time."""
    base = cast(PreTrainedModel, model.get_base_model())
    again = _again(base, len(row.tokens), attention)
    with Attending(base, attention), _recomputed(base, attention, again):
        hidden = base.get_decoder()(
            input_ids=row.tokens[None],
            position_ids=row.positions[None],
            use_cache=False,
            **seen(base, row, attention),
        ).last_hidden_state[0, row.sources]
    cap = getattr(base.config, "final_logit_softcapping", None)
    head = base.get_output_embeddings()

    def chosen(states: Tensor, tokens: Tensor) -> Tensor:
        logits = head(states)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        logits = logits if cap is None else cap * torch.tanh(logits / cap)
        return chosen_logprobs(logits, tokens, temperature, top_p)

    parts = zip(hidden.split(HEAD_CHUNK), row.targets.split(HEAD_CHUNK), strict=True)
    return torch.cat([checkpoint(chosen, states, tokens, use_reentrant=False) for states, tokens in parts])


@contextmanager
def _recomputed(base: PreTrainedModel, attention: Attention, again: int) -> Iterator[None]:
    """Have the first layers forget their activations and make them again; no dropout is switched on by it.

    They are made again in the backward pass, after this context: each layer has then to attend as it did.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), Attending(base, attention)

    layers = _layers(base)
    before = [layer.training for layer in layers]
    enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
    disable = getattr(base, "activation_checkpointing_disable", None) or base.gradient_checkpointing_disable
    enable({"use_reentrant": False, "context_fn": contexts})
    for layer in layers[:again]:
        layer.training = True
    try:
        yield
    finally:
        for layer, training in zip(layers, before, strict=True):
            layer.training = training
        disable()


def _layers(base: PreTrainedModel) -> list[GradientCheckpointingLayer]:
    return [module for module in base.modules() if isinstance(module, GradientCheckpointingLayer)]


def _again(base: PreTrainedModel, tokens: int, attention: Attention) -> int:
    """Return how many layers' activations are made again: as many as the device does not hold for a row in parts.

    Made again or kept, they have the same bits.
    """
    layers = len(_layers(base))
    if attention != "parts" or base.device.type != "cuda":
        return layers
    free = torch.cuda.mem_get_info(base.device)[0] + torch.cuda.memory_reserved(base.device)
    layer = tokens * kept_bytes(base.config, base.dtype.itemsize)
    room = USED * (free - torch.cuda.memory_allocated(base.device)) - _AT_WORK * layer - _logits(base, tokens)
    return layers - min(layers, max(0, int(room / layer)))


def kept_bytes(config: PreTrainedConfig, size: int) -> int:
    """Bytes that one lean layer keeps of a token for its way back, `size` bytes each, the adapter's few left out.

    Two norms' inputs, queries, keys, values and what attention gives of them, and of the inner layer its two halves and
    what the activation makes of one.
    """
    text = config.get_text_config()
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    heads, keys = text.num_attention_heads, getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    return int(size * (2 * text.hidden_size + 2 * width * (heads + keys) + 3 * text.intermediate_size))


def _logits(base: PreTrainedModel, tokens: int) -> int:
    return min(HEAD_CHUNK, tokens) * int(base.config.get_text_config().vocab_size) * _LOGIT
