"""Checks of privacy as parameters of tests: that each passes, and each mutation that it must catch, by their names."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest

from tests.privacy_checks import Check


def passing(checks: Iterable[Check], long: Collection[str] = ()) -> list[Any]:
    """Return what runs each check on the code as it is; True is expected. Those named take long."""
    marks = {name: [pytest.mark.long] for name in long}
    return [pytest.param(check.passes, id=check.name, marks=marks.get(check.name, [])) for check in checks]


def mutated(checks: Iterable[Check]) -> list[Any]:
    """Return what runs each check on code with a guard taken out; False is expected."""
    return [
        pytest.param(survives, id=f"{check.name}: {name}")
        for check in checks
        for name, survives in check.mutations.items()
    ]
