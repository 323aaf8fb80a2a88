"""Attention of a packed row, with its gradient, that never computes a place that nobody sees.

A row is a prompt and G completions behind it. It takes three plain attentions: the prompt's to itself, the completions'
to the prompt, and each completion's to itself. What a completion's token gets of the last two is put together by the
logarithms of their summed weights; with the whole's output and logarithm, each part's own backward pass gives its share
of the gradient exactly (as ring attention has it, arXiv 2310.01889). On a GPU a part is one call of FlashAttention.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from common.decoding.row import PackedRow

NAME = "packed_parts"
"""What transformers knows the attention by."""
_forward, _backward = torch.ops.aten._flash_attention_forward, torch.ops.aten._flash_attention_backward
"""Private; torch has no public one that gives the logarithm, takes rows of all lengths and has a backward pass."""


@dataclass(frozen=True)
class Part:
    """Sequences of queries and of their keys: where they lie in the row, where each ends, the longest's length."""

    queries: slice
    keys: slice
    query_ends: Tensor
    key_ends: Tensor
    most_queries: int
    most_keys: int
    causal: bool


Split = tuple[Part, Part, Part]
"""A row's prompt to itself, its completions to the prompt, each completion to itself."""


def split(row: PackedRow) -> Split:
    """Return the parts of a row. Made once, not by each layer: the device is waited for."""
    counts = row.segment.bincount().tolist()
    prompt, lengths = counts[0], counts[1:]
    before, after = slice(0, prompt), slice(prompt, None)
    whole, written, each = (
        torch.tensor(ends, dtype=torch.int32, device=row.segment.device)
        for ends in ([0, prompt], [0, sum(lengths)], [0, *accumulate(lengths)])
    )
    return (
        Part(before, before, whole, whole, prompt, prompt, causal=True),
        Part(after, before, written, whole, sum(lengths), prompt, causal=False),
        Part(after, after, each, each, max(lengths), max(lengths), causal=True),
    )


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    scaling: float,
    parts: Split,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers' layers ask for it: queries [1, H, L, d], keys and values [1, K, L, d]."""
    rows = (states[0].transpose(0, 1).contiguous() for states in (query, key, value))
    return _Attention.apply(*rows, parts, scaling)[None], None  # type: ignore[no-untyped-call]


class _Attention(torch.autograd.Function):
    """Queries [L, H, d], keys and values [L, K, d] -> [L, H, d]."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, parts: Split, scaling: float) -> Tensor:
        done = [_attended(query[p.queries], key[p.keys], value[p.keys], p, scaling) for p in parts]
        (prompt, prompt_sums, _), (far, far_sums, _), (near, near_sums, _) = done
        sums = torch.logaddexp(far_sums, near_sums)
        far_share, near_share = ((part - sums).exp().T[..., None] for part in (far_sums, near_sums))
        output = torch.cat([prompt, (far_share * far + near_share * near).to(prompt)])
        ctx.save_for_backward(query, key, value, output, prompt_sums, sums)
        ctx.parts, ctx.scaling, ctx.states = parts, scaling, [state for *_, state in done]
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, prompt_sums, sums = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        (own_query, own_key, own_value), (far_query, far_key, far_value), (near_query, near_key, near_value) = (
            _differentiated(
                gradient[p.queries], query[p.queries], key[p.keys], value[p.keys], output[p.queries], logs, p,
                state, ctx.scaling,
            )
            for p, logs, state in zip(ctx.parts, (prompt_sums, sums, sums), ctx.states, strict=True)
        )  # fmt: skip
        by_query = torch.cat([own_query, far_query + near_query])
        by_key, by_value = torch.cat([own_key + far_key, near_key]), torch.cat([own_value + far_value, near_value])
        return by_query, by_key, by_value, None, None


def _attended(query: Tensor, key: Tensor, value: Tensor, part: Part, scaling: float) -> tuple[Tensor, Tensor, Any]:
    """Return outputs [N, H, d], logarithms [H, N] of summed weights, and what the backward pass needs beside them."""
    if not query.is_cuda:
        return *_by_products(query, key, value, part, scaling), None
    output, sums, *state, _ = _forward(
        query, key, value, part.query_ends, part.key_ends, part.most_queries, part.most_keys, 0.0, part.causal,
        False, scale=scaling,
    )  # fmt: skip
    return output, sums, state


def _differentiated(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, sums: Tensor, part: Part, state: Any,
    scaling: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return a part's gradients by queries, keys and values, given the whole's output and logarithms at its queries."""
    if not query.is_cuda:
        return _by_products_backward(gradient, query, key, value, output, sums, part, scaling)
    return _backward(  # type: ignore[no-any-return]
        gradient, query, key, value, output, sums.contiguous(), part.query_ends, part.key_ends, part.most_queries,
        part.most_keys, 0.0, part.causal, *state, scale=scaling,
    )  # fmt: skip


