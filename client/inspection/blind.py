"""How often a numeric feature's questions are answered by rules that never read the record.

Always the k-th choice by size, always the one nearest to a fixed value, always a word or always a number, always the
roundest number, the least round or an even one. What such a rule gets above chance, training would learn in place of
medicine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.feature import Feature, number_of
from common.questions.censored import limits_of
from common.questions.choices import MOST_CHOICES, codebook_choices
from common.questions.ladder import Scale
from common.stream import Stream

_NTH = ("", "second ", "third ", "fourth ", "fifth ")
_VALUES = 60
"""Fixed values tried, quantiles of what is true."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Asked:
    """A question as such a rule sees it: its choices in any order, and the true one."""

    choices: Sequence[str]
    truth: str


def ask(feature: Feature, truths: Sequence[str], least: int) -> list[Asked]:
    """Ask a feature of these values, or of so many of them, as often as it takes to ask about `least` questions."""
    values = Stream.named("blind", feature.name).shuffled(truths)[:least]
    asked = []
    for again in range(math.ceil(least / max(1, len(values)))):
        for place, truth in enumerate(values):
            offered = codebook_choices(feature, truth, Stream.named("blind", feature.name, again, place))
            if len(offered) > 1:
                asked.append(Asked(offered, truth))
    return asked


@dataclass(frozen=True)
class Blind:
    """Accuracy of the best rule of each kind, beside chance; `found` says what the best of all does."""

    questions: int
    chance: float
    rank: float
    value: float
    word: float
    digits: float
    found: str

    @property
    def best(self) -> float:
        """Accuracy of the best rule."""
        return max(self.rank, self.value, self.word, self.digits)

    @property
    def over_chance(self) -> float:
        """What the best rule gets above chance."""
        return self.best - self.chance


def blind_rules(feature: Feature, asked: Iterable[Asked]) -> Blind | None:
    """Answer the questions of a numeric feature by every rule; None where there are none.

    A rule that several choices suit picks any of them.
    """
    questions = [sorted_by_size(feature, question) for question in asked]
    if not questions:
        return None
    places = np.full((len(questions), MOST_CHOICES), np.nan)
    words = np.zeros(places.shape, dtype=bool)
    zeros, halves = np.full(places.shape, -1), np.full(places.shape, -1)
    for row, (choices, _) in enumerate(questions):
        for column, (place, text) in enumerate(choices):
            places[row, column] = place
            words[row, column] = number_of(text) is None
            if not words[row, column]:
                zeros[row, column], halves[row, column] = roundness(text), evenness(text)
    offered = ~np.isnan(places)
    right = np.array([truth for _, truth in questions])
    chance = float(np.mean(1 / offered.sum(axis=1)))
    last = offered.sum(axis=1) - 1
    ranks = {f"the {nth}smallest choice": np.minimum(rank, last) for rank, nth in enumerate(_NTH)}
    ranks |= {f"the {nth}largest choice": np.maximum(last - rank, 0) for rank, nth in enumerate(_NTH)}
    by_rank = {name: float(np.mean(rank == right)) for name, rank in ranks.items()}
    truths = places[np.arange(len(right)), right]
    truths = truths[np.isfinite(truths)]
    by_value = {
        "the choice nearest to one value": max(
            _nearest(places, right, place)
            for place in np.unique(np.quantile(truths, np.linspace(0, 1, _VALUES), method="nearest"))
        )
    }
    by_word = (
        {
            "always a word": _any_of(words, offered, right),
            "always a number": _any_of(offered & ~words, offered, right),
        }
        if words.any()
        else {"": 0.0}
    )
    least = np.where(offered & ~words, zeros, zeros.max() + 1).min(axis=1)
    by_digits = {
        "the roundest number": _any_of((zeros == zeros.max(axis=1, keepdims=True)) & offered & ~words, offered, right),
        "the least round number": _any_of((zeros == least[:, None]) & offered & ~words, offered, right),
        "the even number": _any_of((halves == halves.max(axis=1, keepdims=True)) & offered & ~words, offered, right),
    }
    rules = by_rank | by_value | by_word | by_digits
    return Blind(
        questions=len(questions),
        chance=chance,
        rank=max(by_rank.values()),
        value=max(by_value.values()),
        word=max(by_word.values()),
        digits=max(by_digits.values()),
        found=max(rules, key=lambda name: rules[name]),
    )


def sorted_by_size(feature: Feature, question: Asked) -> tuple[list[tuple[float, str]], int]:
    """Return places and texts, the smallest first, a word beyond the limit that it states; and the true one's index."""
    scale, limits = Scale.of(feature), limits_of(feature)

    def place(text: str) -> float:
        number = number_of(text)
        if number is not None:
            return scale.place(number)
        limit = limits.get(text)
        if limit is None:
            return float("inf")
        return scale.place(limit.value) + (-0.5 if limit.low else 0.5)

    choices = sorted((place(text), text) for text in question.choices)
    return choices, [text for _, text in choices].index(question.truth)


def roundness(text: str) -> int:
    """Zeros at the end of a number's digits, twice; one more where a 5 stands before them."""
    digits = text.lstrip("+-").replace(".", "")
    short = digits.rstrip("0")
    return 2 * (len(digits) - len(short)) + short.endswith("5")


def evenness(text: str) -> int:
    """How often a number's digits, as they are shown, can be halved; twice at most."""
    digits = int(text.lstrip("+-").replace(".", ""))
    return (digits % 2 == 0) + (digits % 4 == 0)


def _nearest(places: Matrix, right: NDArray[np.int64], place: float) -> float:
    distance = np.where(np.isnan(places), np.inf, np.abs(places - place))
    nearest = distance <= distance.min(axis=1)[:, None] + 1e-9
    return _any_of(nearest, ~np.isnan(places), right)


def _any_of(suited: NDArray[np.bool_], offered: NDArray[np.bool_], right: NDArray[np.int64]) -> float:
    """Accuracy of picking any of the suited choices of each question, or any at all where none is."""
    pool = np.where(suited.any(axis=1, keepdims=True), suited, offered).astype(np.float64)
    chances: Matrix = pool / pool.sum(axis=1, keepdims=True)
    return float(np.mean(chances[np.arange(len(right)), right]))
