"""Choices from the codebook alone, so that no other patient's record can change a question."""

from __future__ import annotations

from math import comb

from common.feature import JOINED, Feature
from common.questions.censored import limits_of
from common.questions.ladder import Bounds, End, ladder
from common.stream import Stream

MOST_CHOICES = 5


def codebook_choices(feature: Feature, truth: str, stream: Stream) -> list[str]:
    """Return 2 to 5 distinct choices in random order, the truth once among them; fewer than 2 means: cannot be asked.

    A categorical feature offers its other categories, drawn without preference; where a cell may list several, other
    sets of as many, and none of several with a code that stands alone: such a truth is not asked. A numeric one offers
    a ladder around the truth within the bounds, whose lowest or highest rung may be a word that states a limit, such as
    "<0.5"; no number is offered that such a word stands for. A number that it stands for, and a word that states no
    limit, are not asked.
    """
    if feature.kind == "text":
        return []
    if feature.kind == "categorical":
        choices = _sets(feature, truth, stream) if feature.separator else _categories(feature, truth, stream)
    else:
        choices = _numbers(feature, truth, stream)
    return stream.shuffled(choices)


def _categories(feature: Feature, truth: str, stream: Stream) -> list[str]:
    texts = sorted(set(feature.categories.values()))
    if truth not in texts:
        return []
    others = stream.shuffled([text for text in texts if text != truth])
    return [truth, *others[: MOST_CHOICES - 1]]


def _sets(feature: Feature, truth: str, stream: Stream) -> list[str]:
    listed = truth.split(JOINED)
    texts = feature.beside if len(listed) > 1 else tuple(dict.fromkeys(feature.categories.values()))
    if not set(listed) <= set(texts):
        return []
    sets = {truth: None}
    while len(sets) < min(MOST_CHOICES, comb(len(texts), len(listed))):
        drawn = set(stream.shuffled(texts)[: len(listed)])
        sets[JOINED.join(text for text in texts if text in drawn)] = None
    return list(sets)


def _numbers(feature: Feature, truth: str, stream: Stream) -> list[str]:
    """Return a ladder; the word that may end it below or above is drawn where there are several, whatever the truth."""
    limits = limits_of(feature)
    if truth in feature.words.values() and truth not in limits:
        return []
    low, high = feature.low, feature.high
    assert low is not None and high is not None
    ends: dict[bool, End] = {}
    unit = 10.0**-feature.decimals
    for is_low in (True, False):
        words = [word for word, limit in limits.items() if limit.low == is_low]
        if not words:
            continue
        word = words[stream.below(len(words))]
        limit = limits[word]
        ends[is_low] = End(word, 10.0**-limit.decimals if limit.decimals else unit)
        if is_low:
            low = max(low, limit.value + limit.included * unit)
        else:
            high = min(high, limit.value - limit.included * unit)
    bounds = Bounds(low, high, ends.get(True), ends.get(False))
    return ladder(feature, bounds, truth, MOST_CHOICES, stream) if bounds.hold(truth) else []
