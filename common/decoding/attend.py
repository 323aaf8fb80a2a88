"""Attention of groups that share a prompt: its keys are kept once a group, each row keeps only its own words.

The keys and values of a layer lie in one flat buffer of D prefixes and D*G suffixes:

    prefix of group d, key head h:           P places      (D * H of them)
    suffix of group d, head h, row g:        T places      (D * H * G of them)

A step's queries of a group (G rows x n query heads to a key head) attend to a prefix together, on a GPU in pieces, and
each row to its own suffix. Every part gives an output and the logarithm of its summed weights; a softmax over those
logarithms puts the parts together exactly (Hydragen, arXiv 2402.05099). No sum runs over two groups.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad as padded
from transformers import AttentionInterface

NAME = "shared_prompt"
"""What transformers knows the attention by."""
PIECE = 512
"""Places of a prefix that one block of threads reads: D * H prefixes alone are too few to fill a GPU."""
_ROWS = 4
"""Rows are a multiple of this: a float32 product on several CPU threads adds the last rows of others differently."""
_PROMPT_STEP, _COMPLETION_STEP = 64, 16
"""Places are multiples of these, so that every group's stand alike in memory."""
_flash = torch.ops.aten._flash_attention_forward
"""Private; the public `torch.nn.attention.varlen.varlen_attn` calls it with the same arguments from torch 2.13 on."""


@dataclass(frozen=True)
class Shape:
    """All that the bits of a completion depend on beside its own prompt and its own numbers.

    Parameters
    ----------
    groups, size
        Groups decoded together, and rows of a group.
    prompt, completion
        Most tokens of either.
    piece
        Places of a prompt that are attended to at once on a GPU.
    """

    groups: int
    size: int
    prompt: int
    completion: int
    piece: int = PIECE

    @property
    def rows(self) -> int:
        """Rows of a step; the last ones, up to three, are nobody's."""
        return _up(self.groups * self.size, _ROWS)

    @property
    def prompt_places(self) -> int:
        """Places of a group's prompt."""
        return _up(self.prompt, _PROMPT_STEP)

    @property
    def completion_places(self) -> int:
        """Places of a row's completion."""
        return _up(self.completion, _COMPLETION_STEP)

    @property
    def places(self) -> int:
        """Places of all groups, for each layer and key head."""
        return self.groups * (self.prompt_places + self.size * self.completion_places)


