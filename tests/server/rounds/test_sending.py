"""What is fetched as the answer to a message is that answer, whatever else nodes send, by Flower's own rules."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from flwr.app import Message
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.serverapp import Grid

from bench.waiting import PATIENCE, until
from common.messages.kinds import Contribution
from common.messages.records import read_reply
from server.provisioning.federation import Federation
from server.rounds import sending
from server.rounds.sending import Answers, drain, pull
from tests.checked import mutated, passing
from tests.privacy_checks.answers import CHECKS, FORGED, reply_to
from tests.superlink import SuperLink

PASSING, MUTATIONS = passing(CHECKS), mutated(CHECKS)


def grid(link: SuperLink) -> Grid:
    return cast(Grid, link)


class Program:
    """What the ServerApp of the run sees of a SuperLink."""

    def __init__(self, link: SuperLink) -> None:
        self.link, self.run = link, SimpleNamespace(run_id=link.run)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return self.link.pull_messages(message_ids)


def answers_of(program: Program, folder: Path) -> Answers:
    """Return the answers of a federation whose SuperLink this is."""
    (folder / "state.db").symlink_to(program.link.path)
    return Answers(cast(Grid, program), cast(Federation, SimpleNamespace(superlink=folder)))


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


def test_the_superlink_is_asked_for_answers_that_wait_there_and_for_messages_that_it_has_lost(tmp_path: Path) -> None:
    link = SuperLink(tmp_path)
    answers = answers_of(Program(link), tmp_path)
    assert answers.waiting({link.asked}) == set()
    assert answers.waiting({link.asked, "lost"}) == {"lost"}
    link.push(reply_to(link.parcel().message))
    assert answers.waiting({link.asked}) == {link.asked}
    assert answers.fetch(link.asked) is not None
    assert answers.waiting({link.asked}) == {link.asked}, "it is not known any more"


def test_an_answer_that_has_parts_missing_is_left_until_its_site_has_sent_them(tmp_path: Path) -> None:
    """Once its head is fetched, Flower takes no part of it from a site that starts anew."""
    link = SuperLink(tmp_path)
    answers, reply = answers_of(Program(link), tmp_path), reply_to(link.parcel().message)
    link.push_head(reply)
    assert answers.waiting({link.asked}) == set()
    link.push(reply)
    assert answers.waiting({link.asked}) == {link.asked}
    assert answers.fetch(link.asked) is not None


def test_where_no_state_can_be_read_any_answer_may_be_there(tmp_path: Path) -> None:
    program: Any = SimpleNamespace(run=SimpleNamespace(run_id=1))
    for federation in (None, cast(Federation, SimpleNamespace(superlink=tmp_path))):
        answers = Answers(program, federation)
        assert [answers.waiting({"m1"}) for _ in range(3)] == [{"m1"}] * 3


class Withheld(Program):
    """Waits, as Flower does, for the parts of a message of which some node sent the head."""

    def __init__(self, link: SuperLink) -> None:
        super().__init__(link)
        self.came, self.pulled = threading.Event(), 0

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        self.pulled += 1
        found = super().pull_messages(message_ids)
        assert self.came.wait(PATIENCE)
        return found


def test_who_keeps_the_parts_of_a_message_back_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "_STRAY_SECONDS", 0.01)
    monkeypatch.setattr(sending, "_ANSWER_SECONDS", 0.01)
    link = SuperLink(tmp_path)
    link.push(reply_to(link.parcel().message))
    withheld = Withheld(link)
    drain(cast(Grid, withheld))
    answers = answers_of(withheld, tmp_path)
    assert answers.fetch(link.asked) is None and answers.fetch(link.asked) is None
    assert answers.under_way(link.asked) and answers.waiting({link.asked}) == {link.asked}, "fetched, and not here yet"
    withheld.came.set()
    until(lambda: (found := answers.fetch(link.asked)) is not None and found.has_content(), lambda: "no answer")
    assert withheld.pulled == 2, "once for what nobody asked for, once for the answer"
    assert not answers.under_way(link.asked)


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
