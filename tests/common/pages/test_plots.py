"""Plots drawn here: places follow from values, axes are round, nothing is told by colour alone."""

from __future__ import annotations

import re
from itertools import combinations
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.pages.plots import BLUE, COLOURS, Bars, Line, _ticks, bars, lines

SVG = re.compile(r'<svg class="plot".*?</svg>', re.DOTALL)


def drawn(figure: str) -> ElementTree.Element:
    """The picture as XML: whatever is not well-formed is refused here."""
    return ElementTree.fromstring(SVG.findall(figure)[0])


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_ticks_of_rounds_are_few_whole_and_within(first: int, more: int) -> None:
    found = _ticks(first, first + more, whole=True)
    assert 1 <= len(found) <= 7 and found == sorted(set(found))
    assert all(first <= tick <= first + more and float(tick).is_integer() for tick in found)


@given(st.floats(1e-4, 1e6))
def test_ticks_of_amounts_are_few_and_begin_at_zero(most: float) -> None:
    found = _ticks(0.0, most)
    assert 3 <= len(found) <= 7 and found[0] == 0 and most * 0.6 <= found[-1] <= most * (1 + 1e-8)
    assert all(len(f"{tick:g}") <= 7 for tick in found), "there is room for that"


@given(st.lists(st.tuples(st.integers(0, 10_000), st.floats(0, 1)), min_size=1, max_size=40, unique_by=lambda p: p[0]))
def test_a_point_lies_where_its_numbers_say(points: list[tuple[int, float]]) -> None:
    series = Line("north", sorted(points), BLUE)
    picture = drawn(lines("name", "Title", [series], x="round", y="share", top=1.0))
    marks = [mark for mark in picture.iter("path") if mark.get("class") == "mark"]
    assert len(marks) == len(points)
    places = [tuple(map(float, re.findall(r"[-\d.]+", str(mark.get("transform"))))) for mark in marks]
    for (x, y), (px, py) in zip(sorted(points), places, strict=True):
        first, last = min(points)[0], max(points)[0]
        assert px == pytest.approx(66 + (x - first) / ((last - first) or 1) * 432, abs=0.06)
        assert py == pytest.approx(256 - y * 246, abs=0.06)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_a_bar_is_as_long_as_its_share(values: list[float]) -> None:
    groups = [f"group {i}" for i in range(len(values))]
    picture = drawn(bars("name", "Title", groups, [Bars("federated", values)], x="share"))
    widths = [float(str(bar.get("width"))) for bar in picture.iter("rect")]
    assert widths == pytest.approx([value * 490 for value in values], abs=0.06)


def test_a_value_that_is_not_there_has_no_bar() -> None:
    picture = drawn(bars("name", "Title", ["a", "b"], [Bars("alone", [None, 0.5])], x="share"))
    assert [bar.findtext("title") for bar in picture.iter("rect")] == ["b, alone: 0.500"]


def test_two_series_differ_by_more_than_their_colour() -> None:
    series = [Line(f"site {i}", [(0, 0.1), (1, 0.2)], COLOURS[i % len(COLOURS)], mark=i) for i in range(7)]
    series.append(Line("all sites", [(0, 0.1)], dashed=True, thick=True, mark=None))
    keys = re.findall(r'<svg class="key".*?</svg>', lines("name", "T", series, x="round", y="share"), re.DOTALL)
    plain = [re.sub(r"#\w+", "", key) for key in keys]
    assert len(plain) == 8 and all(one != other for one, other in combinations(plain, 2))


def test_a_picture_is_told_in_words_and_text_of_others_stays_text() -> None:
    hostile = "<b>&\"'</svg>"
    figure = lines("name", hostile, [Line(hostile, [(1, 0.25), (9, 0.5)])], x=hostile, y=hostile)
    picture = drawn(figure)
    assert picture.findtext("title") == hostile
    assert f"{hostile}: 0.25 at 1, 0.5 at 9." in str(picture.findtext("desc"))
    assert f"{hostile}, 9: 0.500" in [mark.findtext("title") for mark in picture.iter("path")]


@pytest.mark.parametrize("points", [[], [(3, 0.0)], [(1, 0.0), (2, 0.0)]])
def test_nothing_one_point_and_zeros_are_drawn_too(points: list[tuple[int, float]]) -> None:
    assert drawn(lines("name", "Title", [Line("north", points)], x="round", y="seconds")) is not None
