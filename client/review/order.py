"""In which order a rater meets the cases, and which answer stands on the left: drawn for each rater, and balanced.

Of every two cases that follow each other, one has the first model on the left and one the second: wherever a rater
ends, the sides differ by one case at most. The draw is keyed by a secret of the review: whoever knows this code learns
nothing from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from client.review.scale import SIDES, Side, other
from common.stream import Stream


@dataclass(frozen=True)
class Turn:
    """A case as one rater meets it."""

    case: int
    left: Side

    @property
    def right(self) -> Side:
        """The model whose answer stands on the right."""
        return other(self.left)


def turns(secret: str, rater: str, cases: Sequence[int]) -> list[Turn]:
    """Return the cases in a rater's own order; the same whenever it is asked for."""
    stream = Stream.named("review", secret, rater)
    order, found = stream.shuffled(cases), []
    for place in range(0, len(order), 2):
        left = SIDES[stream.below(2)]
        sides = (left, other(left))
        found += [Turn(case, side) for case, side in zip(order[place : place + 2], sides, strict=False)]
    return found
