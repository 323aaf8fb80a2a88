"""A SuperLink that fails at a call, as where its database is locked for longer than it waits, is asked again later.

Flower's grid raises at the first such answer, which would end the run for all: a site that meets one tries again, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

import httpx
from flwr.app import Message
from flwr.serverapp import Grid

from common.logs import logger

_log = logger("server")
PATIENCE_SECONDS = 300.0
"""From the first failed call to the one that ends the run, with none between that went well."""
_Found = TypeVar("_Found")


class _Steady:
    """What this program uses of a grid: a call that fails finds nothing this time."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._failing: float | None = None
        self._nodes: list[Any] = []

    @property
    def run(self) -> Any:
        """The run."""
        return self._grid.run

    def get_nodes(self) -> Iterable[Any]:
        """Return the nodes; where that fails, those of before."""
        self._nodes = self._tried(lambda: list(self._grid.get_nodes()), self._nodes)
        return self._nodes

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages and return the numbers of those that were taken."""
        return self._tried(lambda: list(self._grid.push_messages(messages)), [])

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Fetch messages; one that is lost with the failure is told of at a later look."""
        return self._tried(lambda: list(self._grid.pull_messages(message_ids)), [])

    def _tried(self, call: Callable[[], _Found], nothing: _Found) -> _Found:
        try:
            found = call()
        except httpx.HTTPStatusError as error:
            now, status = time.monotonic(), error.response.status_code
            if status < httpx.codes.INTERNAL_SERVER_ERROR:
                raise
            if self._failing is None:
                _log.warning("the SuperLink answers with status %d: it is asked again", status)
                self._failing = now
            if now - self._failing > PATIENCE_SECONDS:
                raise
            return nothing
        self._failing = None
        return found


def steady(grid: Grid) -> Grid:
    """Return a grid that a failure of the SuperLink, if it passes, does not end a run by."""
    return cast(Grid, _Steady(grid))
