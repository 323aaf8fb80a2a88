"""A site that is killed anywhere in a secure sum: the check holds, and catches what it is for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.checked import mutated, passing
from tests.privacy_checks.secure_killed import CHECKS

MUTATIONS = mutated(CHECKS)
pytestmark = pytest.mark.federation


@pytest.mark.parametrize("passes", passing(CHECKS))
def test_the_check_passes(passes: Callable[[], bool]) -> None:
    assert passes()


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_check_catches_the_mutation(mutation: Callable[[], bool]) -> None:
    assert not mutation()
