"""Every bench command ends with its figures as one line of JSON, the last of stdout and the only one that is JSON."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.result import print_result
from tests.bench.called import figures, figures_in
from tests.paths import ROOT

BENCH = ROOT / "bench"
COMMANDS = sorted(path.stem for path in BENCH.glob("*.py") if "__main__" in path.read_text())
HELPER = "print_result"

SMALLEST = {
    "accounting": "",
    "dashboard": "--sites 3 --rounds 4 --more 10 --turn 5 --parameters 100",
    "decoding": "--patients 1 --questions 1 --generations 2 --completion 2 --groups 1 --repeats 1",
    "flood": "--slow 2 --bodies 20 --rate 10 --sites 1 --seconds 2",
    "exactness": "--sites 1 --sites 2 --rounds 1",
    "grpo": "--prompt 8 9 --groups 1 --generations 2 --completion 2 --repeats 1",
    "grpo private": "--dp --groups 2 --generations 2 --completion 2 --repeats 1",
    "grpo by stage": "--model tiny-random --prompt 8 --groups 1 --generations 2 --completion 2 --repeats 1",
    "memory": "--sites 4 --megabytes 0.1",
    "noise": "--sigma 100 --samples 1000 --repeats 1",
    "poisoning": "--rounds 2 --honest 1 --attack none",
    "questions": "--patients 20 --features 10 --questions 5",
    "ranks": "--ranks 1 2 --patients 3 --repeats 1",
    "rehearsal": "--model tiny-random --layers 1 --sites 2 --rounds 1 --completion 4",
    "round": "--sites 1 --rounds 1 --stock-rounds 1",
    "secagg": "--parameters 1_000 --sites 4 --drop 1",
    "soak": "--rounds 4 --every 2 --watch",
    "utility": "--quick --protocol fedsgd --epsilon 8 --runs {tmp}",
}
"""Words of every way to call one, with as little work as it takes."""
SLOW = ("decoding", "exactness", "poisoning", "ranks", "rehearsal", "utility")
"""These train the embedded model, or start Ray."""
TOO_LONG = {"learning", "mutations", "warmup"}
"""They train a whole demo or a real model, or go through every check: how they end is read from their code alone."""
ELSEWHERE = {"choices", "screenshots"}
"""Called for what it finds, in a file of its own."""
DEPLOYED = ("flood", "round", "soak")


def marks(name: str) -> list[pytest.MarkDecorator]:
    found = [pytest.mark.timeout(3600)]
    return found + [pytest.mark.slow] * (name in SLOW) + [pytest.mark.deploy] * (name.split()[0] in DEPLOYED)


@pytest.mark.federation
@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in SMALLEST])
def test_a_bench_command_ends_with_one_line_of_json(name: str, tmp_path: Path) -> None:
    assert figures(name.split()[0], *SMALLEST[name].format(tmp=tmp_path).split())


def test_a_figure_that_is_no_number_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    print_result({"loss": [math.nan, math.inf, 1.5]})
    assert figures_in(capsys.readouterr().out) == {"loss": [None, None, 1.5]}


@pytest.mark.parametrize("printed", ["{}", "[1]", "done", '{"a": 1}\ndone', '{"a": 1}\n{"b": 2}', '[1]\n{"b": 2}'])
def test_figures_that_are_none_or_not_alone_are_found(printed: str) -> None:
    assert figures_in('done\n1\n{"b": 2}\n') == {"b": 2}
    with pytest.raises(AssertionError):
        figures_in(printed)


def test_every_bench_command_is_called_in_some_way() -> None:
    assert {name.split()[0] for name in SMALLEST} | TOO_LONG | ELSEWHERE == set(COMMANDS)
    assert len(COMMANDS) > 10


def calls(tree: ast.AST, name: str) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
            yield node


@pytest.mark.parametrize("name", COMMANDS)
def test_a_bench_command_prints_its_figures_at_its_end_and_nowhere_else(name: str) -> None:
    """What comes after them sets the exit status alone, and no other line goes to stdout by `print`."""
    tree = ast.parse((BENCH / f"{name}.py").read_text())
    (main,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main")
    printed = list(calls(tree, HELPER))
    assert printed and printed[-1] in ast.walk(main)
    lines = [ast.unparse(statement) for statement in main.body]
    place = max(i for i, line in enumerate(lines) if f"{HELPER}(" in line)
    assert lines[place].startswith(f"{HELPER}("), "not within a loop or a branch"
    assert all("sys.exit(" in line for line in lines[place + 1 :])
    assert len([line for line in lines if line.startswith(f"{HELPER}(")]) == 1


@pytest.mark.parametrize("path", sorted(BENCH.glob("*.py")), ids=lambda path: path.stem)
def test_what_a_bench_tells_on_its_way_goes_to_standard_error(path: Path) -> None:
    printed = [call for call in calls(ast.parse(path.read_text()), "print") if path.stem != "result"]
    assert all("file" in {word.arg for word in call.keywords} for call in printed)
