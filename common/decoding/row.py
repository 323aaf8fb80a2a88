"""What begins alike in one row of tokens: the beginning once, what follows blind to one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PackedRow:
    """A prompt and its completions, or another beginning and what may follow it, in one row of L tokens.

    Attributes
    ----------
    tokens, positions
        [L] int64; whatever follows continues the beginning's positions.
    segment
        [L] int64; 0 for the beginning, g for the g-th that follows.
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
    lengths = mask.sum(1).tolist()
    return shared_row(
        prompt,
        [row[:length] for row, length in zip(tokens.tolist(), lengths, strict=True)],
        lengths,
        tokens.device,
    )


def shared_row(
    start: Sequence[int], rests: Sequence[Sequence[int]], counted: Sequence[int], device: torch.device
) -> PackedRow:
    """Put a beginning and what may follow it into one row; of each rest so many tokens, its last ones, are counted."""
    tokens, positions, segment = list(start), list(range(len(start))), [0] * len(start)
    sources, targets = list[int](), list[int]()
    for number, (rest, count) in enumerate(zip(rests, counted, strict=True), start=1):
        before = [len(start) - 1, *range(len(tokens), len(tokens) + len(rest))][: len(rest)]
        sources += before[len(rest) - count :]
        targets += rest[len(rest) - count :]
        positions += range(len(start), len(start) + len(rest))
        segment += [number] * len(rest)
        tokens += rest
    return PackedRow(
        *(
            torch.tensor(each, dtype=torch.long, device=device)
            for each in (tokens, positions, segment, sources, targets)
        )
    )
