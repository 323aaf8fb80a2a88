"""The tests themselves: a file has one claim, no test hides another, and none imports from a file of tests."""

from __future__ import annotations

import ast
import tomllib
from collections import Counter
from dataclasses import dataclass, field

import pytest

from tests.conftest import pytest_collection_modifyitems
from tests.paths import ROOT

LONGEST = 400
PATIENCE = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["timeout"]
MINUTE = 60
PROFILE = {"tests/conftest.py", "tests/laws.py"}


def faults(path: str, text: str) -> list[str]:
    """What a file of tests does that it must not."""
    tree = ast.parse(text)
    found = [] if ast.get_docstring(tree) or path.endswith("__init__.py") else ["says nothing of what it is for"]
    if text.count("\n") > LONGEST:
        found.append("is more than one idea")
    functions = Counter(node.name for node in tree.body if isinstance(node, ast.FunctionDef))
    found += [f"defines {name} twice" for name, often in functions.items() if often > 1]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").rpartition(".")[2].startswith("test_"):
            found.append(f"imports from {node.module}")
        if path not in PROFILE and isinstance(node, ast.keyword) and node.arg == "suppress_health_check":
            found += [] if isinstance(node.value, ast.Name) else ["has health checks of its own"]
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.timeout":
            found += [] if ast.literal_eval(node.args[0]) > PATIENCE else ["gives up sooner than others"]
        elif isinstance(node, ast.Call):
            waits = [one.value for one in node.keywords if one.arg == "timeout"]
            waits += node.args[:1] if ast.unparse(node.func).rpartition(".")[2] in ("wait", "join") else []
            numbers = [one.value for one in waits if isinstance(one, ast.Constant) and type(one.value) in (int, float)]
            found += ["has a patience of its own" for seconds in numbers if PATIENCE > seconds >= MINUTE]
        if path not in PROFILE and isinstance(node, ast.Call) and ast.unparse(node.func) == "settings":
            found += ["has a deadline of its own" for keyword in node.keywords if keyword.arg == "deadline"]
    return found


def test_every_file_of_tests_keeps_the_rules() -> None:
    files = {str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / "tests").rglob("*.py")}
    assert len(files) > 150
    assert {path: found for path, text in files.items() if (found := faults(path, text))} == {}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "says nothing"),
        ('"""A claim."""\n' + "\n" * LONGEST, "more than one idea"),
        ('"""A claim."""\ndef test_a(): ...\ndef test_a(): ...\n', "test_a twice"),
        ('"""A claim."""\nfrom tests.common.test_config import helper\n', "imports from tests.common.test_config"),
        ('"""A claim."""\n@pytest.mark.timeout(60)\ndef test_a(): ...\n', "gives up sooner"),
        ('"""A claim."""\nsubprocess.run("true", timeout=60)\n', "patience of its own"),
        ('"""A claim."""\nprocess.wait(400)\n', "patience of its own"),
        ('"""A claim."""\n@settings(deadline=None)\ndef test_a(): ...\n', "deadline of its own"),
        ('"""A claim."""\n@settings(suppress_health_check=[HealthCheck.too_slow])\ndef test_a(): ...\n', "health"),
    ],
)
def test_a_file_that_breaks_a_rule_is_found(text: str, told: str) -> None:
    (found,) = faults("tests/test_new.py", text)
    assert told in found


@dataclass
class Item:
    """A test, as far as its place and marks go."""

    path: str
    marks: set[str] = field(default_factory=set)
    fixturenames: tuple[str, ...] = ()

    def get_closest_marker(self, name: str) -> bool:
        return name in self.marks

    def add_marker(self, name: str) -> None:
        self.marks.add(name)


def test_the_files_that_take_longest_begin_beside_deployments_and_what_has_the_small_model_is_marked() -> None:
    items = [Item("a"), Item("b"), Item("c", fixturenames=("small_model",)), Item("d", {"deploy"}), Item("b", {"slow"})]
    items += [Item("e", {"deploy"}), Item("d"), Item("e", {"slow"})]
    pytest_collection_modifyitems(items)  # type: ignore[arg-type]
    assert "".join(item.path for item in items) == "eebbddca"
    marks = [item.marks for item in items]
    assert marks == [{"deploy"}, {"slow"}, set(), {"slow"}, {"deploy"}, set(), {"model"}, set()]
