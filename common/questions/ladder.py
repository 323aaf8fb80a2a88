"""Ladders of numeric choices: which numbers are offered around a value, so that none of them tells which one it is.

A number has a place on its feature's scale, counted in steps: evenly spaced where the scale is linear, by ratio where
it is "log"; neighbouring rungs are one step apart. Where a ladder begins is drawn whatever the value is, and one that
would leave the bounds is not bent but not asked: each of the choices shown could have led to the others alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from common.codebook import Feature, number_of
from common.stream import Stream

_FAR = 8
"""Rungs looked at on either side of a value: where there are nine or more a ladder of five can begin at any rank."""
_SLACK = 1e-9


@dataclass(frozen=True)
class Scale:
    """Where numbers stand, in steps.

    Parameters
    ----------
    step
        Distance between neighbours, or their ratio where `log`.
    unit
        Smallest difference shown. On a log scale numbers so small that neighbours would look alike, 0 among them, are
        one unit apart instead.
    """

    step: float
    unit: float
    log: bool

    @classmethod
    def of(cls, feature: Feature) -> Scale:
        """Return the scale of a numeric feature that has a step."""
        assert feature.step is not None
        return cls(feature.step, 10.0**-feature.decimals, feature.scale == "log")

    def place(self, value: float) -> float:
        """Place of a value, in steps."""
        if not self.log:
            return value / self.step
        rate = math.log(self.step)
        even = self.unit / rate
        return value / self.unit if value <= even else (1 + math.log(value / even)) / rate

    def value(self, place: float) -> float:
        """Value at a place."""
        if not self.log:
            return place * self.step
        rate = math.log(self.step)
        return place * self.unit if place * rate <= 1 else self.unit / rate * math.exp(place * rate - 1)

    def keeps(self, place: float, grain: float) -> bool:
        """Whether rungs from a place upward stay apart, and where they are even stay even, when rounded to a grain."""
        if self.log:
            return self.value(place + 1) - self.value(place) >= grain * (1 - _SLACK)
        return abs(self.step / grain - round(self.step / grain)) < _SLACK * self.step / grain


class End(NamedTuple):
    """A word that stands for all numbers below or above a ladder's, and the precision of the limit in it."""

    word: str
    grain: float


@dataclass(frozen=True)
class Bounds:
    """Least and greatest number offered, and what stands beyond them."""

    low: float
    high: float
    below: End | None = None
    above: End | None = None

    def hold(self, truth: str) -> bool:
        """Whether a truth is a number within the bounds, or the word beyond them."""
        value = number_of(truth)
        if value is None:
            return self.low <= self.high and truth in [end.word for end in (self.below, self.above) if end is not None]
        return self.low - _SLACK <= value <= self.high + _SLACK


class _Rung(NamedTuple):
    """A choice, and its place where it is a number."""

    text: str
    place: float | None = None


def ladder(feature: Feature, bounds: Bounds, truth: str, most: int, stream: Stream) -> list[str]:
    """Return a ladder of at most `most` choices with the truth among them; empty where the one drawn does not fit.

    `truth` is a number within the bounds, or one of their words. A linear ladder is exact. A geometric one leads
    through a point drawn within the rounding of the truth, and its rungs are rounded as coarsely as the truth is, 800
    and not 787 beside 1250: neither digits nor arithmetic tell from which rung it was made.
    """
    scale = Scale.of(feature)
    dither, start = stream.uniform(), stream.uniform()
    for grain in _grains(scale, bounds, truth):
        rungs, at = _rungs(feature, scale, bounds, truth, grain, dither)
        shown = _window(rungs, at, most, start)
        lowest = next((rung.place for rung in shown if rung.place is not None), None)
        if lowest is None or grain == scale.unit or scale.keeps(lowest, grain):
            return [rung.text for rung in shown]
    return []


def _grains(scale: Scale, bounds: Bounds, truth: str) -> list[float]:
    """Return the roundings that a truth may have, the coarsest first; the last is the unit."""
    for end in (bounds.below, bounds.above):
        if end is not None and truth == end.word:
            return [*([end.grain] if end.grain > scale.unit else []), scale.unit]
    units = abs(round(float(truth) / scale.unit)) if scale.log else 0
    coarse = [factor * 10**power for power in range(len(str(units))) for factor in (1, 5)]
    return [grain * scale.unit for grain in reversed(coarse) if grain == 1 or (units and units % grain == 0)]


def _rungs(
    feature: Feature, scale: Scale, bounds: Bounds, truth: str, grain: float, dither: float
) -> tuple[list[_Rung], int]:
    """Return the rungs around a truth, upward, and its index."""

    def numbers(places: Iterable[float]) -> Iterator[_Rung]:
        for place in places:
            value = math.floor(scale.value(place) / grain + 0.5 + _SLACK) * grain
            if not bounds.low - _SLACK * scale.unit <= value <= bounds.high + _SLACK * scale.unit:
                return
            yield _Rung(feature.number(value), place)

    def ended(found: Iterator[_Rung], end: End | None) -> list[_Rung]:
        rungs = list(found)
        return rungs if end is None or len(rungs) == _FAR else [*rungs, _Rung(end.word)]

    if bounds.below is not None and truth == bounds.below.word:
        first = scale.place(math.ceil(bounds.low / grain - _SLACK) * grain - grain / 2) + dither
        up = ended(numbers(first + far for far in range(_FAR)), bounds.above)
        return [_Rung(truth), *up], 0
    if bounds.above is not None and truth == bounds.above.word:
        last = scale.place(math.floor(bounds.high / grain + _SLACK) * grain + grain / 2) - 1 + dither
        down = ended(numbers(last - far for far in range(_FAR)), bounds.below)
        return [*reversed(down), _Rung(truth)], len(down)
    own = scale.place(float(truth) + (dither - 0.5) * grain if scale.log else float(truth))
    down = ended(numbers(own - far for far in range(1, _FAR + 1)), bounds.below)
    up = ended(numbers(own + far for far in range(1, _FAR + 1)), bounds.above)
    return [*reversed(down), _Rung(truth, own), *up], len(down)


def _window(rungs: Sequence[_Rung], at: int, most: int, start: float) -> list[_Rung]:
    """Return so many neighbours with the truth at a rank drawn whatever it is; none where it is not to be had."""
    count = min(most, len(rungs))
    ranks = min(count, len(rungs) - count + 1)
    first = max(0, at - count + 1) + int(start * ranks)
    return list(rungs[first : first + count]) if count > 1 and first <= min(at, len(rungs) - count) else []
