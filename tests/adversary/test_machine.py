"""Bytes that depend on a record have a ledger line before them, whatever is asked and whatever breaks."""

from __future__ import annotations

import pytest

from client.privacy.ledger import Ledger
from tests.adversary.machine import SiteMachine, changed, stepping
from tests.privacy_checks.wiring import CHARGED_AFTER, _only_first

MET = {"silent", "refused", "answered train", "answered evaluate", "answered query"}


def test_a_few_hundred_steps_break_nothing() -> None:
    met = {"refused", "answered train"}  # chance may leave the others out
    stepping(300, 60, met)
    assert SiteMachine.met.keys() >= met


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_10_000_steps_break_nothing() -> None:
    stepping(10_000, 100)
    assert SiteMachine.met.keys() >= MET | {"killed", "killed after coins", "disk full"}


@pytest.mark.parametrize(
    "mutation",
    [
        pytest.param(CHARGED_AFTER, id="charged after the work"),
        pytest.param({(Ledger, "charge"): _only_first}, id="retries are not charged"),
    ],
)
def test_within_1_000_steps_a_site_that_charges_otherwise_is_found_out(mutation: dict) -> None:
    with changed(mutation), pytest.raises(AssertionError):
        stepping(950, 50)
    assert SiteMachine.steps < 1000
