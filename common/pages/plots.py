"""Plots as inline SVG, drawn here: they print, follow the reader's light or dark, and need neither script nor library.

A plot is a picture with a title and a description; its numbers stand in a table beside it. A series differs from
another by its mark or its line, not by colour alone. All text is plain and escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

BLUE, VERMILION, GREEN, PURPLE, OCHRE, SKY, GREY = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#b87a00",
    "#3c9ad6",
    "#7f868e",
)
"""Okabe and Ito's colours, the lightest darkened so that all stand out from white and from near-black."""
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, OCHRE, SKY)
_WIDE, _HIGH = 520, 300
"""Of a plot in its own units; text of 14 of them is readable where 360 pixels are all there is."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 10, 44
_CHARACTER = 8
_MOST_MARKS = 60
"""Points of a line that are marked one by one; a longer one is a line alone."""
_MARKS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0",
    "M-4-4h8v8h-8z",
    "M0-5.5L5.5 0L0 5.5L-5.5 0z",
    "M0-5L5 4h-10z",
    "M-4-4L4 4M-4 4L4-4",
    "M0 5L5-4h-10z",
    "M0-5V5M-5 0H5",
)
CROSS = 4
"""Place of the cross among the marks."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """Points in the order of x, joined or not; `spread` holds an interval of each, `mark` None is a line alone."""

    name: str
    points: Sequence[Point]
    colour: str = BLUE
    mark: int | None = 0
    joined: bool = True
    dashed: bool = False
    thick: bool = False
    spread: Sequence[Point] = ()


@dataclass(frozen=True)
class Bars:
    """A value of each group, None where there is none; `spread` holds intervals, `diamond` is a mark and no bar."""

    name: str
    values: Sequence[float | None]
    colour: str = BLUE
    hollow: bool = False
    diamond: bool = False
    spread: Sequence[Point] = ()


@dataclass(frozen=True)
class Dot:
    """A figure in a row of its own with its interval; a value of None leaves the row empty."""

    name: str
    value: float | None
    spread: tuple[float | None, float | None] = (None, None)


@dataclass(frozen=True)
class _Axis:
    """Where values lie between two places of the picture."""

    low: float
    high: float
    start: float
    end: float
    ticks: Sequence[float] = field(default=())

    def __call__(self, value: float) -> float:
        span = self.high - self.low or 1.0
        return self.start + (value - self.low) / span * (self.end - self.start)


def lines(
    name: str,
    title: str,
    series: Sequence[Line],
    *,
    x: str,
    y: str,
    top: float | None = None,
    rows: Sequence[str] = (),
    span: Point | None = None,
) -> str:
    """Return a plot of lines as a `<figure>` with the id `name`.

    Parameters
    ----------
    x, y
        What the axes show.
    top
        Where the y axis ends; by default at the largest value.
    rows
        Names of the y values 0, 1, ..., from below, where they are places and no numbers.
    span
        Where the x axis begins and ends; by default at the first and the last point.
    """
    numbers = [value for one in series for value, _ in one.points]
    heights = [value for one in series for _, value in one.points]
    heights += [high for one in series for _, high in one.spread]
    first, last = span or ((min(numbers), max(numbers)) if numbers else (0.0, 1.0))
    high = _HIGH if not rows else _TOP + _BOTTOM + 34 * len(rows)
    left = _LEFT if not rows else 24 + _CHARACTER * min(18, max(map(len, rows)))
    across = _Axis(
        first,
        last if last > first else first + 1,
        left + 8,
        _WIDE - _RIGHT - 8,
        _ticks(first, last, whole=last - first >= 2),
    )
    if rows:
        up = _Axis(-0.5, len(rows) - 0.5, high - _BOTTOM, _TOP, range(len(rows)))
    else:
        least, most = 1.05 * min([*heights, 0.0]), top or 1.05 * max([*heights, 0.0]) or 1.0
        up = _Axis(least, most, high - _BOTTOM, _TOP, _ticks(least, most))
    labels = [_cut(rows[int(tick)], 18) if rows else f"{tick:g}" for tick in up.ticks]
    parts = [_frame(across, up, labels, left, high), _words(x, y, left, high)]
    parts += [_drawn(one, across, up, rows) for one in series]
    told = f"{x} {first:g} to {last:g}. " + " ".join(_told(one, rows) for one in series)
    return _figure(name, title, parts, series, high, told)


def bars(name: str, title: str, groups: Sequence[str], series: Sequence[Bars], *, x: str) -> str:
    """Return a plot of shares from 0 to 1 as lying bars, below the name of their group, as a `<figure>`."""
    solid = [one for one in series if not one.diamond]
    step, bar = 24 + 13 * len(solid) + 12, 10
    high = _TOP + step * len(groups) + _BOTTOM
    across = _Axis(0.0, 1.0, 8, _WIDE - _RIGHT - 8, _ticks(0.0, 1.0))
    parts = [_frame(across, _Axis(0, 1, high - _BOTTOM, _TOP), [], 8, high), _words(x, "", 8, high)]
    for place, group in enumerate(groups):
        above = _TOP + place * step
        parts.append(f'<text x="8" y="{above + 16}">{escape(_cut(group, 62))}</text>')
        for row, one in enumerate(solid):
            value, y = one.values[place], above + 22 + 13 * row
            if value is None:
                continue
            look = "hollow" if one.hollow else "bar"
            parts.append(
                f'<rect class="{look}" {_colour(one)} x="8" y="{y}" width="{across(value) - 8:.1f}" height="{bar}">'
                f"<title>{escape(f'{group}, {one.name}: {value:.3f}')}</title></rect>"
            )
            if one.spread:
                low, top = (across(end) for end in one.spread[place])
                parts.append(f'<path class="spread" d="M{low:.1f} {y + bar / 2}H{top:.1f}"/>')
        for one in series:
            if one.diamond and (value := one.values[place]) is not None:
                middle = above + 22 + 13 * len(solid) / 2
                parts.append(_mark(one, across(value), middle, 2, f"{group}, {one.name}: {value:.3f}"))
    told = f"{x}, by group: {', '.join(groups)}. Bars: {', '.join(one.name for one in series)}."
    return _figure(name, title, parts, series, high, told)


def forest(name: str, title: str, dots: Sequence[Dot], *, x: str, around: float | None = None) -> str:
    """Return figures with their intervals one below the other as a `<figure>`; the line `around` parts two sides."""
    known = [value for dot in dots for value in (dot.value, *dot.spread) if value is not None]
    known += [] if around is None else [around]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    room = 0.06 * (high - low or 1.0)
    left, deep = 24 + _CHARACTER * min(28, max(map(len, (dot.name for dot in dots)), default=0)), _TOP + 26 * len(dots)
    across = _Axis(low - room, high + room, left + 8, _WIDE - _RIGHT - 8, _ticks(low - room, high + room))
    parts = [_frame(across, _Axis(0, 1, deep, _TOP), [], left, deep + _BOTTOM), _words(x, "", left, deep + _BOTTOM)]
    if around is not None:
        parts.append(f'<path class="axis" d="M{across(around):.1f} {_TOP}V{deep}"/>')
    for row, dot in enumerate(dots):
        y = _TOP + 26 * row + 13
        parts.append(f'<text class="end" x="{left}" y="{y + 5}">{escape(_cut(dot.name, 28))}</text>')
        if dot.value is None:
            continue
        if None not in dot.spread:
            one, other = (across(end) for end in dot.spread if end is not None)
            parts.append(f'<path class="spread" d="M{one:.1f} {y}H{other:.1f}"/>')
        parts.append(_mark(Line(dot.name, []), across(dot.value), y, 0, f"{dot.name}: {dot.value:.3f}"))
    told = f"{x}. " + " ".join(f"{dot.name}: {dot.value:.3f}." for dot in dots if dot.value is not None)
    return _figure(name, title, parts, [Line(title, [])], deep + _BOTTOM, told)


def _figure(
    name: str, title: str, parts: Sequence[str], series: Sequence[Line] | Sequence[Bars], high: float, told: str
) -> str:
    legend = "".join(f"<li>{_key(one)} {escape(one.name)}</li>" for one in series) if len(series) > 1 else ""
    keys = f'<ul class="legend">{legend}</ul>' if legend else ""
    return (
        f'<figure id="{name}">\n<figcaption>{escape(title)}</figcaption>\n{keys}'
        f'<svg class="plot" viewBox="0 0 {_WIDE} {high:g}" role="img" aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(told)}</desc>\n'
        + "\n".join(parts)
        + "\n</svg>\n</figure>"
    )


def _frame(across: _Axis, up: _Axis, labels: Sequence[str], left: float, high: float) -> str:
    """Return the grid with its numbers."""
    below = high - _BOTTOM
    parts = []
    for tick, label in zip(up.ticks, labels, strict=True):
        parts.append(f'<path class="grid" d="M{left} {up(tick):.1f}H{_WIDE - _RIGHT}"/>')
        parts.append(f'<text class="end" x="{left - 6}" y="{up(tick) + 5:.1f}">{escape(label)}</text>')
    for tick in across.ticks:
        grid = "" if labels else f'<path class="grid" d="M{across(tick):.1f} {_TOP}V{below}"/>'
        parts.append(f'{grid}<text class="mid" x="{across(tick):.1f}" y="{below + 18}">{tick:g}</text>')
    parts.append(f'<path class="axis" d="M{left} {below}H{_WIDE - _RIGHT}"/>')
    return "".join(parts)


def _words(x: str, y: str, left: float, high: float) -> str:
    """Return what the axes show; the y axis's own words stand upright beside it."""
    middle = (_TOP + high - _BOTTOM) / 2
    upright = f'<text class="mid" transform="translate(14 {middle:g}) rotate(-90)">{escape(y)}</text>' if y else ""
    return f'<text class="mid" x="{(left + _WIDE - _RIGHT) / 2:g}" y="{high - 6:g}">{escape(x)}</text>{upright}'


