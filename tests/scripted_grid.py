"""A Grid whose nodes do what a test says, with the rules of Flower's SuperLink that the exchange has to live with.

A node works on one message at a time, in order. A message to a node that is away is thrown away when its answer is
asked for, and an answer without its message is not accepted. An answer is given out once.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Error, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError
from flwr.supercore.run import Run

from common.arrays import adapter_sha256
from common.config import RunConfig
from common.messages.kinds import Contribution, Estimate, Evaluation, Layout, Reply, Task
from common.messages.records import read_task, reply_record
from common.stream import Stream
from server.provisioning.federation import Federation
from server.rounds.grid import GridExchange
from server.rounds.loop import Progress, largest_part, run_rounds
from server.rounds.standing import FILE, StandingFile
from server.rounds.store import RunStore

SIZE = 4
LAYOUT = "5a" * 32
Handler = Callable[[str, Task], Reply | Error | None]


def contribution(site: str, task: Task) -> Contribution:
    """Return integers that depend on the site, the round and every bit of the adapter."""
    assert task.adapter is not None
    stream = Stream.named("contribution", site, task.round, task.attempt, task.adapter.tobytes().hex())
    most = min(2**42, largest_part(task.config))
    total = np.array([stream.below(2 * most) - most for _ in range(SIZE)], dtype=np.int64)
    return Contribution(site, task.round, task.attempt, total, {"reward": 1.0, "rollouts": 2})


class Node:
    """A site that answers as it should, until a test changes `handle`.

    `asked` holds every message it has worked on, by kind and round. A handler that returns None works on and on;
    one that returns an Error is a reply of Flower's own.
    """

    def __init__(self, number: int, site: str) -> None:
        self.number, self.site = number, site
        self.online, self.since = True, "first"
        self.left: float | None = None
        self.asked: list[tuple[str, int]] = []
        self.tasks: list[Task] = []
        self.queue: list[Message] = []
        self.working: Message | None = None
        self.handle: Handler = self.answer

    def answer(self, kind: str, task: Task) -> Reply | Error | None:
        """Answer as a site does."""
        if kind == "query":
            return Layout(self.site, SIZE, LAYOUT)
        if kind == "query.ask":
            return Estimate(self.site, 0.5, SIZE)
        if kind == "evaluate":
            return Evaluation(self.site, task.round, {"age": {"asked": 2, "free": 1, "forced": 1}})
        return contribution(self.site, task)

    def but(self, kind: str, reply: Reply | Error | None, times: int = 10**9, number: int | None = None) -> None:
        """Answer one kind of question, in one round or all, with something else, some times."""
        before, left = self.handle, [times]

        def handle(asked: str, task: Task) -> Reply | Error | None:
            if asked != kind or left[0] == 0 or number not in (None, task.round):
                return before(asked, task)
            left[0] -= 1
            return reply

        self.handle = handle

    def hold(self, kind: str, number: int, until: Callable[[], bool]) -> None:
        """Work on one round's question until something is so."""
        before = self.handle
        self.handle = lambda asked, task: (
            None if (asked, task.round) == (kind, number) and not until() else before(asked, task)
        )

    def die(self) -> None:
        """Be killed, and known to be dead."""
        self.online = False

    def come_back(self, *, empty: bool = True) -> None:
        """Start anew; with what was in hand, where the state on disk survived."""
        self.online, self.since = True, f"{self.since}+"
        if empty:
            self.queue.clear()

    def times(self, kind: str, number: int) -> int:
        """How often it has worked on this."""
        return self.asked.count((kind, number))


class ScriptedGrid(Grid):
    """Nodes in this process. `script(step)` is called at every look at them, then each works on one message."""

    def __init__(self, *nodes: Node, script: Callable[[int], None] = lambda step: None) -> None:
        self.nodes = {node.number: node for node in nodes}
        self.script, self.step = script, 0
        self.dies_at_push: set[int] = set()
        self.pushes = 0
        self.sent: dict[str, Message] = {}
        self.replies: dict[str, Message] = {}
        self.alive: weakref.WeakSet[Any] = weakref.WeakSet()
        self.most_alive = 0

    def set_run(self, run: Run) -> None:
        """Have no runs."""

    @property
    def run(self) -> Run:
        """Return a run of which no SuperLink's state on disk tells."""
        return Run.create_empty(1)

    def create_message(self, *_: Any, **__: Any) -> Message:
        """Not be used: Flower deprecates it."""
        raise NotImplementedError

    def send_and_receive(self, *_: Any, **__: Any) -> Iterable[Message]:
        """Not be used: it holds all replies in memory."""
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        """Return who is online."""
        return [node.node_id for node in self.get_nodes()]

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Let a step pass and return who is online."""
        self.step += 1
        self.script(self.step)
        for node in self.nodes.values():
            self._work(node)
        return [
            NodeInfo(node_id=node.number, last_activated_at=node.since, online_until=node.left or time.time() + 60)
            for node in self.nodes.values()
            if node.online
        ]

    def _work(self, node: Node) -> None:
        if not node.online or not node.queue:
            return
        message = node.queue[0]
        kind, task = message.metadata.message_type, read_task(message.content)
        if node.working is not message:
            node.working = message
            node.asked.append((kind, task.round))
            node.tasks.append(task)
        reply = node.handle(kind, task)
        if reply is None:
            return
        node.queue.pop(0)
        content: RecordDict | Error = reply if isinstance(reply, Error) else reply_record(reply)
        number = message.metadata.message_id
        if number in self.sent:
            self.replies[number] = Message(content, reply_to=message)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages at their nodes; a SuperLink that dies in the middle has let the first one through."""
        self.pushes += 1
        if self.pushes in self.dies_at_push:
            self._queue(list(messages)[:1])
            raise ObjectPushError("object", 1, "session")
        return self._queue(messages)

    def _queue(self, messages: Iterable[Message]) -> list[str]:
        numbers = []
        for message in messages:
            number = f"m{len(self.sent) + len(numbers)}-{id(message)}"
            message.metadata.__dict__["_message_id"] = number
            self.sent[number] = message
            self.nodes[message.metadata.dst_node_id].queue.append(message)
            numbers.append(number)
        return numbers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Give out the answer to one message, or to none, and forget both."""
        number = next(iter(message_ids), "")
        if number not in self.sent:
            return []
        message = self.sent[number]
        node = self.nodes[message.metadata.dst_node_id]
        if not node.online or (node.left is not None and time.time() > node.left):
            del self.sent[number]
            self.replies.pop(number, None)
            return [Message(Error(5), reply_to=message)]
        if number not in self.replies:
            return []
        del self.sent[number]
        reply = self.replies.pop(number)
        self.alive.add(reply)
        self.most_alive = max(self.most_alive, len(self.alive))
        return [reply]


def federation_of(config: RunConfig, **changes: object) -> RunConfig:
    """Return the run with other keys of its federation."""
    return config.model_copy(update={"federation": config.federation.model_copy(update=changes)})


def run(
    config: RunConfig,
    grid: ScriptedGrid,
    folder: Path,
    federation: Federation | None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> str:
    """Run or resume the rounds as the ServerApp does; return the adapter's hash."""
    with RunStore.opened(folder, config) as store, StandingFile(folder / FILE, config.federation.rounds) as standing:
        exchange = GridExchange(grid, config, federation, standing, resumed=bool(store.rounds()))
        return adapter_sha256(run_rounds(config, exchange, store, report))
