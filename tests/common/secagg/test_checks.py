"""The checks of secure aggregation hold, and each catches the code broken on purpose."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.checked import mutated, passing
from tests.privacy_checks.secagg import CHECKS

MUTATIONS = mutated(CHECKS)


@pytest.mark.parametrize("passes", passing(CHECKS, long=["secure aggregation: keys and nonces"]))
def test_the_check_passes(passes: Callable[[], bool]) -> None:
    assert passes()


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_check_catches_the_mutation(mutation: Callable[[], bool]) -> None:
    assert not mutation()