def _drawn(one: Line, across: _Axis, up: _Axis, rows: Sequence[str]) -> str:
    places = [(across(x), up(y)) for x, y in one.points]
    parts = []
    for (x, _), (low, high) in zip(places, one.spread, strict=False):
        parts.append(f'<path class="spread" {_colour(one)} d="M{x:.1f} {up(low):.1f}V{up(high):.1f}"/>')
    if one.joined and len(places) > 1:
        parts.append(f'<polyline {_look(one)} points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>')
    if one.mark is not None and (len(places) <= _MOST_MARKS or not one.joined):
        for (x, y), (number, value) in zip(places, one.points, strict=True):
            told = f"{one.name}, {number:g}" + ("" if rows else f": {value:.3f}")
            parts.append(_mark(one, x, y, one.mark, told))
    return "".join(parts)


def _mark(one: Line | Bars, x: float, y: float, shape: int, told: str) -> str:
    path = _MARKS[shape % len(_MARKS)]
    return (
        f'<path class="mark" {_colour(one)} transform="translate({x:.1f} {y:.1f})" d="{path}">'
        f"<title>{escape(told)}</title></path>"
    )


def _key(one: Line | Bars) -> str:
    """Return a small picture of how a series looks."""
    if isinstance(one, Bars):
        look = "hollow" if one.hollow else "bar"
        shape = f'<rect class="{look}" {_colour(one)} x="4" y="3" width="22" height="10"/>'
        if one.diamond:
            shape = f'<path class="mark" {_colour(one)} transform="translate(15 8)" d="{_MARKS[2]}"/>'
    else:
        shape = f'<path {_look(one)} d="M1 8H29"/>' if one.joined else ""
        if one.mark is not None:
            path = _MARKS[one.mark % len(_MARKS)]
            shape += f'<path class="mark" {_colour(one)} transform="translate(15 8)" d="{path}"/>'
    return f'<svg class="key" viewBox="0 0 30 16" aria-hidden="true">{shape}</svg>'


def _colour(one: Line | Bars) -> str:
    return f'color="{one.colour}"'


def _look(one: Line) -> str:
    looks = ["line", *(["dashed"] if one.dashed else []), *(["thick"] if one.thick else [])]
    return f'class="{" ".join(looks)}" {_colour(one)}'


def _told(one: Line, rows: Sequence[str]) -> str:
    """Say how a line goes, for those who do not see it."""
    if not one.points:
        return ""
    (first, start), (last, end) = one.points[0], one.points[-1]
    if rows:
        return f"{one.name}: {len(one.points)} times."
    return f"{one.name}: {start:.3g} at {first:g}, {end:.3g} at {last:g}."


def _ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Return five steps or so of 1, 2 or 5 times a power of ten between two values."""
    span = high - low or 1.0
    rough = span / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    step = max(1.0, step) if whole else step
    first = math.ceil(low / step - 1e-9)
    count = int((high - first * step) / step + 1e-9) + 1
    found = [float(f"{(first + i) * step:.10g}") for i in range(count)]
    return found or [low]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "\u2026"
