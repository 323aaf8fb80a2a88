"""Choices as C-Reason builds them (arXiv 2505.02722), fitted on a site's own training patients.

They are not private: what a question offers depends on other patients of the site. A run with differential privacy
refuses them and takes `common.questions.choices`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from client.questions.mixture import Mixture, fitted_mixture
from common.codebook import Codebook
from common.feature import OTHER, Feature, number_of
from common.questions.censored import Limit, limits_of
from common.questions.choices import MOST_CHOICES
from common.questions.ladder import Scale
from common.questions.question import Patient
from common.stream import Stream

SPACING = 2.0
"""Distance between neighbouring numbers, in standard deviations of the component drawn."""
LEAST_DEVIATION = 0.1
"""Below it, in the feature's unit or of its logarithm, observed numbers are offered in place of a ladder."""
MOST_AS_CATEGORIES = 20
"""A feature with no more distinct numbers is treated as a categorical one."""
MOSTLY_POSITIVE = 0.95
MOSTLY_WHOLE = 0.9
"""Shares of the distinct numbers above which negative numbers are dropped and others rounded, as in C-Reason's code."""


@dataclass(frozen=True)
class Numbers:
    """The numbers of a feature as they were observed; `cells` counts each."""

    texts: tuple[str, ...]
    cells: tuple[int, ...]
    mixture: Mixture
    positive: bool
    whole: bool


@dataclass(frozen=True)
class Observed:
    """What was observed of a feature: categories or words by number of cells, and its numbers where it has many."""

    words: Mapping[str, int]
    numbers: Numbers | None

    @property
    def share_of_words(self) -> float:
        """Share of the cells that hold no number."""
        words = sum(self.words.values())
        return words / (words + (sum(self.numbers.cells) if self.numbers else 0))


@dataclass(frozen=True)
class EmpiricalChoices:
    """The builder; a `ChoiceBuilder` for `QuestionMaker`.

    The public description of the method leaves open how numbers are offered where the truth is a word. Here they are a
    ladder like any other, around an observed number. How many words are offered is drawn by the share of cells, not of
    distinct values: then, where there are words enough, k of them among 5 choices say no more than that the truth is a
    word with probability k / 5. A rung outside the codebook's bounds is dropped, since no cell could hold it, and so is
    a number or a word that could be right beside the truth, as 0.3 is beside "<0.5" and 7 beside "5 to 10". On a
    logarithmic scale mixture and ladder are those of the logarithms.
    """

    features: Mapping[str, Observed]

    @classmethod
    def fitted(cls, codebook: Codebook, patients: Iterable[Patient]) -> EmpiricalChoices:
        """Fit every feature but free text on these patients: give those of the training split alone."""
        cells: dict[str, Counter[str]] = {
            feature.name: Counter() for feature in codebook.features if feature.kind != "text"
        }
        for patient in patients:
            for record in patient.records:
                for name, text in record.values.items():
                    if name in cells and text != OTHER:
                        cells[name][text] += 1
        return cls({name: _observed(codebook.by_name[name], found) for name, found in cells.items() if found})

    def __call__(self, feature: Feature, truth: str, stream: Stream) -> list[str]:
        """Return at most 5 distinct choices in random order, the truth once among them; duplicates are dropped.

        Fewer than 2 means that it cannot be asked: nothing else was observed, or no rung is within the bounds.
        """
        observed = self.features.get(feature.name)
        if observed is None or truth == OTHER:
            return []
        limits = _stated(feature)
        others = {
            word: cells for word, cells in observed.words.items() if word != truth and not _both(word, truth, limits)
        }
        wanted = MOST_CHOICES - 1
        if observed.numbers is None:
            return stream.shuffled(_apart([truth, *_by_frequency(others, wanted, stream)], limits))
        words = min(len(others), sum(stream.uniform() < observed.share_of_words for _ in range(wanted)))
        offered = _by_frequency(others, words, stream)
        offered += _numbers(feature, observed.numbers, truth, wanted - words, stream)
        return stream.shuffled(_apart([truth, *offered], limits))