def _by_products(query: Tensor, key: Tensor, value: Tensor, part: Part, scaling: float) -> tuple[Tensor, Tensor]:
    """Attend by products of one sequence after another: any device, any type."""
    output, sums = torch.zeros_like(query), query.new_zeros(query.size(1), len(query), dtype=_wide(query.dtype))
    for queries, keys in _sequences(part):
        scores = _scores(query[queries], key[keys], part, scaling)
        total = scores.logsumexp(-1)
        weights = (scores - total[..., None]).exp()
        output[queries] = torch.einsum("hqk,khd->qhd", weights, _repeated(value[keys], query)).to(output)
        sums[:, queries] = total
    return output, sums


def _by_products_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, sums: Tensor, part: Part,
    scaling: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    by_query, by_key, by_value = (torch.zeros_like(each) for each in (query, key, value))
    wide, heads = sums.dtype, key.size(1)
    for queries, keys in _sequences(part):
        given, asked = gradient[queries].to(wide), query[queries]
        weights = (_scores(asked, key[keys], part, scaling) - sums[:, queries, None]).exp()
        inner = torch.einsum("qhd,khd->hqk", given, _repeated(value[keys], query))
        level = (given * output[queries].to(wide)).sum(-1).T[..., None]
        by_scores = weights * (inner - level) * scaling
        by_query[queries] = torch.einsum("hqk,khd->qhd", by_scores, _repeated(key[keys], query)).to(by_query)
        for total, some in (
            (by_key, torch.einsum("hqk,qhd->khd", by_scores, asked.to(wide))),
            (by_value, torch.einsum("hqk,qhd->khd", weights, given)),
        ):
            total[keys] = some.unflatten(1, (heads, -1)).sum(2).to(total)
    return by_query, by_key, by_value


def _sequences(part: Part) -> list[tuple[slice, slice]]:
    ends = part.query_ends.tolist(), part.key_ends.tolist()
    each = [[slice(a, b) for a, b in pairwise(side)] for side in ends]
    return [(queries, keys) for queries, keys in zip(*each, strict=True) if queries.stop > queries.start]


def _scores(query: Tensor, key: Tensor, part: Part, scaling: float) -> Tensor:
    """Scores [H, Q, S] of queries [Q, H, d] and keys [S, K, d]; what comes later is not seen where it is causal."""
    scores = torch.einsum("qhd,khd->hqk", query.to(_wide(query.dtype)), _repeated(key, query)) * scaling
    if part.causal:
        hidden = torch.ones(scores.shape[1:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(hidden, -torch.inf)
    return scores


def _repeated(states: Tensor, query: Tensor) -> Tensor:
    """Keys or values [S, K, d] for each of the heads [S, H, d] that share them."""
    return states.to(_wide(query.dtype)).repeat_interleave(query.size(1) // states.size(1), 1)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


AttentionInterface.register(NAME, attend)
