"""A bench command is called, and its figures are the last line that it prints and the only one that is JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.paths import ROOT


def figures(name: str, *words: object) -> dict[str, Any]:
    """Run `python -m bench.NAME` to its end, and return what it found."""
    command = [sys.executable, "-m", f"bench.{name}", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return figures_in(done.stdout)


def figures_in(printed: str) -> dict[str, Any]:
    *before, last = printed.splitlines()
    found: Any = as_json(last)
    assert isinstance(found, dict) and found
    assert [line for line in before if isinstance(as_json(line), dict | list)] == []
    return found


def as_json(line: str) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return None
