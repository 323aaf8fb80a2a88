"""A failure of the SuperLink that passes ends no run; one that stays does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import httpx
import pytest
from flwr.serverapp import Grid

from server.rounds import steady as module
from server.rounds.steady import PATIENCE_SECONDS, steady
from tests.clock import Clock


class Failing:
    """A grid that answers with a status in place of what it is asked for, while there is one."""

    def __init__(self, status: int) -> None:
        self.status, self.run = status, "the run"

    def _answer(self, found: list[Any]) -> list[Any]:
        if self.status:
            request = httpx.Request("POST", "https://127.0.0.1")
            raise httpx.HTTPStatusError("", request=request, response=httpx.Response(self.status, request=request))
        return found

    def get_nodes(self) -> Iterable[Any]:
        return self._answer(["a node"])

    def push_messages(self, messages: Iterable[Any]) -> Iterable[str]:
        return self._answer([f"number of {message}" for message in messages])

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Any]:
        return self._answer([f"answer to {number}" for number in message_ids])


def asked(grid: Grid) -> list[list[Any]]:
    return [list(grid.get_nodes()), list(grid.push_messages(cast(Any, ["m"]))), list(grid.pull_messages(["m"]))]


def test_a_call_that_fails_finds_nothing_and_the_nodes_stay() -> None:
    failing = Failing(500)
    grid = steady(cast(Grid, failing))
    assert asked(grid) == [[], [], []] and cast(Any, grid.run) == "the run"
    failing.status = 0
    assert asked(grid) == [["a node"], ["number of m"], ["answer to m"]]
    failing.status = 503
    assert asked(grid) == [["a node"], [], []]


def test_what_fails_for_minutes_on_end_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "time", clock := Clock())
    failing = Failing(500)
    grid = steady(cast(Grid, failing))
    for _ in range(3):
        asked(grid)
        clock.sleep(PATIENCE_SECONDS - 1)
        failing.status = 0
        asked(grid)
        failing.status = 500
    asked(grid)
    clock.sleep(PATIENCE_SECONDS + 1)
    with pytest.raises(httpx.HTTPStatusError):
        asked(grid)


def test_a_refusal_is_no_failure() -> None:
    with pytest.raises(httpx.HTTPStatusError):
        asked(steady(cast(Grid, Failing(403))))
