"""Choices from the codebook alone, so that no other patient's record can change a question."""

from __future__ import annotations

from math import comb

from common.codebook import JOINED, Feature
from common.stream import Stream

MOST_CHOICES = 5

MOST_WORDS = 2
"""Words offered beside the numbers of a numeric feature whose cells may hold words, whatever the truth is."""


def codebook_choices(feature: Feature, truth: str, stream: Stream) -> list[str]:
    """Return 2 to 5 distinct choices in random order, the truth once among them; fewer than 2 means: cannot be asked.

    A categorical feature offers its other categories, drawn without preference; where a cell may list several, other
    sets of as many. A numeric one offers a ladder of values `step` apart with the truth at a random rung, moved up or
    down where a rung would leave the bounds. Where a cell may hold a word, words are offered too, as many for a number
    as for a word, whose ladder stands anywhere within the bounds.
    """
    if feature.kind == "text":
        return []
    if feature.kind == "categorical":
        choices = _sets(feature, truth, stream) if feature.separator else _categories(feature, truth, stream)
    elif feature.words:
        choices = _words_and_numbers(feature, truth, stream)
    else:
        choices = _ladder(feature, truth, MOST_CHOICES, stream)
    return stream.shuffled(choices)


def _categories(feature: Feature, truth: str, stream: Stream) -> list[str]:
    texts = sorted(set(feature.categories.values()))
    if truth not in texts:
        return []
    others = stream.shuffled([text for text in texts if text != truth])
    return [truth, *others[: MOST_CHOICES - 1]]


def _sets(feature: Feature, truth: str, stream: Stream) -> list[str]:
    texts = list(dict.fromkeys(feature.categories.values()))
    listed = truth.split(JOINED)
    if not set(listed) <= set(texts):
        return []
    sets = {truth: None}
    while len(sets) < min(MOST_CHOICES, comb(len(texts), len(listed))):
        drawn = set(stream.shuffled(texts)[: len(listed)])
        sets[JOINED.join(text for text in texts if text in drawn)] = None
    return list(sets)


def _words_and_numbers(feature: Feature, truth: str, stream: Stream) -> list[str]:
    texts = list(dict.fromkeys(feature.words.values()))
    words = [word for word in stream.shuffled(texts) if word != truth][: MOST_WORDS - (truth in texts)]
    rungs = MOST_CHOICES - min(MOST_WORDS, len(texts))
    if truth not in texts:
        return [*words, *_ladder(feature, truth, rungs, stream)]
    assert feature.low is not None and feature.high is not None
    places = round((feature.high - feature.low) * 10**feature.decimals) + 1
    place = feature.number(feature.low + stream.below(places) / 10**feature.decimals)
    return [truth, *words, *_ladder(feature, place, rungs, stream)]


def _ladder(feature: Feature, number: str, most: int, stream: Stream) -> list[str]:
    """Return at most so many numbers, one step apart within the bounds, with the given one at a random rung."""
    assert feature.low is not None and feature.high is not None and feature.step is not None
    value, slack = float(number), 1e-9 * feature.step
    below = int(min(most - 1, (value - feature.low + slack) // feature.step))
    above = int(min(most - 1, (feature.high - value + slack) // feature.step))
    count = min(most, below + above + 1)
    lowest = max(0, count - 1 - above)
    rung = lowest + stream.below(min(below, count - 1) - lowest + 1)
    return [number if i == rung else feature.number(value + (i - rung) * feature.step) for i in range(count)]