def _observed(feature: Feature, cells: Counter[str]) -> Observed:
    words = set(feature.words.values()) if feature.kind == "numeric" else set(cells)
    texts = sorted(cells.keys() - words, key=float)
    if len(texts) <= MOST_AS_CATEGORIES:
        return Observed(dict(sorted(cells.items())), None)
    counts = [cells[text] for text in texts]
    values = [float(text) for text in texts]
    scale = _scale(feature)
    numbers = Numbers(
        tuple(texts),
        tuple(counts),
        fitted_mixture([scale.place(value) for value in values], counts),
        positive=sum(value >= 0 for value in values) > MOSTLY_POSITIVE * len(values),
        whole=sum(value.is_integer() for value in values) > MOSTLY_WHOLE * len(values),
    )
    return Observed({word: cells[word] for word in sorted(cells.keys() & words)}, numbers)


def _stated(feature: Feature) -> dict[str, Limit | None]:
    """Return the words of a feature in which a number stands, with their limit; None where it is a range or a power."""
    limits = limits_of(feature)
    numbers = (word for word in feature.words.values() if any(sign.isdigit() for sign in word))
    return dict.fromkeys(numbers) | limits


def _apart(choices: Sequence[str], limits: Mapping[str, Limit | None]) -> list[str]:
    """Return the choices, the first among them, without those that could be right together with an earlier one."""
    kept: list[str] = []
    for choice in choices:
        if choice not in kept and not any(_both(choice, other, limits) for other in kept):
            kept.append(choice)
    return kept


def _both(first: str, second: str, limits: Mapping[str, Limit | None]) -> bool:
    """Whether two texts could stand for the same number: a word's limit and a number beyond it, or two such limits.

    Of a word with a number in it that states no limit nothing is known but that it may.
    """
    if first in limits and second in limits:
        one, two = limits[first], limits[second]
        return one is None or two is None or one.low == two.low
    word, other = (first, second) if first in limits else (second, first)
    limit, number = limits.get(word), number_of(other)
    return word in limits and number is not None and (limit is None or limit.holds(number))


def _by_frequency(cells: Mapping[str, int], count: int, stream: Stream) -> list[str]:
    """Draw so many texts without replacement, by how many cells hold them; all where there are no more."""
    if len(cells) <= count:
        return list(cells)
    left, drawn = dict(cells), list[str]()
    while len(drawn) < count:
        drawn.append(stream.weighted(list(left), list(left.values())))
        del left[drawn[-1]]
    return drawn


def _numbers(feature: Feature, numbers: Numbers, truth: str, count: int, stream: Stream) -> list[str]:
    """Return at most so many numbers beside the truth, which leaves a rung of their ladder to it if it is a number."""
    if count == 0:
        return []
    is_number = truth not in feature.words.values()
    scale = _scale(feature)
    near = float(truth if is_number else stream.weighted(numbers.texts, numbers.cells))
    around = scale.place(near)
    mixture = numbers.mixture
    component = stream.weighted(range(len(mixture.means)), mixture.responsibilities(around).tolist())
    deviation = float(mixture.deviations[component])
    if deviation < LEAST_DEVIATION:
        return stream.shuffled([text for text in numbers.texts if text != truth])[:count]
    rungs = count + is_number
    rung = stream.below(rungs)
    places = [around + SPACING * deviation * (i - rung) for i in range(rungs) if i != rung or not is_number]
    return _as_registered(feature, numbers, [scale.value(place) for place in places], near)


def _scale(feature: Feature) -> Scale:
    """Return the scale that a mixture is fitted on: the numbers themselves, or their natural logarithms."""
    log = feature.scale == "log"
    return Scale(math.e if log else 1.0, 10.0**-feature.decimals, log)


def _as_registered(feature: Feature, numbers: Numbers, values: Sequence[float], near: float) -> list[str]:
    """Texts of those numbers that a cell could hold, written as most are, unless the number that they are near is not.

    Beside a fraction whole numbers, and beside a number below 0 those above it, would tell which is the truth.
    """
    assert feature.low is not None and feature.high is not None
    low = max(feature.low, 0.0) if numbers.positive and near >= 0 else feature.low
    whole = numbers.whole and near.is_integer()
    rounded = [float(round(value)) if whole else value for value in values]
    return [feature.number(value) for value in rounded if low <= value <= feature.high]
