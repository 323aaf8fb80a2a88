"""The exchange over Flower's Grid: replies are pulled one at a time, so memory does not grow with the sites."""

from __future__ import annotations

import time
from collections.abc import Iterator

from flwr.app import Message
from flwr.serverapp import Grid

from common.config import RunConfig
from common.errors import Code, FedReasonError
from common.logs import logger
from common.messages import Refusal, Reply, Task
from common.records import read_reply, task_record

_log = logger("server")
_POLL_SECONDS = 0.1


class GridExchange:
    """Carries tasks to every node that is online when the run starts."""

    def __init__(self, grid: Grid, config: RunConfig) -> None:
        self._grid = grid
        self._deadline = config.federation.deadline
        self._nodes = wait_for_nodes(grid, config)

    def layouts(self, task: Task) -> Iterator[Reply]:
        """Ask which parameters each site would train."""
        return self._exchange("query", task)

    def contributions(self, task: Task) -> Iterator[Reply]:
        """Ask for each site's part of a round."""
        return self._exchange("train", task)

    def evaluations(self, task: Task) -> Iterator[Reply]:
        """Ask for each site's held-out counts."""
        return self._exchange("evaluate", task)

    def _exchange(self, kind: str, task: Task) -> Iterator[Reply]:
        content = task_record(task)
        messages = [Message(content=content, dst_node_id=node, message_type=kind) for node in self._nodes]
        waiting = dict(zip(self._grid.push_messages(messages), self._nodes, strict=True))
        until = time.monotonic() + self._deadline
        while waiting and time.monotonic() < until:
            arrived = False
            for message_id in list(waiting):
                for message in self._grid.pull_messages([message_id]):
                    node = waiting.pop(message_id)
                    arrived = True
                    yield _read(message, node)
            if not arrived:
                time.sleep(_POLL_SECONDS)
        for node in waiting.values():
            _log.warning("node %d sent nothing within %.0f s", node, self._deadline)
            yield Refusal(f"node-{node}", int(Code.RUN_FAILED))


def _read(message: Message, node: int) -> Reply:
    """Reply of a message; one that failed outside our own code is a refusal, its text is not repeated."""
    if message.has_error():
        return Refusal(f"node-{node}", int(Code.RUN_FAILED))
    try:
        return read_reply(message.content)
    except FedReasonError as error:
        return Refusal(f"node-{node}", int(error.code))


def wait_for_nodes(grid: Grid, config: RunConfig) -> list[int]:
    """Wait for all sites, or at the deadline be content with the quorum.

    Raises
    ------
    FedReasonError
        Where fewer than the quorum are online at the deadline.
    """
    wanted, quorum = config.federation.sites, config.quorum
    until = time.monotonic() + config.federation.deadline
    while True:
        nodes = sorted(grid.get_node_ids())
        if len(nodes) >= wanted or (time.monotonic() > until and len(nodes) >= quorum):
            return nodes
        if time.monotonic() > until:
            raise FedReasonError(
                Code.RUN_QUORUM,
                f"{len(nodes)} of {wanted} sites are online; the quorum is {quorum}.",
                "Start the sites, then start the run again.",
            )
        time.sleep(_POLL_SECONDS)
