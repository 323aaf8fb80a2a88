"""Lines of keys: whatever the layout, a problem is told where a person finds it."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.toml import line_of

Place = tuple[str | int, ...]

BARE = st.from_regex(r"[a-z][a-z0-9_-]{0,5}", fullmatch=True)
TEXTS = st.sampled_from(
    ["plain", "a = 1", "[table]", "[[tables]]", "# no comment", "d.time", "", "]", "b = [", "\\boxed{"]
)
SCALARS = st.one_of(st.integers(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False), TEXTS)


def toml(value: Any) -> str:
    """Return a scalar as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\") + '"'
    return repr(value)


@st.composite
def values(draw: st.DrawFn) -> list[str]:
    """Lines of a value: a scalar, an array in one line or over several, or a text over several lines."""
    match draw(st.integers(0, 4)):
        case 0:
            return [toml(draw(SCALARS))]
        case 1:
            return [f"[{', '.join(toml(text) for text in draw(st.lists(TEXTS, max_size=3)))}]"]
        case 2:
            rows = draw(st.lists(TEXTS, max_size=3))
            return ["[", *(f"    {toml(row)}, # a comment" for row in rows), "]"]
        case 3:
            rows = draw(st.lists(st.lists(TEXTS, max_size=3), max_size=3))
            return ["[", *(f"  [{', '.join(map(toml, row))}]," for row in rows), "]"]
        case _:
            return [
                '"""',
                *draw(st.lists(st.sampled_from(["a = 1", "[table]", "[[tables]]", "text", ""]), max_size=3)),
                '"""',
            ]


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, dict[Place, int]]:
    """Text of a TOML file, and the line of every key, table and member of an array of tables in it."""
    lines: list[str] = []
    places: dict[Place, int] = {}

    def filling() -> None:
        lines.extend(draw(st.lists(st.sampled_from(["", "  ", "# a = 1", "# [table]"]), max_size=2)))

    def keys(before: Place) -> None:
        for name in draw(st.lists(BARE, max_size=4, unique=True)):
            filling()
            key = draw(st.sampled_from([name, f'"{name}"', f"  {name}"]))
            first, *rest = draw(values())
            places[(*before, name)] = len(lines) + 1
            lines.extend([f"{key} = {first}", *rest])

    keys(())
    tables = draw(st.lists(BARE, max_size=3, unique=True).map(lambda names: [f"t-{name}" for name in names]))
    for name in tables:
        filling()
        places[(name,)] = len(lines) + 1
        lines.append(draw(st.sampled_from([f"[{name}]", f"[ {name} ] # a comment", f'["{name}"]'])))
        keys((name,))
        if draw(st.booleans()):
            places[(name, "t-inner")] = len(lines) + 1
            lines.append(f"[{name}.t-inner]")
            keys((name, "t-inner"))
    for number in range(draw(st.integers(0, 3))):
        filling()
        places[("u-rows", number)] = len(lines) + 1
        lines.append("[[u-rows]]")
        keys(("u-rows", number))
    return "\n".join(lines) + "\n", places


@given(documents())
def test_every_key_is_found_at_its_line(document: tuple[str, dict[Place, int]]) -> None:
    text, places = document
    tomllib.loads(text)
    assert {place: line_of(text, place) for place in places} == places


@given(documents())
def test_a_key_that_is_absent_is_told_at_the_table_that_should_hold_it(document: tuple[str, dict[Place, int]]) -> None:
    text, places = document
    for place, line in places.items():
        assert line_of(text, (*place, "NOT THERE")) == line
    assert line_of(text, ("NOT THERE",)) is None


@given(st.text(alphabet="ab1=.[]\"'# \n", max_size=80), st.lists(st.one_of(BARE, st.integers(0, 3)), max_size=3))
def test_no_text_is_too_broken_for_an_answer_within_it(text: str, place: list[str | int]) -> None:
    line = line_of(text, tuple(place))
    assert line is None or 1 <= line <= len(text.splitlines())


@pytest.mark.parametrize(
    ("text", "place", "line"),
    [
        ("a.b = 1\n", ("a", "b"), 1),
        ("[a]\nb.c = 1\n", ("a", "b", "c"), 2),
        ("a = {b = 1}\n", ("a", "b"), 1),
        ("[a]\nb = [1, 2]\n", ("a", "b", 1), 2),
        ("[[a]]\n[a.b]\nc = 1\n[[a]]\n[a.b]\nc = 2\n", ("a", 1, "b", "c"), 6),
        ('groups = [\n  ["a", "b"],\n]\nwrong = 1\n', ("wrong",), 4),
        ('ignored = ["a", # one\n  "b"]\nwrong = 1\n', ("wrong",), 3),
        ('[site]\n"d.time" = 1\n', ("site", "d.time"), 2),
        ('["d.time"]\na = 1\n', ("d.time", "a"), 2),
        ("", ("a",), None),
    ],
)
def test_a_key_is_found_whatever_the_layout(text: str, place: Place, line: int | None) -> None:
    tomllib.loads(text)
    assert line_of(text, place) == line
