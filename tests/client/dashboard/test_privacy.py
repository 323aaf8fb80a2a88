"""What is checked of the privacy of a site's pages holds, and each check fails on code with a guard taken out."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.checked import mutated, passing
from tests.privacy_checks.dashboard import CHECKS


@pytest.mark.parametrize("passes", passing(CHECKS))
def test_a_check_holds(passes: Callable[[], bool]) -> None:
    assert passes()


@pytest.mark.parametrize("survives", mutated(CHECKS))
def test_a_check_fails_without_its_guard(survives: Callable[[], bool]) -> None:
    assert not survives()
