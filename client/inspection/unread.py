"""Which numeric questions of a site answer themselves, and by which scale or step of the codebook they would not."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from client.inspection.blind import Blind, ask, blind_rules
from client.registry.quantity import RATIOS, steps_from
from common.feature import Feature, number_of
from common.questions.question import Patient, QuestionMaker

MOST_OVER_CHANCE = 0.10
"""What a rule that never reads the record may get above chance; more is warned of."""
FEWEST = 20
"""Values below which nothing is said."""
_QUESTIONS = 2000
"""Asked of a feature; where there are fewer values each is asked several times, with other choices."""
_TRIED = 600
"""Asked of each other scale that is tried."""
_LEAST_RUNGS = 5
"""Choices between the bounds that the largest step leaves."""
_SKEWED = 1.5
"""How much further the highest tenth is from the middle than the lowest where ratios are tried first."""


@dataclass(frozen=True)
class Unread:
    """How often rules that never read the record are right on a numeric feature or task, asked of so many values.

    `warning` says what is wrong and what mends it, in percentages, with steps and ratios that anybody would write.
    """

    item: str
    feature: str
    values: int
    blind: Blind
    warning: str = ""


def unread_items(maker: QuestionMaker, patients: Collection[Patient], without: Collection[str]) -> tuple[Unread, ...]:
    """Answer the numeric items of these patients by every rule, but for those of some features."""
    found = []
    for item in maker.weights:
        feature = maker.feature_of(item)
        truths = maker.truths(item, patients) if feature.kind == "numeric" and feature.name not in without else []
        blind = blind_rules(feature, ask(feature, truths, _QUESTIONS)) if len(truths) >= FEWEST else None
        if blind is not None:
            found.append(Unread(item, feature.name, len(truths), blind, _warning(item, feature, truths, blind)))
    return tuple(found)


def answers_itself(blind: Blind, values: int) -> bool:
    """Whether a rule is above chance by more than is allowed, and than so few values show by luck (standard error)."""
    return blind.over_chance > MOST_OVER_CHANCE + math.sqrt(blind.best * (1 - blind.best) / values)


def _warning(item: str, feature: Feature, truths: Sequence[str], blind: Blind) -> str:
    if not answers_itself(blind, len(truths)):
        return ""
    told = f"{item}: {blind.found} is right in {blind.best:.0%} of its questions, chance in {blind.chance:.0%}."
    better = tempered(feature, truths)
    if better is None or blind.over_chance - better[1].over_chance < MOST_OVER_CHANCE:
        return f"{told} No scale or step mends that: too many have one value. Say ask = false, or make it categorical."
    other, mended = better
    scale = f'scale = "{other.scale}" and ' if other.scale != feature.scale else ""
    told = f"{told} With {scale}step = {other.step:g} no rule that ignores the record is above {mended.best:.0%}."
    return told if mended.over_chance <= MOST_OVER_CHANCE else f"{told} No other that was tried does better."


def tempered(feature: Feature, truths: Sequence[str]) -> tuple[Feature, Blind] | None:
    """Return a scale and step by which no rule gets far above chance; None where nothing can be asked by any other.

    Finer ones go first, the coarsest of them before the others; then come coarser ones, the finest first. Where all
    leave something of it, the one that leaves least. None of them hides what is the truth of every question.
    """
    if len(set(truths)) == 1:
        return None
    least: tuple[Feature, Blind] | None = None
    for other in _others(feature, truths):
        found = blind_rules(other, ask(other, truths, _TRIED))
        if found is None or 2 * found.questions < _TRIED:
            continue
        if found.over_chance <= MOST_OVER_CHANCE:
            return other, found
        least = (other, found) if least is None or found.best < least[1].best else least
    return least


def _others(feature: Feature, truths: Sequence[str]) -> Iterator[Feature]:
    """Yield the feature with other scales and steps: by ratio first where it is so already or values are skewed."""
    assert feature.low is not None and feature.high is not None and feature.step is not None
    log, step, most = feature.scale == "log", feature.step, (feature.high - feature.low) / _LEAST_RUNGS
    ratios = [ratio for ratio in reversed(RATIOS) if not log or ratio < step] if feature.low >= 0 else []
    coarser_ratios = [ratio for ratio in RATIOS if log and ratio > step] if feature.low >= 0 else []
    steps = [] if log else _shown(steps_from(step), feature)
    coarser_steps = [each for each in reversed(_shown(steps_from(most), feature)) if log or each > step]
    numbers = [number for number in map(number_of, truths) if number is not None]
    low, middle, high = np.quantile(numbers, (0.1, 0.5, 0.9)) if numbers else (0.0, 0.0, 0.0)
    skewed = log or high - middle > _SKEWED * (middle - low)
    for by_ratio, even in ((ratios, steps), (coarser_ratios, coarser_steps)):
        scales = [("log", each) for each in by_ratio], [("linear", each) for each in even]
        for scale, each in chain(*scales if skewed else reversed(scales)):
            yield feature.model_copy(update={"scale": scale, "step": each})


def _shown(steps: Sequence[float], feature: Feature) -> list[float]:
    """Those of the steps that the feature's decimals can show."""
    return [step for step in steps if step == round(step, feature.decimals)]
