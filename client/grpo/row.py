"""A prompt and its completions in one row of tokens: the prompt once, the completions blind to one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


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
        torch.tensor(sources, dtype=torch.long, device=device),
        row[start:],
    )