def _up(number: int, step: int) -> int:
    return -(-number // step) * step


class Places:
    """Where everything lies in the flat buffers of one shape, and how much of it is seen at a step.

    Recorded, a step sees all places, under masks or counts that lie on the device. On a CPU it goes from group to group
    and sees just the places that the group has.
    """

    def __init__(
        self, shape: Shape, heads: int, windows: Collection[int | None], device: torch.device, *, recorded: bool
    ) -> None:
        self.shape, self.heads, self.recorded = shape, heads, recorded
        prefixes, suffixes = shape.groups * heads, shape.groups * heads * shape.size
        self.cut = prefixes * shape.prompt_places
        self.total = self.cut + suffixes * shape.completion_places
        self._end = torch.tensor([self.total], device=device)
        # A row's own places, head by head: where a step's keys go.
        order = torch.arange(suffixes, device=device).view(shape.groups, heads, shape.size).transpose(1, 2)
        self._home = self.cut + order * shape.completion_places
        self.lengths = torch.zeros(shape.groups, dtype=torch.long, device=device)
        self.spoken = torch.zeros(shape.groups, dtype=torch.long, device=device)
        """Tokens of each group's prompt [D], and the place of the word [D] that its rows read next."""
        self.target = self._home.flatten().clone()
        # FlashAttention's sequences: first the pieces of every prefix, piece by piece, then the suffixes.
        self._first = torch.arange(0, shape.prompt_places, shape.piece, device=device)
        self._prefixes = torch.arange(prefixes, device=device).view(shape.groups, heads) * shape.prompt_places
        numbers = torch.arange(suffixes, device=device).view(shape.groups, -1)
        self._suffixes = self.cut + numbers * shape.completion_places
        self.seen = {window: Seen() for window in windows}
        self._query_ends: dict[int, Tensor] = {}

    def take(self, group: int, length: int) -> None:
        """Let a group begin after a prompt of so many tokens."""
        self.lengths[group] = length
        self.spoken[group] = 0

    def leave(self, group: int) -> None:
        """Leave a group to nobody."""
        self.lengths[group] = 0

    def begin_step(self) -> None:
        """Say where this step's keys go, and what each group sees once they are there."""
        self.target.copy_((self._home + self.spoken[:, None, None]).flatten())
        end = self.spoken + 1
        for window, seen in self.seen.items():
            # The first place that is seen of a prompt and of its completions; `end` is the one behind the last.
            reach = self.shape.prompt_places + self.shape.completion_places if window is None else window
            held, said = (self.lengths + end - reach).clamp(min=0), (end - reach).clamp(min=0)
            if not self.recorded:
                held = held.minimum(self.lengths)
                seen.ranges = list(zip(*(each.tolist() for each in (held, self.lengths, said, end)), strict=True))
                continue
            seen.held = _between(self.shape.prompt_places, held, self.lengths)
            seen.said = _between(self.shape.completion_places, said, end)
            seen.starts, seen.used = self._sequences(held, said, end)

    def _sequences(self, held: Tensor, said: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """Where FlashAttention's sequences of keys start [S+1], and how many count of each [S]."""
        first, piece = self._first[:, None], self.shape.piece
        start, stop = (held - first).clamp(0, piece), (self.lengths - first).clamp(0, piece)
        prefix = self._prefixes + (first + start)[..., None]
        suffix = self._suffixes + said[:, None]
        counts = (stop - start).clamp(min=0)[..., None].expand_as(prefix), (end - said)[:, None].expand_as(suffix)
        starts = torch.cat([prefix.flatten(), suffix.flatten(), self._end])
        return starts.int(), torch.cat([count.flatten() for count in counts]).int()

    def query_ends(self, heads: int) -> Tensor:
        """Where FlashAttention's sequences of queries end: n*G queries to a piece of a prefix, n to a suffix."""
        if heads not in self._query_ends:
            each = heads // self.heads
            pieces, suffixes = len(self._first) * self._prefixes.numel(), self._suffixes.numel()
            counts = torch.tensor([0] + [each * self.shape.size] * pieces + [each] * suffixes)
            self._query_ends[heads] = counts.cumsum(0).int().to(self.target.device)
        return self._query_ends[heads]


class Seen:
    """What a step sees in layers of one window: ranges on a CPU, else masks [D, P], [D, T] and sequences of keys."""

    ranges: list[tuple[int, int, int, int]]
    held: Tensor
    said: Tensor
    starts: Tensor
    used: Tensor


def _between(places: int, start: Tensor, end: Tensor) -> Tensor:
    """Which of so many places lie from a start [D] to before an end [D]: [D, places]."""
    numbers = torch.arange(places, device=start.device)
    return (numbers >= start[:, None]) & (numbers < end[:, None])


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    scaling: float,
    shared: Places,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers' layers ask for it: queries [R, H*n, 1, d]; keys and values are the flat buffers."""
    shape, (rows, heads, _one, width) = shared.shape, query.shape
    taken, seen = shape.groups * shape.size, shared.seen[sliding_window]
    own = query[:taken].reshape(shape.groups, shape.size, shared.heads, heads // shared.heads, width)
    own = own.transpose(1, 2).contiguous()
    if takes_flash(query, softcap):
        result = merged(*by_flash(own, key, value, scaling, shared, seen)).to(query.dtype).view(own.shape)
    else:
        result = by_products(own, key, value, scaling, softcap, shared, seen)
    result = result.transpose(1, 2).reshape(taken, 1, heads, width)
    return padded(result, (0, 0, 0, 0, 0, 0, 0, rows - taken)), None


def merged(outputs: Tensor, weights: Tensor) -> Tensor:
    """Put parts [C, ..., d] together by the logarithms [C, ...] of their summed weights.

    The softmax is over the last dimension: over the first, a CPU computes the last columns of many by another formula.
    """
    shares = torch.softmax(weights.movedim(0, -1), -1).movedim(-1, 0)
    return (shares[..., None] * outputs).sum(0)


def takes_flash(query: Tensor, softcap: float | None) -> bool:
    """Whether torch's FlashAttention takes such queries: it caps no scores."""
    return softcap is None and flash_takes(query.device, query.dtype, query.size(-1))


def flash_takes(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether torch's FlashAttention takes heads of such a width there: in half precision, on a recent GPU."""
    fits = width % 8 == 0 and width <= 256 and dtype in (torch.bfloat16, torch.float16)
    return fits and device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def by_products(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, softcap: float | None, shared: Places, seen: Seen
) -> Tensor:
    """Attend by batched products [D, H, G, n, d]: any device, any dtype; a group of nobody's may be left at zero."""
    shape, width = shared.shape, query.size(-1)
    prefixes, suffixes = (
        [held[part].view(shape.groups, shared.heads, *middle, width) for held in (key, value)]
        for part, middle in (
            (slice(0, shared.cut), (shape.prompt_places,)),
            (slice(shared.cut, None), (shape.size, shape.completion_places)),
        )
    )

    def attended(
        own: Tensor, held: list[Tensor], said: list[Tensor], masks: tuple[Tensor | None, Tensor | None]
    ) -> Tensor:
        together = _part(own.flatten(-3, -2), held[0], held[1], masks[0], scaling=scaling, softcap=softcap)
        alone = _part(own, said[0], said[1], masks[1], scaling=scaling, softcap=softcap)
        pairs = zip(together, alone, strict=True)
        outputs, weights = (torch.stack([one.view_as(other), other]) for one, other in pairs)
        return merged(outputs, weights).to(query.dtype)

    if shared.recorded:
        masks = seen.held[:, None, None], seen.said[:, None, None, None]
        return attended(query, prefixes, suffixes, masks)
    result = torch.zeros_like(query)
    for group, (start, length, first, last) in enumerate(seen.ranges):
        if length:
            held = [each[group, :, start:length] for each in prefixes]
            said = [each[group, :, :, first:last] for each in suffixes]
            result[group] = attended(query[group], held, said, (None, None))
    return result


def _part(
    query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None, *, scaling: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Return what queries [..., Q, d] get of keys [..., S, d], and the logarithms [..., Q] of their summed weights."""
    scores = query @ key.mT
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if visible is not None:
        scores = scores.masked_fill(~visible, -torch.inf)
    total = scores.logsumexp(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)
    return (scores - total).exp().to(value.dtype) @ value, total[..., 0]


def by_flash(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, shared: Places, seen: Seen
) -> tuple[Tensor, Tensor]:
    """All pieces and the suffix [C+1, N, d] and their weights' logarithms [C+1, N], in one call of FlashAttention.

    Every piece and every suffix is a sequence of one head, whose keys start anywhere and count as `used` says.
    """
    shape, (heads, each, width) = shared.shape, (query.size(1), query.size(3), query.size(-1))
    parts = -(-shape.prompt_places // shape.piece) + 1
    outputs, weights = _flash(
        query.view(-1, 1, width).repeat(parts, 1, 1),
        key[:, None],
        value[:, None],
        shared.query_ends(heads * each),
        seen.starts,
        shape.size * each,
        max(shape.piece, shape.completion_places),
        0.0,
        False,
        False,
        scale=scaling,
        seqused_k=seen.used,
    )[:2]
    weights = weights.view(parts, -1)
    # Where it saw no key it says +inf.
    return outputs.view(parts, -1, width), weights.nan_to_num(torch.nan, -torch.inf, -torch.inf)


AttentionInterface.register(NAME, attend)
