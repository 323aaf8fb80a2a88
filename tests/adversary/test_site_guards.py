"""Budgets, memories, patients and splits under attack: each attack fails, and succeeds where its guard is removed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.checked import mutated, passing
from tests.privacy_checks import anchored, peer_memory, unit

CHECKS = [*anchored.CHECKS, *peer_memory.CHECKS, *unit.CHECKS]
MUTATIONS = mutated(CHECKS)


@pytest.mark.federation
@pytest.mark.parametrize("passes", passing(CHECKS))
def test_the_attack_fails(passes: Callable[[], bool]) -> None:
    assert passes()


@pytest.mark.federation
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_attack_succeeds_without_its_guard(mutation: Callable[[], bool]) -> None:
    assert not mutation()
