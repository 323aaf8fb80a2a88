"""Whoever ends the work on a private task does not see whether it had ended: the checks, and what each catches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from client.training.states import Attempts, State, read_attempts
from tests.checked import mutated, passing
from tests.privacy_checks.ended import ATTEMPT, CHECKS, SHORT, TASK, Scene

MUTATIONS = mutated(CHECKS)


@pytest.mark.parametrize("passes", passing(CHECKS))
def test_the_check_passes(passes: Callable[[], bool]) -> None:
    assert passes()


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_check_catches_the_mutation(mutation: Callable[[], bool]) -> None:
    assert not mutation()


@pytest.mark.parametrize("how", ["run", "pause", "stop"])
def test_what_was_computed_before_the_work_was_ended_is_kept_nowhere_and_held_against_nobody(
    tmp_path: Path, how: str
) -> None:
    scene = Scene(tmp_path, SHORT)
    scene.handled(how)
    assert scene.inbox.remembered("train", TASK) is None
    assert Attempts(scene.folder).state(ATTEMPT) is State.SILENT and read_attempts(scene.folder).deaths == {}


def test_an_answer_that_left_is_sent_again_also_where_the_site_is_paused_or_the_run_ends(tmp_path: Path) -> None:
    """Nobody learns more by it, and a run that goes on would else wait for nothing."""
    scene = Scene(tmp_path, SHORT)
    answers = [scene.handled(""), scene.handled("pause"), scene.handled("run"), scene.handled("")]
    assert [sent for sent, _ in answers] == ["Contribution", "Contribution", "", "Contribution"]
