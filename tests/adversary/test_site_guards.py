"""Budgets, memories, patients and splits under attack: each attack fails, and succeeds where its guard is removed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.privacy_checks import anchored, peer_memory, unit

CHECKS = [*anchored.CHECKS, *peer_memory.CHECKS, *unit.CHECKS]
MUTATIONS = [
    pytest.param(mutation, id=f"{check.name}: {name}") for check in CHECKS for name, mutation in check.mutations.items()
]


@pytest.mark.federation
@pytest.mark.parametrize("passes", [pytest.param(check.passes, id=check.name) for check in CHECKS])
def test_the_attack_fails(passes: Callable[[], bool]) -> None:
    assert passes()


@pytest.mark.federation
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_attack_succeeds_without_its_guard(mutation: Callable[[], bool]) -> None:
    assert not mutation()
