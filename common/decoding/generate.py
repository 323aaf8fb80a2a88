"""Sampling with a shared prompt: each prompt is read once, its cache is forked into the group, finished rows leave.

What a row becomes depends on its own prompt and its own uniform numbers, given the shape of the batch at each step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.decoding.cache import forked
from common.decoding.ends import Ends, ended

_SORTED_ROWS = 128
"""Rows of logits whose tokens are sorted at a time."""
_ONE = 2**52
"""What a probability of 1 weighs when a token is drawn: such weights are added exactly."""
_LIVE_SHARE = 0.5
"""Finished rows leave the batch when no more than this share is still written: moving the others has its cost."""


@dataclass(frozen=True)
class Completions:
    """Sampled completions of P prompts x G, prompt by prompt.

    Attributes
    ----------
    tokens
        [P*G, T] int64; the pad token after the end.
    mask
        [P*G, T] int64; 1 up to and including the end token.
    logprobs
        [P*G, T] float32 log-probabilities of the tokens under the sampling distribution; 0 where masked.
    """

    tokens: Tensor
    mask: Tensor
    logprobs: Tensor


def left_pad(sequences: Sequence[Sequence[int]], pad: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Token ids [B, L] padded on the left, and their mask."""
    longest = max(map(len, sequences))
    ids = torch.full((len(sequences), longest), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, longest - len(sequence) :] = torch.tensor(sequence, dtype=torch.long)
        mask[row, longest - len(sequence) :] = 1
    return ids.to(device), mask.to(device)


def positions(mask: Tensor) -> Tensor:
    """Position of each token, counted over the unmasked ones."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def sample_token(
    logits: Tensor, uniforms: Tensor | None, temperature: float, top_p: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Token [B] by inverse CDF of softmax(logits / temperature), the likeliest without `uniforms`, and its log-prob.

    With `top_p` only the likeliest tokens that together reach it are drawn, and log-probs are those among them.
    Logits that are no numbers give some token, never an error: whether one comes up may depend on a record.
    """
    logprobs = torch.log_softmax(logits.float() / temperature, -1)
    if uniforms is None:
        tokens = logprobs.argmax(-1)
    elif top_p < 1:
        weights, order, count = _likeliest(logprobs, top_p)
        weights = weights * (torch.arange(logits.size(-1), device=logits.device) < count)
        drawn = torch.minimum(_drawn(weights, uniforms)[:, None], count - 1)
        tokens = order.gather(-1, drawn)[:, 0]
        logprobs = logprobs - (weights.sum(-1, keepdim=True).double() / _ONE).log().to(logprobs)
    else:
        tokens = _drawn(_weights(logprobs), uniforms)
    return tokens, logprobs.gather(-1, tokens[:, None])[:, 0]


def chosen_logprobs(logits: Tensor, tokens: Tensor, temperature: float, top_p: float = 1.0) -> Tensor:
    """Differentiable log-probabilities [...] of tokens [...] by logits [..., V], under what `sample_token` draws from.

    The gradient is then that of the policy that was sampled, also for `top_p` below 1 (DeepSeek-V3.2's "keep sampling
    mask", arXiv 2512.02556). A token that was drawn counts among the likeliest, should it lie outside by a rounding.
    """
    scaled = (logits if logits.dtype == torch.float64 else logits.float()) / temperature
    if top_p < 1:
        scaled = scaled.masked_fill(~_may_be_drawn(scaled.detach(), tokens, top_p), -torch.inf)
    return torch.log_softmax(scaled, -1).gather(-1, tokens[..., None])[..., 0]


