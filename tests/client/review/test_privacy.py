"""The checks of a review's privacy hold, and each fails on code with a guard taken out."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.checked import mutated, passing
from tests.privacy_checks.review import CHECKS


@pytest.mark.parametrize("passes", passing(CHECKS))
def test_a_check_holds(passes: Callable[[], bool]) -> None:
    assert passes()


@pytest.mark.parametrize("survives", mutated(CHECKS))
def test_a_check_fails_without_its_guard(survives: Callable[[], bool]) -> None:
    assert not survives()
