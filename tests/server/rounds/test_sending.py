"""What is fetched as the answer to a message is that answer, whatever else nodes send, by Flower's own rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.serverapp import Grid

from common.messages.kinds import Contribution
from common.messages.records import read_reply
from server.provisioning.federation import Federation
from server.rounds import sending
from server.rounds.sending import Answers, drain, pull
from tests.checked import mutated, passing
from tests.clock import Clock
from tests.privacy_checks.answers import CHECKS, FORGED, reply_to
from tests.superlink import SuperLink

PASSING, MUTATIONS = passing(CHECKS), mutated(CHECKS)


def grid(link: SuperLink) -> Grid:
    return cast(Grid, link)


@pytest.mark.parametrize("passes", PASSING)
def test_the_check_passes(passes: Callable[[], bool]) -> None:
    assert passes()


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_check_catches_the_mutation(mutation: Callable[[], bool]) -> None:
    assert not mutation()


def test_a_message_that_a_node_addresses_to_the_program_is_nobody_s_answer(tmp_path: Path) -> None:
    """Flower gives it out in place of the answer that is asked for."""
    link = SuperLink(tmp_path)
    link.push(link.message(FORGED, SUPERLINK_NODE_ID))
    (given,) = link.pull_messages([link.asked])
    assert isinstance(reply := read_reply(given.content), Contribution) and reply.total.any()
    link.push(link.message(replace(FORGED, round=2), SUPERLINK_NODE_ID))
    assert pull(grid(link), link.asked) is None


def test_the_superlink_is_asked_for_answers_that_wait_there_and_every_few_seconds_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, clock = SuperLink(tmp_path), Clock()
    monkeypatch.setattr(sending, "time", clock)
    (tmp_path / "state.db").symlink_to(link.path)
    program: Any = SimpleNamespace(run=SimpleNamespace(run_id=link.run))
    answers = Answers(program, cast(Federation, SimpleNamespace(superlink=tmp_path)))
    assert answers.waiting() is None, "what was sent before may be lost"
    assert answers.waiting() == set()
    link.push(reply_to(link.parcel().message))
    assert answers.waiting() == {link.asked}
    assert pull(grid(link), link.asked) is not None
    assert answers.waiting() == set()
    clock.sleep(6)
    assert answers.waiting() is None and answers.waiting() == set()


def test_where_no_state_can_be_read_any_answer_may_be_there(tmp_path: Path) -> None:
    program: Any = SimpleNamespace(run=SimpleNamespace(run_id=1))
    for federation in (None, cast(Federation, SimpleNamespace(superlink=tmp_path))):
        answers = Answers(program, federation)
        assert [answers.waiting() for _ in range(3)] == [None] * 3


@pytest.mark.parametrize("error", [AttributeError, KeyError, TypeError, ValueError, RecursionError])
def test_what_makes_no_message_is_left_aside(error: type[Exception]) -> None:
    class Broken:
        def pull_messages(self, message_ids: Iterable[str]) -> list[Any]:
            raise error

    assert pull(cast(Grid, Broken()), "m1") is None
    drain(cast(Grid, Broken()))


def test_a_superlink_that_is_down_is_not_taken_for_that() -> None:
    class Down:
        def pull_messages(self, message_ids: Iterable[str]) -> list[Any]:
            raise ConnectionError

    with pytest.raises(ConnectionError):
        pull(cast(Grid, Down()), "m1")
