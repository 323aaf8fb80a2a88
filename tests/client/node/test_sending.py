"""An answer arrives once and whole, wherever SuperLink or site die while it is sent; the rules are Flower's own.

Flower's handlers of the Fleet API work on Flower's own database in a file, which outlives the SuperLink that dies.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from flwr.proto.node_pb2 import Node as ProtoNode
from flwr.superlink.servicer.fleet import fleet_handlers

from client.node.computing import Stopped
from client.node.inbox import Inbox
from client.node.node import Node
from client.node.outbox import Outbox
from client.node.reach import Reach
from client.node.running import Running
from client.node.ticks import Ticks
from client.node.worker import Fleet, Lost, Parcel, reply_parcel
from common.messages.kinds import Contribution, Refusal, Reply, Task
from common.messages.records import read_task, reply_record
from tests.superlink import SuperLink

CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "PushMessages": fleet_handlers.push_messages,
    "PushObject": fleet_handlers.push_object,
    "PullMessages": lambda request, state: fleet_handlers.pull_messages(request, state, state.object_store),
    "PullObject": fleet_handlers.pull_object,
}


class Killed(BaseException):
    """The site's process ends here: nothing after it is done."""


@dataclass
class Line:
    """The site's client of the Fleet API: calls reach the SuperLink, but for one at which something dies."""

    link: SuperLink
    dies: int
    heard: bool
    """Whether the SuperLink did what the call asks before the death: stored it and answered nobody."""
    error: BaseException
    calls: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Callable[[Any], Any]:
        if name not in CALLS:
            raise AttributeError(name)

        def call(request: Any) -> Any:
            with self._lock:
                dead = isinstance(self.error, Killed) and self.calls > self.dies
                here, self.calls = self.calls == self.dies, self.calls + 1
                if dead or (here and not self.heard):
                    self._die()
                answer = CALLS[name](request, self.link.state)
                if here:
                    self._die()
                return answer

        return call

    def _die(self) -> None:
        if not isinstance(self.error, Killed):
            self.link.start()
        raise self.error


def lost() -> httpx.ConnectError:
    return httpx.ConnectError("down")


def site(link: SuperLink, folder: Path, line: Line, replies: Iterator[Reply]) -> Node:
    """Return a node as a start of its process makes it, whose every computation has another result."""
    fleet = fleet_of(link, line)
    fleet.require_running = lambda run: None  # type: ignore[method-assign]
    nothing: Callable[..., None] = lambda *_, **__: None  # noqa: E731
    node = object.__new__(Node)

    def answer(*_: Any) -> Reply:
        reply = next(replies)
        if isinstance(reply, Refusal):
            raise Stopped
        return reply

    stop: Any = SimpleNamespace(is_set=lambda: False, wait=nothing)
    status: Any = SimpleNamespace(
        announce=nothing, answered=nothing, sent=nothing, stage=nothing, contact=nothing, state="connected"
    )
    computing: Any = SimpleNamespace(answer=answer, stop=nothing, held=lambda: None)
    running = Running(fleet.require_running, nothing, every=60.0)
    vars(node).update(
        _stop=stop,
        _status=status,
        _computing=computing,
        _running=running,
        _ticks=Ticks(stop, status, running, computing),
        _inbox=Inbox(folder / "inbox"),
        _outbox=Outbox(folder / "outbox", 0),
        _config=SimpleNamespace(name="north"),
        _fleet=fleet,
        _in_hand=None,
        _taken=0.0,
        _active=0.0,
        _reach=Reach(lambda: None),
        _rest=nothing,
    )
    return node


def fleet_of(link: SuperLink, line: Line) -> Fleet:
    fleet = object.__new__(Fleet)
    vars(fleet).update(_client=line, _node=ProtoNode(node_id=link.node), contact=0.0, _claimed=None, _at_once=4)
    return fleet


def sums() -> Iterator[Contribution]:
    for number in itertools.count(1):
        yield Contribution("north", 1, 0, np.full(50, number, dtype=np.int64), None)


def calls_of_a_send(folder: Path) -> int:
    link = SuperLink(folder)
    node = site(link, folder, line := Line(link, -1, False, lost()), sums())
    node._handle(link.parcel())
    assert [type(reply) for reply in link.answers()] == [Contribution]
    return line.calls


@pytest.fixture(scope="module")
def length(tmp_path_factory: pytest.TempPathFactory) -> int:
    """How many calls a send takes: the header and each object."""
    return calls_of_a_send(tmp_path_factory.mktemp("length"))


def moments(length: int) -> list[tuple[int, bool]]:
    """After the header; between objects; after one that was stored and not answered; after everything."""
    assert length > 3
    return [(0, True), (2, False), (2, True), (length - 1, True)]


def the_first_answer_once(link: SuperLink) -> None:
    (reply,) = link.answers()
    assert isinstance(reply, Contribution) and set(reply.total) == {1}
    assert link.state.num_message_res() == 1 and link.answers() == []


@pytest.mark.long
def test_a_superlink_that_dies_at_any_moment_gets_the_answer_once_and_whole(tmp_path: Path, length: int) -> None:
    for number, (at, heard) in enumerate(moments(length)):
        (folder := tmp_path / str(number)).mkdir()
        link = SuperLink(folder)
        site(link, folder, Line(link, at, heard, lost()), sums())._handle(link.parcel())
        the_first_answer_once(link)


