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
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from client.grpo.attention import BLOCK, Attending, Attention, attention_for, masks
from client.grpo.row import PackedRow, packed_row
from common.decoding.generate import Completions, chosen_logprobs

HEAD_CHUNK = 1024
"""Positions that go through the LM head at a time."""


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
    if attention == "flex":
        row = row.padded(BLOCK)
    with Attending(base, attention), _recomputed(base, attention):
        hidden = base.get_decoder()(
            input_ids=row.tokens[None],
            position_ids=row.positions[None],
            attention_mask=masks(base, row, attention),
            use_cache=False,
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
def _recomputed(base: PreTrainedModel, attention: Attention) -> Iterator[None]:
    """Have the layers forget their activations and make them again; no dropout is switched on by it.

    They are made again in the backward pass, after this context: each layer has then to attend as it did.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), Attending(base, attention)

    layers = [module for module in base.modules() if isinstance(module, GradientCheckpointingLayer)]
    before = [layer.training for layer in layers]
    enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
    disable = getattr(base, "activation_checkpointing_disable", None) or base.gradient_checkpointing_disable
    enable({"use_reentrant": False, "context_fn": contexts})
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer, training in zip(layers, before, strict=True):
            layer.training = training
        disable()
