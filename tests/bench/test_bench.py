"""Every bench command ends with its figures as one line of JSON, the last of stdout and the only one that is JSON."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.paths import DATA, ROOT

BENCH = ROOT / "bench"
SEPSIS = DATA / "support2/support2_sepsis_dev.csv"
COMMANDS = sorted(path.stem for path in BENCH.glob("*.py") if "__main__" in path.read_text())
HELPER = "print_result"

SMALLEST = {
    "accounting": "",
    "choices": "--patients 100 --registry {sepsis}",
    "decoding": "--patients 1 --questions 1 --generations 2 --completion 2 --groups 1 --repeats 1",
    "flood": "--slow 2 --bodies 20 --rate 10 --sites 2",
    "exactness": "--sites 1 --sites 2 --rounds 1",
    "grpo": "--prompt 8 9 --groups 1 --generations 2 --completion 2 --repeats 1",
    "grpo by stage": "--model tiny-random --prompt 8 --groups 1 --generations 2 --completion 2 --repeats 1",
    "noise": "--sigma 100 --samples 1000 --repeats 1",
    "poisoning": "--rounds 2 --honest 1 --attack none",
    "questions": "--patients 20 --features 10 --questions 5",
    "round": "--sites 1 --rounds 1 --stock-rounds 1",
    "secagg": "--parameters 1_000 --sites 4 --drop 1",
    "soak": "--rounds 4 --every 2",
    "utility": "--quick --protocol fedsgd --epsilon 8 --runs {tmp}",
}
"""Words of every way to call one, with as little work as it takes."""
SLOW = ("decoding", "exactness", "poisoning", "utility")
"""These train the embedded model."""
TOO_LONG = {"learning", "mutations"}
"""They train a whole demo, or go through every check once more: how they end is read from their code alone."""
DEPLOYED = ("flood", "round", "soak")


def marks(name: str) -> list[pytest.MarkDecorator]:
    found = [pytest.mark.timeout(3600)]
    found += [pytest.mark.slow] * (name in SLOW) + [pytest.mark.deploy] * (name in DEPLOYED)
    if name == "choices":
        found += [pytest.mark.real_data, pytest.mark.skipif(not SEPSIS.exists(), reason="SUPPORT2 is not here")]
    return found


def as_json(line: str) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return None


@pytest.mark.federation
@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in SMALLEST])
def test_a_bench_command_ends_with_one_line_of_json(name: str, tmp_path: Path) -> None:
    words = SMALLEST[name].format(tmp=tmp_path, sepsis=SEPSIS).split()
    command = [sys.executable, "-m", f"bench.{name.split()[0]}", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    *before, last = done.stdout.splitlines()
    figures: Any = as_json(last)
    assert isinstance(figures, dict) and figures
    assert [line for line in before if isinstance(as_json(line), dict | list)] == []


def test_every_bench_command_is_called_in_some_way() -> None:
    assert {name.split()[0] for name in SMALLEST} | TOO_LONG == set(COMMANDS)
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
