"""The parts of the mechanism are put together as they must be: the checks of the whole site, and what each catches."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.checked import mutated, passing
from tests.privacy_checks.wiring import CHECKS

MUTATIONS = mutated(CHECKS)


@pytest.mark.parametrize("passes", passing(CHECKS))
def test_the_check_passes(passes: Callable[[], bool]) -> None:
    assert passes()


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_check_catches_the_mutation(mutation: Callable[[], bool]) -> None:
    assert not mutation()
