"""The checks of a secure sum in a run hold, and each catches what it is for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.privacy_checks.secure_run import CHECKS

MUTATIONS = [
    pytest.param(mutation, id=f"{check.name}: {name}") for check in CHECKS for name, mutation in check.mutations.items()
]


@pytest.mark.parametrize("passes", [pytest.param(check.passes, id=check.name) for check in CHECKS])
def test_the_check_passes(passes: Callable[[], bool]) -> None:
    assert passes()


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_check_catches_the_mutation(mutation: Callable[[], bool]) -> None:
    assert not mutation()
