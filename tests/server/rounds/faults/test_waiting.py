"""A round waits for its quorum and until its deadline, for nothing else, and what comes too late is dropped."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

import pytest
from flwr.app import Message

from bench.waiting import PATIENCE
from common.config import RunConfig
from common.errors import TRANSIENT, Code
from common.messages.kinds import Refusal, Task
from server.provisioning.federation import Federation
from server.rounds.grid import GridExchange
from server.rounds.standing import FILE, Standing, read_standing
from tests.clock import Clock
from tests.scripted_grid import Node, ScriptedGrid, federation_of, run
from tests.server.rounds.faults.scene import ROUNDS, SITES, contributed, nodes, refused, standing, task_of

# --- Who is waited for, and until when ---


def test_an_undisturbed_round_asks_each_site_once(config: RunConfig, federation: Federation, tmp_path: Path) -> None:
    sites = nodes()
    run(config, ScriptedGrid(*sites), tmp_path / "run", federation)
    for site in sites:
        assert [asked for asked in site.asked if asked[0] == "train"] == [("train", n) for n in (1, 2, 3, 4)]
        assert site.times("query", 0) == 1
    assert refused(config, tmp_path / "run") == [{}] * ROUNDS


def test_with_the_quorum_a_round_does_not_wait_for_sites_that_are_away(
    config: RunConfig, federation: Federation, tmp_path: Path, clock: Clock
) -> None:
    config = federation_of(config, quorum=2)
    north, south, west = nodes()
    north.but("train", None, number=2)
    grid = ScriptedGrid(north, south, west, script=lambda step: north.die() if north.times("train", 2) else None)
    run(config, grid, tmp_path / "run", federation)
    assert clock.monotonic() < config.federation.deadline
    assert contributed(config, tmp_path / "run") == [[*SITES], *[["south", "west"]] * 3]
    assert refused(config, tmp_path / "run") == [{}, *[{"north": Code.RUN_ABSENT}] * 3]


class Slow(ScriptedGrid):
    """What comes with one answer has parts missing, until its site has answered a probe."""

    def __init__(self, *nodes: Node) -> None:
        super().__init__(*nodes, script=lambda step: self.came.set() if self.nodes[2].times("query", 0) > 1 else None)
        self.came = threading.Event()

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        sent = self.sent.get(next(iter(message_ids), ""))
        found = list(super().pull_messages(message_ids))
        if found and sent is not None and (sent.metadata.dst_node_id, sent.metadata.message_type) == (2, "train"):
            assert self.came.wait(PATIENCE)
        return found


def test_a_site_is_not_asked_again_for_an_answer_that_is_being_fetched_though_it_has_answered_a_probe(
    config: RunConfig, federation: Federation, undisturbed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.rounds.sending._ANSWER_SECONDS", 0.01)
    north, south, west = nodes()
    assert run(config, grid := Slow(north, south, west), tmp_path / "run", federation) == undisturbed
    assert grid.came.is_set() and [south.times("train", number) for number in (1, 2, 3, 4)] == [1] * 4


@pytest.mark.parametrize("code", sorted(TRANSIENT - {Code.MODEL_MAKING}))
def test_with_the_quorum_a_round_does_not_wait_for_a_site_that_cannot_for_now(
    config: RunConfig, federation: Federation, tmp_path: Path, clock: Clock, code: Code
) -> None:
    config = federation_of(config, quorum=2)
    north, south, west = nodes()
    south.but("train", Refusal("south", int(code)), number=2)
    run(config, ScriptedGrid(north, south, west), tmp_path / "run", federation)
    assert clock.monotonic() < config.federation.deadline
    assert refused(config, tmp_path / "run") == [{}, {"south": code}, {}, {}]


def test_at_the_deadline_the_quorum_is_enough_and_a_slow_site_is_left_out_until_it_is_done(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    config = federation_of(config, quorum=2, deadline=20.0)
    north, south, west = nodes()
    north.hold("train", 1, until=lambda: south.times("train", 3) > 0)
    south.hold("train", 3, until=lambda: north.times("train", 3) > 0)
    run(config, ScriptedGrid(north, south, west), tmp_path / "run", federation)
    assert north.times("train", 1) == 1
    assert north.times("train", 2) == 0
    assert contributed(config, tmp_path / "run") == [["south", "west"], ["south", "west"], [*SITES], [*SITES]]
    assert refused(config, tmp_path / "run") == [{"north": Code.SITE_SILENT}] * 2 + [{}, {}]


def test_below_the_quorum_at_the_deadline_the_run_pauses_and_goes_on_with_the_same_bits(
    config: RunConfig, federation: Federation, undisturbed: str, tmp_path: Path
) -> None:
    config = federation_of(config, deadline=20.0)
    north, south, west = nodes()
    north.but("train", None, times=1, number=2)
    seen: list[Standing] = []

    def script(step: int) -> None:
        if north.times("train", 2) == 1 and north.online and not seen:
            north.die()
        if not north.online and (now := read_standing(tmp_path / "run" / FILE)) and now.state == "paused":
            seen.append(now)
            north.come_back()

    assert run(config, ScriptedGrid(north, south, west, script=script), tmp_path / "run", federation) == undisturbed
    assert (seen[0].round, seen[0].exchange, seen[0].waiting_for) == (2, "train", ("north",))
    assert {"south", "west"} <= seen[0].contact.keys()
    assert (south.times("train", 2), west.times("train", 2)) == (1, 1)
    assert standing(tmp_path / "run").state == "finished"
    assert refused(config, tmp_path / "run") == [{}] * ROUNDS


def test_a_paused_run_ends_its_round_as_soon_as_it_has_the_quorum(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    config = federation_of(config, quorum=2, deadline=20.0, rounds=1)
    north, south, west = nodes()
    north.but("train", None)
    south.but("train", Refusal("south", int(Code.SITE_PAUSED)), times=6)
    run(config, ScriptedGrid(north, south, west), tmp_path / "run", federation)
    assert contributed(config, tmp_path / "run") == [["south", "west"]]
    assert refused(config, tmp_path / "run") == [{"north": Code.SITE_SILENT}]


# --- Memory ---


def test_replies_are_pulled_one_at_a_time_and_dropped(config: RunConfig) -> None:
    sites = [Node(number, f"s{number}") for number in range(1, 21)]
    config = federation_of(config, sites=20, quorum=None)
    grid = ScriptedGrid(*sites)
    exchange = GridExchange(grid, config)
    for _ in exchange.layouts(Task(config, 0, 0, None), lambda: False):
        pass
    grid.most_alive = 0
    assert sum(1 for _ in exchange.contributions(task_of(config), lambda: False)) == 20
    assert grid.most_alive <= 2
    list(exchange.contributions(task_of(config, 2), lambda: False))
    held = list(exchange.contributions(task_of(config, 3), lambda: False))
    assert len(held) == 20


def test_answers_that_come_too_late_are_taken_from_the_superlink_and_dropped(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    config = federation_of(config, quorum=2, deadline=20.0)
    north, south, west = nodes()
    west.hold("train", 1, until=lambda: south.times("train", 3) > 0)
    south.hold("train", 3, until=lambda: west.times("train", 3) > 0)
    grid = ScriptedGrid(north, south, west)
    run(config, grid, tmp_path / "run", federation)
    assert contributed(config, tmp_path / "run")[-1] == [*SITES]
    assert (grid.sent, grid.replies) == ({}, {})
