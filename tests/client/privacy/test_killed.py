"""A site killed at random moments on its whole way from coins to network never leaves anything uncharged."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.privacy_checks.killed import CHECKS, check_killed

CHECK = CHECKS[0]


@pytest.mark.slow
def test_killed_200_times_nothing_left_uncharged_and_the_site_goes_on() -> None:
    assert check_killed(200)


@pytest.mark.federation
def test_the_check_passes() -> None:
    assert CHECK.passes()


@pytest.mark.federation
@pytest.mark.parametrize("mutation", CHECK.mutations.values(), ids=CHECK.mutations.keys())
def test_the_check_fails_on_a_broken_site(mutation: Callable[[], bool]) -> None:
    assert not mutation()
