"""Log-probabilities with gradient from one row: the prompt once, then its completions, each blind to the others.

For long prompts: activations are made again in the backward pass, and memory grows with one question. Shorter ones are
faster by a forked cache (`client.grpo.forked`), which allows no recomputation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from peft import PeftModel
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from common.generate import Completions
from common.masks import masks

HEAD_CHUNK = 1024
"""Positions that go through the LM head at a time."""


@dataclass(frozen=True)
class PackedRow:
    """A prompt and its completions in one row of L tokens.

    Attributes
    ----------
    tokens, positions
        [L] int64; every completion continues the prompt's positions.
    segment
        [L] int64; 0 for the prompt, g for the g-th completion.
    sources
        [N] places whose output predicts a counted token.
    targets
        [N] those tokens.
    """

    tokens: Tensor
    positions: Tensor
    segment: Tensor
    sources: Tensor
    targets: Tensor

    def visible(self, window: int | None = None) -> Tensor:
        """Which place [L, L] attends to which: the prompt and its own completion, up to itself, within the window."""
        own = (self.segment[None, :] == 0) | (self.segment[None, :] == self.segment[:, None])
        distance = self.positions[:, None] - self.positions[None, :]
        seen = own & (distance >= 0)
        return seen if window is None else seen & (distance < window)


def packed_row(prompt: Sequence[int], tokens: Tensor, mask: Tensor) -> PackedRow:
    """Put a prompt and G completions [G, T], masked after their end, into one row."""
    device, start = tokens.device, len(prompt)
    lengths = mask.sum(1).tolist()
    row = torch.cat(
        [torch.tensor(prompt, dtype=torch.long, device=device), *(t[:n] for t, n in zip(tokens, lengths, strict=True))]
    )
    positions, segment, sources = [torch.arange(start)], [torch.zeros(start, dtype=torch.long)], []
    place = start
    for number, length in enumerate(lengths, start=1):
        positions.append(torch.arange(start, start + length))
        segment.append(torch.full((length,), number))
        sources += [start - 1, *range(place, place + length - 1)][:length]
        place += length
    return PackedRow(
        row,
        torch.cat(positions).to(device),
        torch.cat(segment).to(device),
        torch.tensor(sources, device=device),
        row[start:],
    )


def completion_logprobs(
    model: PeftModel,
    prompts: Sequence[Sequence[int]],
    completions: Completions,
    *,
    group_size: int,
    temperature: float = 1.0,
) -> Tensor:
    """Differentiable log-probabilities [P*G, T] of the completions' tokens; 0 where masked."""
    mask = completions.mask.bool()
    rows = [
        packed_row(prompt, tokens, kept)
        for prompt, tokens, kept in zip(
            prompts, completions.tokens.split(group_size), mask.split(group_size), strict=True
        )
    ]
    logprobs = torch.cat([_target_logprobs(model, row, temperature) for row in rows])
    return torch.zeros(mask.shape, dtype=logprobs.dtype, device=mask.device).masked_scatter(mask, logprobs)


def _target_logprobs(model: PeftModel, row: PackedRow, temperature: float) -> Tensor:
    """Log-probabilities [N] of the row's targets; the LM head sees their sources alone, some at a time."""
    base = cast(PreTrainedModel, model.get_base_model())
    with _recomputed(base):
        hidden = base.get_decoder()(
            input_ids=row.tokens[None],
            position_ids=row.positions[None],
            attention_mask=masks(base, lambda window: row.visible(window)[None, None]),
            use_cache=False,
        ).last_hidden_state[0, row.sources]
    cap = getattr(base.config, "final_logit_softcapping", None)
    head = base.get_output_embeddings()

    def chosen(states: Tensor, tokens: Tensor) -> Tensor:
        logits = head(states)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        logits = logits if cap is None else cap * torch.tanh(logits / cap)
        return torch.log_softmax(logits / temperature, -1).gather(-1, tokens[:, None])[:, 0]

    parts = zip(hidden.split(HEAD_CHUNK), row.targets.split(HEAD_CHUNK), strict=True)
    return torch.cat([checkpoint(chosen, states, tokens, use_reentrant=False) for states, tokens in parts])


@contextmanager
def _recomputed(base: PreTrainedModel) -> Iterator[None]:
    """Have the layers forget their activations and make them again; no dropout is switched on by it."""
    layers = [module for module in base.modules() if isinstance(module, GradientCheckpointingLayer)]
    before = [layer.training for layer in layers]
    enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
    disable = getattr(base, "activation_checkpointing_disable", None) or base.gradient_checkpointing_disable
    enable({"use_reentrant": False})
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer, training in zip(layers, before, strict=True):
            layer.training = training
        disable()
