"""The checks of privacy: which hold, and which mutations of the code they catch. `python -m bench.mutations`.

A check that cannot fail proves nothing, so each also runs on code that was broken on purpose. Prints a table, and JSON
(`checks`, `passed`, `mutations`, `caught`). The exit status is 0 where all pass and all are caught.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys

import typer
from rich.console import Console
from rich.table import Table

import tests.privacy_checks
from bench.result import print_result
from tests.privacy_checks import Check


def checks() -> list[Check]:
    """Return the checks of every module of tests/privacy_checks."""
    modules = sorted(module.name for module in pkgutil.iter_modules(tests.privacy_checks.__path__))
    found = [importlib.import_module(f"tests.privacy_checks.{name}") for name in modules]
    return [check for module in found for check in module.CHECKS]


def main() -> None:
    """Run every check on the code as it is, and on every mutation."""
    table = Table("check", "passes", "mutation", "caught")
    counted = dict.fromkeys(("checks", "passed", "mutations", "caught"), 0)
    for check in checks():
        passes = check.passes()
        counted["checks"] += 1
        counted["passed"] += passes
        for number, (mutation, survives) in enumerate(check.mutations.items()):
            caught = not survives()
            counted["mutations"] += 1
            counted["caught"] += caught
            first = (check.name, "yes" if passes else "NO") if number == 0 else ("", "")
            table.add_row(*first, mutation, "yes" if caught else "NO")
    Console().print(table)
    print_result(counted)
    if counted["checks"] != counted["passed"] or counted["mutations"] != counted["caught"]:
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
