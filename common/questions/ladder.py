"""Ladders of numeric choices: which numbers are offered around a value, so that none of them tells which one it is.

A number has a place on its feature's scale, counted in steps: evenly spaced where the scale is linear, by ratio where
it is "log"; neighbouring rungs are one step apart. Where a ladder begins is drawn whatever the value is, and one that
would leave the bounds is not bent but not asked: each of the choices shown could have led to the others alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from common.feature import Feature, number_of
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


class _Grain(NamedTuple):
    """How round the numbers of a ladder are: whole multiples of `size` units, but not of `next` where that is given."""

    size: int
    next: int | None

    def holds(self, units: int) -> bool:
        """Whether a number is one of them."""
        return units % self.size == 0 and (self.next is None or units % self.next != 0)

    def nearest(self, units: float, least: int, most: int) -> int:
        """Return the nearest of them within the bounds; the nearest of all where none is."""
        near = math.floor(units / self.size + 0.5 + _SLACK) * self.size
        if least <= near <= most and self.holds(near):
            return near
        beside = sorted((near + far * self.size for far in range(-2, 3)), key=lambda other: abs(other - units))
        found = [other for other in beside if self.holds(other)]
        return next((other for other in found if least <= other <= most), found[0])

    def within(self, units: int, share: float) -> float:
        """Return a point among those that one of them is nearest to, from the lowest (0) to the highest (1)."""
        low, high = (self.size / 2 if self.holds(units + side * self.size) else self.size for side in (-1, 1))
        return units - low + share * (low + high)


class _Rung(NamedTuple):
    """A choice: its text, and its place where it is a number, of which the text may yet have to be written."""

    text: str | None
    place: float | None = None


def ladder(feature: Feature, bounds: Bounds, truth: str, most: int, stream: Stream) -> list[str]:
    """Return a ladder of at most `most` choices with the truth among them; empty where the one drawn does not fit.

    `truth` is a number within the bounds, or one of their words. A linear ladder is exact. A geometric one leads
    through a point drawn among those that are rounded to the truth, and all its rungs are as round as the truth is,
    850 and not 833 beside 1250: neither arithmetic nor digits tell from which rung it was made.
    """
    scale = Scale.of(feature)
    start, near, dither = (stream.uniform() for _ in range(3))
    number = float(truth) if number_of(truth) is not None else _beside(scale, bounds, truth, near)
    units = round(number / scale.unit)
    for top in reversed(_tops(units)) if scale.log else (1,):
        grain = _grain_of(units, top)
        place = scale.place(grain.within(units, dither) * scale.unit if scale.log else number)
        if top > 1 and scale.value(place + 1) - scale.value(place) < top * scale.unit:
            continue
        least, highest = _reach(bounds, scale)
        rungs, own = _rungs(scale, bounds, truth, _Rung(feature.number(number), place))
        shown = [_written(feature, scale, grain, rung, least, highest) for rung in _window(rungs, own, most, start)]
        lowest = min((at for _, at in shown if at is not None), default=place)
        apart = (scale.value(lowest + 1) - scale.value(lowest)) / scale.unit
        if top == 1 or (apart >= top and len({text for text, _ in shown}) == len(shown)):
            return [text for text, _ in shown]
    raise AssertionError("a grain of one unit always fits")


def _tops(units: int) -> list[int]:
    """Return how round numbers up to this many units may be: 1, 5, 10, 50, 100 and so on."""
    return [factor * 10**power for power in range(len(str(units))) for factor in (1, 5)]


def _grain_of(units: int, top: int) -> _Grain:
    """Return how round a number is, where no more than multiples of `top` are told apart."""
    sizes = [size for size in _tops(top) if size <= top and units % size == 0]
    return _Grain(sizes[-1], None if sizes[-1] == top else sizes[-1] * (5 if str(sizes[-1])[0] == "1" else 2))


def _beside(scale: Scale, bounds: Bounds, word: str, share: float) -> float:
    """Return a number within a step of the limit that a word states, as precise as the limit is written."""
    if bounds.below is not None and word == bounds.below.word:
        size = max(bounds.below.grain, scale.unit)
        value = scale.value(scale.place(bounds.low - size / 2) + share)
        return max(math.ceil(bounds.low / size - _SLACK), math.floor(value / size + 0.5)) * size
    assert bounds.above is not None
    size = max(bounds.above.grain, scale.unit)
    value = scale.value(scale.place(bounds.high + size / 2) - share)
    return min(math.floor(bounds.high / size + _SLACK), math.floor(value / size + 0.5)) * size


def _reach(bounds: Bounds, scale: Scale) -> tuple[int, int]:
    """Return the least and greatest number offered, in units."""
    return math.ceil(bounds.low / scale.unit - _SLACK), math.floor(bounds.high / scale.unit + _SLACK)


def _written(
    feature: Feature, scale: Scale, grain: _Grain, rung: _Rung, least: int, most: int
) -> tuple[str, float | None]:
    """Return the text of a rung and its place."""
    if rung.text is not None:
        return rung.text, rung.place
    assert rung.place is not None
    units = scale.value(rung.place) / scale.unit
    if scale.log:
        units = grain.nearest(units, least, most)
    return feature.number(units * scale.unit), rung.place


def _rungs(scale: Scale, bounds: Bounds, truth: str, own: _Rung) -> tuple[list[_Rung], int]:
    """Return the rungs around a number, upward, and the index of the truth: the number, or the word beside it."""
    least, most = _reach(bounds, scale)

    def beyond(side: int, end: End | None) -> list[_Rung]:
        found: list[_Rung] = []
        for far in range(1, _FAR + 1):
            assert own.place is not None
            place = own.place + side * far
            units = scale.value(place) / scale.unit
            if not least <= math.floor(units + 0.5 + _SLACK) <= most:
                return found if end is None else [*found, _Rung(end.word)]
            found.append(_Rung(None, place))
        return found

    assert own.text is not None
    if number_of(truth) is None and not least <= round(float(own.text) / scale.unit) <= most:
        return [_Rung(truth)], 0
    if bounds.below is not None and truth == bounds.below.word:
        return [_Rung(truth), own, *beyond(1, bounds.above)], 0
    if bounds.above is not None and truth == bounds.above.word:
        down = beyond(-1, bounds.below)
        return [*reversed(down), own, _Rung(truth)], len(down) + 1
    down = beyond(-1, bounds.below)
    return [*reversed(down), _Rung(truth, own.place), *beyond(1, bounds.above)], len(down)


def _window(rungs: Sequence[_Rung], at: int, most: int, start: float) -> list[_Rung]:
    """Return so many neighbours with the truth at a rank drawn whatever it is; none where it is not to be had."""
    count = min(most, len(rungs))
    ranks = min(count, len(rungs) - count + 1)
    first = max(0, at - count + 1) + int(start * ranks)
    return list(rungs[first : first + count]) if count > 1 and first <= min(at, len(rungs) - count) else []