@pytest.mark.long
def test_a_site_killed_at_any_moment_sends_the_same_answer_and_never_another(tmp_path: Path, length: int) -> None:
    for number, (at, heard) in enumerate(moments(length)):
        (folder := tmp_path / str(number)).mkdir()
        link, replies = SuperLink(folder), sums()
        parcel = link.parcel()
        node = site(link, folder, Line(link, at, heard, Killed()), replies)
        node._inbox.keep(parcel.to_bytes())
        with pytest.raises(Killed):
            node._handle(parcel)
        restarted = site(link, folder, Line(link, -1, False, lost()), replies)
        taken = restarted._next()
        assert taken == parcel
        restarted._handle(taken)
        the_first_answer_once(link)


def test_an_answer_whose_upload_expired_is_sent_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = SuperLink(tmp_path)
    node = site(link, tmp_path, Line(link, 1, False, lost()), sums())
    again = node._fleet.send

    def expired(parcel: Parcel) -> None:
        with link.state.session() as session:
            for (number,) in session.connection().exec_driver_sql("select session_id from object_push_sessions").all():
                link.state._cleanup_push_session(number, cleanup_messages=True)
        again(parcel)

    attempts = iter((again, expired))
    monkeypatch.setattr(node._fleet, "send", lambda parcel: next(attempts, again)(parcel))
    node._handle(link.parcel())
    the_first_answer_once(link)


def test_a_site_told_to_stop_sends_the_refusal_it_had_begun_when_it_is_back(tmp_path: Path) -> None:
    """The SuperLink that has a refusal's header takes no sum in its place: the coordinator would wait for neither."""
    for number, error in enumerate((lost(), Killed())):
        (folder := tmp_path / str(number)).mkdir()
        link = SuperLink(folder)
        parcel, replies = link.parcel(), itertools.chain([Refusal("north", 0)], sums())
        node = site(link, folder, Line(link, 1, False, error), replies)
        node._inbox.keep(parcel.to_bytes())
        with pytest.raises((Stopped, Killed)):
            node._handle(parcel)
        restarted = site(link, folder, Line(link, -1, False, lost()), replies)
        taken = restarted._next()
        assert taken is not None
        restarted._handle(taken)
        (reply,) = link.answers()
        assert isinstance(reply, Refusal) and link.state.num_message_res() == 1


def test_an_object_that_is_not_stored_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = SuperLink(tmp_path)
    node = site(link, tmp_path, Line(link, -1, False, lost()), sums())
    monkeypatch.setattr(link.state, "store_object", lambda *_: False)
    sent: list[Parcel] = []
    monkeypatch.setattr(node, "_send", lambda parcel, give_up: sent.append(parcel))
    node._handle(link.parcel())
    with pytest.raises(Lost):
        node._fleet.send(sent[0])


@pytest.mark.parametrize("dies", [1, 2, 3])
def test_a_message_of_which_a_part_was_lost_on_its_way_is_taken_up_with_that_part(dies: int, tmp_path: Path) -> None:
    """The SuperLink gives its head out once."""
    link = SuperLink(tmp_path)
    line = Line(link, dies, heard=False, error=lost())
    fleet = fleet_of(link, line)
    with pytest.raises(Lost):
        fleet.receive()
    assert (parcel := fleet.receive()) is not None
    assert isinstance(read_task(parcel.message.content), Task)
    assert line.calls == 1 + len(parcel.objects) + 1, "the head once, each part once, and the one that was lost again"
    assert fleet.receive() is None


class Counting:
    """Counts how many parts are under way at once, each for a moment."""

    def __init__(self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most, self._now, self._held, call = 0, 0, threading.Lock(), fleet._call

        def counted(method: Any, request: Any) -> Any:
            with self._held:
                self._now += 1
                self.most = max(self.most, self._now)
            time.sleep(0.05)
            try:
                return call(method, request)
            finally:
                with self._held:
                    self._now -= 1

        monkeypatch.setattr(fleet, "_call", counted)


def test_after_an_upload_that_was_cut_the_parts_go_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several at once on a slow line none may be whole before Flower gives the message up."""
    link = SuperLink(tmp_path)
    fleet = fleet_of(link, Line(link, -1, False, lost()))
    parcel = reply_parcel(link.parcel().message, reply_record(next(sums())))
    with monkeypatch.context() as cut:
        cut.setitem(CALLS, "PushObject", lambda request, state: SimpleNamespace(stored=False))
        at_first = Counting(fleet, cut)
        with pytest.raises(Lost):
            fleet.send(parcel)
    then = Counting(fleet, monkeypatch)
    fleet.send(parcel)
    assert at_first.most > 1 == then.most
    assert [type(reply) for reply in link.answers()] == [Contribution]


def test_a_site_that_waits_goes_on_as_soon_as_a_heartbeat_was_answered() -> None:
    """From then on the coordinator takes it for there, and waits for it."""
    node, fleet = object.__new__(Node), SimpleNamespace(contact=1.0)
    waited: list[float] = []

    def wait(seconds: float) -> bool:
        waited.append(seconds)
        fleet.contact += len(waited) == 3
        return False

    vars(node).update(_fleet=fleet, _stop=SimpleNamespace(wait=wait))
    node._rest(60.0)
    assert len(waited) == 3
    fleet.contact, waited[:] = 5.0, [0.0] * 9
    node._rest(0.01)
    assert len(waited) > 9 and max(waited) <= 1.0
