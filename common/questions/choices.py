"""Choices from the codebook alone, so that no other patient's record can change a question."""

from __future__ import annotations

from common.codebook import Feature
from common.stream import Stream

MOST_CHOICES = 5


def codebook_choices(feature: Feature, truth: str, stream: Stream) -> list[str]:
    """Return 2 to 5 distinct choices in random order, the truth once among them; fewer than 2 means: cannot be asked.

    A categorical feature offers its other categories, drawn without preference. A numeric one offers a ladder of values
    `step` apart with the truth at a random rung, moved up or down where a rung would leave the bounds.
    """
    if feature.kind == "categorical":
        texts = sorted(set(feature.categories.values()))
        if truth not in texts:
            return []
        others = stream.shuffled([text for text in texts if text != truth])
        return stream.shuffled([truth, *others[: MOST_CHOICES - 1]])
    assert feature.low is not None and feature.high is not None and feature.step is not None
    value, slack = float(truth), 1e-9 * feature.step
    below = int(min(MOST_CHOICES - 1, (value - feature.low + slack) // feature.step))
    above = int(min(MOST_CHOICES - 1, (feature.high - value + slack) // feature.step))
    count = min(MOST_CHOICES, below + above + 1)
    lowest = max(0, count - 1 - above)
    rung = lowest + stream.below(min(below, count - 1) - lowest + 1)
    return stream.shuffled(
        [truth if i == rung else feature.number(value + (i - rung) * feature.step) for i in range(count)]
    )
