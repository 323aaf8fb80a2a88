"""What a dishonest coordinator gets of a whole site within secure sums: nothing of a patient, no way round a guard.

As in test_attacks.py each attack is tried with its guard removed too, and then it works.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from client.privacy import mechanism
from client.privacy.mechanism import Private
from client.site.exclusions import EXCLUSIONS_FILE
from client.training import secure
from common import synthetic
from common.arrays import Vector
from common.config import RunConfig
from common.errors import Code, FedReasonError
from common.messages.kinds import Step
from simulation.prepare import prepare
from tests.adversary.failures import Changes, bare, fails, kind_of, no_numbers
from tests.adversary.machine import changed
from tests.checked import mutated, passing
from tests.privacy_checks.secure_cohort import CHECKS
from tests.privacy_checks.wiring import _unchecked
from tests.secure_session import Coordinator, told
from tests.whole_site import FakeSite, pointing, recorded, run_of

_SITE = "north"
_FIVE = {"hospitals": ["coast", "east", "north", "south", "west"], "patients": 4}
_SHARED = {"noise": "distributed", "colluders": 1, "dropouts": 1}


def secure_run(name: str = "small", sites: int = 5, **privacy: Any) -> RunConfig:
    federation = {"sites": sites, "quorum": sites - 1, "population": 100, "aggregation": "secure"}
    return run_of(name, federation=federation, privacy=_SHARED | privacy, simulation=_FIVE)


@contextlib.contextmanager
def hospitals(config: RunConfig) -> Iterator[dict[str, Path]]:
    with tempfile.TemporaryDirectory() as name:
        yield prepare(config, synthetic.codebook(), Path(name))


def inbox_of(here: Coordinator) -> Any:
    """Go up to the third exchange and return what asks the site for its sum."""
    here.exchange()
    here.exchange()
    return here.task(here.server.proceed()[_SITE])


# --- What a patient decides ---


FAILURES: dict[str, tuple[Any, Changes]] = {
    "the sampler fails": (fails(IndexError), {(Private, "spared"): bare}),
    "memory does not suffice": (fails(MemoryError), {(Private, "spared"): bare}),
    "the gradient is no number": (no_numbers, {(mechanism, "clipped"): _unchecked}),
}


def outcome(name: str, present: bool, changes: Changes) -> tuple[list[str], int]:
    """Return the kinds of the site's answers from the third message on, and how many lines its ledger then has."""
    config = secure_run()
    with hospitals(config) as folders, changed(changes):
        here = Coordinator(config, folders, opened=FakeSite)
        site = here.places[_SITE]
        target = site.training(config)[0].id
        (folders[_SITE] / EXCLUSIONS_FILE).write_text("" if present else f"{target}\n")

        def gradient(patient: str) -> Vector:
            return FAILURES[name][0]() if patient == target else pointing(patient)

        kinds = []
        with recorded(folders[_SITE], gradient) as seen:
            here.exchange()
            here.exchange()
            for _ in range(3):
                tasks = {other: here.task(message) for other, message in here.server.proceed().items()}
                replies = {
                    other: seen.ask(here.places[other], "train.secure", task)  # type: ignore[arg-type]
                    for other, task in tasks.items()
                }
                kinds.append(kind_of(replies.get(_SITE)))
                for reply in replies.values():
                    if isinstance(reply, Step):
                        here.server.take(told(reply))
            assert not any(b"SENTINEL" in content for content in seen.sent)
        return kinds, seen.lines()


@pytest.mark.long
@pytest.mark.parametrize("name", FAILURES)
def test_with_a_patient_and_without_a_secure_sum_is_answered_and_charged_alike(name: str) -> None:
    there, gone = (outcome(name, present, {}) for present in (True, False))
    assert there == gone == (["Step"] * 3, 1)


@pytest.mark.parametrize("name", FAILURES)
def test_without_its_guard_a_secure_sum_tells_that_the_patient_is_there(name: str) -> None:
    guard = FAILURES[name][1]
    assert outcome(name, True, guard) != outcome(name, False, guard)


# --- Budget ---


@pytest.mark.long
def test_sessions_that_are_broken_off_cost_nothing_before_the_sum_and_never_more_than_the_cap() -> None:
    with hospitals(secure_run()) as folders:
        path = folders[_SITE] / "policy.toml"
        path.write_text(path.read_text().replace("epsilon = 1000000.0", "epsilon = 4.0"))
        for number in range(3):
            here = Coordinator(secure_run(f"early-{number}"), folders, opened=FakeSite)
            here.exchange()
            here.exchange()
            assert here.places[_SITE].ledger.entries() == []
        code, spent = None, 0
        while code is None:
            here = Coordinator(secure_run(f"late-{spent}"), folders, opened=FakeSite)
            inbox = inbox_of(here)
            try:
                secure.take_part(here.places[_SITE], inbox)
            except FedReasonError as error:
                code = error.code
            ledger = here.places[_SITE].ledger
            spent += code is None
            assert len(ledger.entries()) == spent and ledger.epsilon <= 4.0
        assert code is Code.BUDGET_SPENT and spent > 0
        before = len(ledger.entries())
        for _ in range(2):
            with pytest.raises(FedReasonError):
                secure.take_part(here.places[_SITE], inbox)
        assert len(ledger.entries()) == before


# --- Whose keys, and how many ---


@pytest.mark.parametrize("passes", passing(CHECKS))
def test_the_attackfails(passes: Callable[[], bool]) -> None:
    assert passes()


@pytest.mark.parametrize("mutation", mutated(CHECKS))
def test_the_attack_succeeds_without_its_guard(mutation: Callable[[], bool]) -> None:
    assert not mutation()