def _may_be_drawn(scaled: Tensor, tokens: Tensor, top_p: float) -> Tensor:
    """Which of the vocabulary [..., V] is among the likeliest, or was drawn; some rows at a time, to save memory."""
    places, kept = torch.arange(scaled.size(-1), device=scaled.device), torch.empty_like(scaled, dtype=torch.bool)
    rows = zip(
        kept.flatten(0, -2).split(_SORTED_ROWS),
        scaled.flatten(0, -2).split(_SORTED_ROWS),
        tokens.flatten().split(_SORTED_ROWS),
        strict=True,
    )
    for into, some, drawn in rows:
        logprobs = torch.log_softmax(some, -1)
        _, order, count = _likeliest(logprobs, top_p)
        last = order.gather(-1, count - 1)
        least = logprobs.gather(-1, last)
        into.copy_((logprobs > least) | ((logprobs == least) & (places <= last)) | (places == drawn[:, None]))
    return kept


def _likeliest(logprobs: Tensor, top_p: float) -> tuple[Tensor, Tensor, Tensor]:
    """Weights [B, V] from the largest on, their places, and how many [B, 1] it takes to reach `top_p`.

    Of equal ones the first comes first.
    """
    ordered, order = logprobs.sort(stable=True, dim=-1, descending=True)
    weights = _weights(ordered)
    count = (weights.cumsum(-1) - weights < round(top_p * _ONE)).sum(-1, keepdim=True)
    return weights, order, count.clamp(min=1)


def _weights(logprobs: Tensor) -> Tensor:
    """Probabilities as integers, whose sums have no order and are exact on every device."""
    return (logprobs.double().exp() * _ONE).long()


def _drawn(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Place [B] drawn in proportion to the integer weights [B, V]."""
    cdf = weights.cumsum(-1)
    total = cdf[:, -1:]
    aim = (uniforms[:, None] * total).long().minimum(total - 1)
    places = torch.searchsorted(cdf, aim, right=True)[:, 0]
    return places.clamp(max=weights.size(-1) - 1)


@torch.no_grad()
def generate(
    model: torch.nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    group_size: int,
    max_tokens: int,
    ends: Ends,
    pad: int,
    uniforms: Tensor | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> Completions:
    """Sample `group_size` completions for each prompt, or take the likeliest token where `uniforms` is None.

    Parameters
    ----------
    prompts
        P token lists.
    uniforms
        [P * group_size, max_tokens] float64 in [0, 1): the randomness of each token.
    """
    device = next(model.parameters()).device
    ids, mask = left_pad(prompts, pad, device)
    out = model(input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=True, logits_to_keep=1)
    cache, logits = out.past_key_values, out.logits[:, -1]
    del out
    cache = forked(cache, group_size, max_tokens)
    if group_size > 1:
        logits, mask = logits.repeat_interleave(group_size, 0), mask.repeat_interleave(group_size, 0)
    position = mask.sum(-1, keepdim=True)
    shape = (len(prompts) * group_size, max_tokens)
    tokens = torch.full(shape, pad, dtype=torch.long, device=device)
    keep = torch.zeros(shape, dtype=torch.long, device=device)
    logprobs = torch.zeros(shape, device=device)
    if uniforms is not None:
        uniforms = uniforms.to(device)
    rows = torch.arange(shape[0], device=device)
    done = torch.zeros(shape[0], dtype=torch.bool, device=device)
    for step in range(max_tokens):
        token, logprob = sample_token(logits, None if uniforms is None else uniforms[rows, step], temperature, top_p)
        tokens[rows, step] = torch.where(done, pad, token)
        logprobs[rows, step] = torch.where(done, 0.0, logprob)
        keep[rows, step] = (~done).long()
        done = done | ended(token, ends)
        live = int((~done).sum())
        if step + 1 == max_tokens or live == 0:
            break
        if live <= len(rows) * _LIVE_SHARE:
            going = (~done).nonzero()[:, 0]
            cache.batch_select_indices(going)
            rows, done, mask, position = rows[going], done[going], mask[going], position[going]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], 1)
        out = model(
            input_ids=tokens[rows, step : step + 1],
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
        )
        logits, position = out.logits[:, -1], position + 1
    return Completions(tokens, keep, logprobs)
