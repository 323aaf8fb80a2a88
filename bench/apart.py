"""Sites in a process of their own, behind the client of the SuperLink that Flower's server program has.

The messages are those of a run: Flower takes them apart into objects, moves these one by one and puts them together
again, on either side. In place of the SuperLink stands a pipe. A site is its own state machine, and its sum is made up:
no model is there.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto import message_pb2, node_pb2, runtime_pb2
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid.http_grid import HttpGrid

from bench.secagg import Memory
from common.arrays import Integers
from common.errors import Code
from common.identity.keys import new_node_key, new_signing_key, public_text
from common.identity.roster import Member, Roster
from common.messages.kinds import Contribution, Evaluation, Layout, Refusal, Reply, Step, Task
from common.messages.records import read_task, reply_record
from common.secagg.messages import Inbox, Opening, message_of, parts_of
from common.secagg.session import Session, model_sha256
from common.secagg.site import Site
from common.secagg.terms import FEWEST, Limits, terms_of

LAYOUT = "5a" * 32
_ANSWERS: Mapping[str, Any] = {
    "GetNodes": (runtime_pb2.GetNodesRequest, runtime_pb2.GetNodesResponse),
    "PushMessages": (runtime_pb2.PushAppMessagesRequest, runtime_pb2.PushAppMessagesResponse),
    "PullMessages": (runtime_pb2.PullAppMessagesRequest, runtime_pb2.PullAppMessagesResponse),
    "PushObject": (message_pb2.PushObjectRequest, message_pb2.PushObjectResponse),
    "PullObject": (message_pb2.PullObjectRequest, message_pb2.PullObjectResponse),
    "ConfirmMessageReceived": (
        message_pb2.ConfirmMessageReceivedRequest,
        message_pb2.ConfirmMessageReceivedResponse,
    ),
}
"""What is asked of the SuperLink and what it answers."""


def part_of_all(size: int) -> Integers:
    """Return what every site's sum has in it beside its number [size].

    All integers are unlike: of a message whose pieces are the same, Flower moves one.
    """
    return np.random.default_rng(0).integers(-(2**20), 2**20, size)


class Line:
    """Stands for Flower's HTTP client: every request goes through the pipe, and its answer comes back."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._lock = connection, threading.Lock()

    def __getattr__(self, name: str) -> Any:
        answer = _ANSWERS[name][1]

        def ask(request: Any) -> Any:
            with self._lock:
                self._connection.send(name)
                self._connection.send_bytes(request.SerializeToString())
                return answer.FromString(self._connection.recv_bytes())

        return ask


@contextmanager
def sites_apart(count: int, size: int, *, lost: int) -> Iterator[tuple[HttpGrid, Roster]]:
    """Start the sites; yield Flower's grid and the roster of their keys.

    Parameters
    ----------
    count, size
        Sites, and the integers of a sum.
    lost
        How many refuse when they are asked for their sum; in a secure one they have shared keys.
    """
    keys = {f"site-{number:03}": new_signing_key() for number in range(count)}
    now = datetime.now(UTC)
    members = tuple(
        Member(site=name, signing_key=public_text(key), node_key=public_text(new_node_key()), admitted=now.date())
        for name, key in keys.items()
    )
    roster = Roster(federation="bench", version=1, issued=now, members=members)
    ours, theirs = multiprocessing.Pipe()
    private = {name: key.private_bytes_raw() for name, key in keys.items()}
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs, roster, private, size, lost))
    process.start()
    theirs.close()
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1
    grid = HttpGrid(token="bench")
    grid._client = Line(ours)  # type: ignore[assignment]
    grid.set_run(Run.create_empty(1))
    try:
        yield grid, roster
    finally:
        ours.close()
        process.join()


def _serve(connection: Connection, roster: Roster, private: Mapping[str, bytes], size: int, lost: int) -> None:
    """Answer requests until the other end is closed."""
    hospitals = [
        Hospital(name, Ed25519PrivateKey.from_private_bytes(key), roster, number, size, lost=number <= lost)
        for number, (name, key) in enumerate(private.items(), start=1)
    ]
    TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1
    link = Link(dict(enumerate(hospitals, start=1)))
    while True:
        try:
            name = connection.recv()
            request = _ANSWERS[name][0].FromString(connection.recv_bytes())
        except EOFError:
            return
        connection.send_bytes(getattr(link, name)(request).SerializeToString())


class Hospital:
    """A site: its answers, and its state machine of the secure sum that is open."""

    def __init__(
        self, name: str, key: Ed25519PrivateKey, roster: Roster, number: int, size: int, *, lost: bool
    ) -> None:
        self.name, self._key, self._roster, self._number, self._size = name, key, roster, number, size
        self._lost, self._store = lost, Memory()
        self._open: Site | None = None

    def answer(self, kind: str, task: Task) -> Reply:
        """Answer one message."""
        if kind == "query":
            return Layout(self.name, self._size, LAYOUT)
        if kind == "evaluate":
            return Evaluation(self.name, task.round, None)
        if kind == "train.secure":
            return self._step(task)
        if self._lost:
            return Refusal(self.name, int(Code.RUN_FAILED))
        return Contribution(self.name, task.round, task.attempt, self._total(None), None)

    def _total(self, _: int | None) -> Integers:
        return part_of_all(self._size) + self._number

    def _step(self, task: Task) -> Reply:
        assert task.step is not None
        message: Any = message_of(task.step, {})
        if self._lost and isinstance(message, Inbox):
            return Refusal(self.name, int(Code.RUN_FAILED))
        if isinstance(message, Opening):
            assert task.adapter is not None
            model = model_sha256(task.adapter, LAYOUT)
            self._open = Site(
                name=self.name,
                key=self._key,
                roster=self._roster,
                session=Session.of(
                    task.config, self._roster, round=task.round, attempt=task.attempt, model_sha256=model
                ),
                terms=terms_of(task.config, self._size),
                limits=Limits(cohort=FEWEST),
                store=self._store,
                contribute=self._total,
            )
        assert self._open is not None
        parts = parts_of(self._open.take(message))
        return Step(self.name, task.round, task.attempt, parts.head, parts.arrays.get("words"))


class Link:
    """Answers what the server asks of the SuperLink; a site works when its answer is asked for."""

    def __init__(self, hospitals: Mapping[int, Hospital]) -> None:
        self._hospitals = hospitals
        self._objects: dict[str, bytes] = {}
        self._sent: dict[str, Any] = {}
        self._answer: dict[str, bytes] = {}

    def GetNodes(self, _: Any) -> Any:
        """Everybody is there."""
        until = time.time() + 3600
        return runtime_pb2.GetNodesResponse(
            nodes=[node_pb2.NodeInfo(node_id=n, last_activated_at="first", online_until=until) for n in self._hospitals]
        )

    def PushMessages(self, request: Any) -> Any:
        """Take messages, and ask for the objects that are not here."""
        trees = dict(
            zip((m.metadata.message_id for m in request.messages_list), request.message_object_trees, strict=True)
        )
        self._sent |= trees
        needed = {node.object_id for tree in trees.values() for node in iterate_object_tree(tree)}
        return runtime_pb2.PushAppMessagesResponse(
            message_ids=list(trees), objects_to_push=sorted(needed - self._objects.keys()), session_id="1"
        )

    def PushObject(self, request: Any) -> Any:
        """Keep an object."""
        self._objects[request.object_id] = request.object_content
        return message_pb2.PushObjectResponse(stored=True)

    def PullMessages(self, request: Any) -> Any:
        """Have a site answer, and give the head of its answer."""
        (number,) = request.message_ids
        if number not in self._sent:
            return runtime_pb2.PullAppMessagesResponse()
        contents = {
            node.object_id: self._objects[node.object_id] for node in iterate_object_tree(self._sent.pop(number))
        }
        message: Any = inflate_object_from_contents(number, contents)
        message.metadata.__dict__["_message_id"] = number
        hospital = self._hospitals[message.metadata.dst_node_id]
        with no_object_id_recompute():
            reply = Message(
                reply_record(hospital.answer(message.metadata.message_type, read_task(message.content))),
                reply_to=message,
            )
            reply.metadata.__dict__["_message_id"] = reply.object_id
            self._answer = {name: part.deflate() for name, part in get_all_nested_objects(reply).items()}
            return runtime_pb2.PullAppMessagesResponse(
                messages_list=[message_to_proto(remove_content_from_message(reply))],
                message_object_trees=[get_object_tree(reply)],
            )

    def PullObject(self, request: Any) -> Any:
        """Give a part of the answer."""
        content = self._answer.pop(request.object_id)
        return message_pb2.PullObjectResponse(object_found=True, object_available=True, object_content=content)

    def ConfirmMessageReceived(self, _: Any) -> Any:
        """Forget the answer."""
        self._answer.clear()
        return message_pb2.ConfirmMessageReceivedResponse()
