"""A site that dies, is silent, comes back, is late or has new keys counts once, and the bits stay."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import Error

from common.config import RunConfig
from common.errors import Code
from common.messages.kinds import Layout
from server.provisioning.federation import Federation
from tests.clock import Clock
from tests.scripted_grid import SIZE, Node, ScriptedGrid, federation_of, run
from tests.server.rounds.faults.scene import ROUNDS, SITES, contributed, nodes, refused


def test_a_site_that_dies_in_a_round_and_comes_back_is_asked_again_and_the_bits_stay(
    config: RunConfig, federation: Federation, undisturbed: str, tmp_path: Path
) -> None:
    north, south, west = nodes()
    south.but("train", None, times=3, number=2)
    died: list[int] = []

    def script(step: int) -> None:
        if south.times("train", 2) == 1 and not died:
            died.append(step)
            south.die()
        elif died and step == died[0] + 20:
            south.come_back()

    assert run(config, ScriptedGrid(north, south, west, script=script), tmp_path / "run", federation) == undisturbed
    assert south.times("train", 2) == 2
    assert (north.times("train", 2), west.times("train", 2)) == (1, 1)


def test_a_site_that_was_lost_and_answers_the_first_message_after_all_counts_once(
    config: RunConfig, federation: Federation, undisturbed: str, tmp_path: Path
) -> None:
    north, south, west = nodes()
    south.but("train", None, times=3, number=2)
    away: list[int] = []

    def script(step: int) -> None:
        if south.times("train", 2) == 1 and not away:
            away.append(step)
            south.online = False
        elif away and step == away[0] + 20:
            south.come_back(empty=False)

    assert run(config, ScriptedGrid(north, south, west, script=script), tmp_path / "run", federation) == undisturbed
    assert south.times("train", 2) == 1
    assert refused(config, tmp_path / "run") == [{}] * ROUNDS


def test_an_answer_is_not_asked_for_while_the_site_is_away_so_that_flower_keeps_its_message(
    config: RunConfig, federation: Federation, tmp_path: Path, clock: Clock
) -> None:
    """The site has lost the network between two looks at who is online: its message must survive that."""
    config = federation_of(config, rounds=1)
    north, south, west = nodes()
    back: list[bool] = []
    west.hold("train", 1, until=lambda: bool(back))

    def script(step: int) -> None:
        if west.left is not None:
            back.append(True)
            west.left = None
        elif west.times("train", 1) and not back:
            west.left = clock.time() + 0.6  # before the next look

    run(config, ScriptedGrid(north, south, west, script=script), tmp_path / "run", federation)
    assert back
    assert west.times("train", 1) == 1
    assert contributed(config, tmp_path / "run") == [[*SITES]]


def test_a_slow_site_that_was_asked_twice_counts_once(
    config: RunConfig, federation: Federation, undisturbed: str, tmp_path: Path
) -> None:
    config = federation_of(config, deadline=20.0)
    north, south, west = nodes()
    west.hold("train", 1, until=lambda: len(west.queue) > 1 or west.times("train", 1) > 1)
    north.hold("train", 1, until=lambda: west.times("train", 1) > 1 and not west.queue)
    assert run(config, ScriptedGrid(north, south, west), tmp_path / "run", federation) == undisturbed
    assert west.times("train", 1) == 2
    assert refused(config, tmp_path / "run") == [{}] * ROUNDS


def test_a_message_that_flower_lost_is_sent_again(
    config: RunConfig, federation: Federation, undisturbed: str, tmp_path: Path
) -> None:
    north, south, west = nodes()
    for code, number in ((3, 1), (4, 2), (5, 3), (8, 4)):
        west.but("train", Error(code), times=1, number=number)
    assert run(config, ScriptedGrid(north, south, west), tmp_path / "run", federation) == undisturbed
    assert [west.times("train", number) for number in (1, 2, 3, 4)] == [2, 2, 2, 2]


@pytest.mark.parametrize("push", [1, 2, 3, 5])
def test_a_superlink_that_dies_while_messages_are_sent_costs_no_round_and_no_bit(
    config: RunConfig, federation: Federation, undisturbed: str, tmp_path: Path, push: int
) -> None:
    """Its first message reached the site, which answers it twice; the others were lost."""
    grid = ScriptedGrid(*nodes())
    grid.dies_at_push = {push, push + 1}
    assert run(config, grid, tmp_path / "run", federation) == undisturbed
    assert refused(config, tmp_path / "run") == [{}] * ROUNDS


def losing_a_task(node: Node) -> Callable[[int], None]:
    """Return a script by which the first task of training that is sent to a node is lost without a trace."""
    lost: list[int] = []

    def script(step: int) -> None:
        if node.queue and node.queue[0].metadata.message_type == "train" and not lost:
            lost.append(step)
            node.queue.clear()

    return script


def test_a_site_that_is_silent_for_a_whole_deadline_is_asked_again(
    config: RunConfig, federation: Federation, undisturbed: str, tmp_path: Path
) -> None:
    """A message can be lost without a trace: taken by a process that is killed before it has written it down."""
    config = federation_of(config, deadline=20.0)
    north, south, west = nodes()
    script = losing_a_task(west)
    assert run(config, ScriptedGrid(north, south, west, script=script), tmp_path / "run", federation) == undisturbed
    assert west.times("train", 1) == 1
    assert west.times("query", 0) == 1, "nor was it taken for one whose message never arrived"


def test_a_message_that_never_arrived_is_found_out_long_before_the_deadline(
    config: RunConfig, federation: Federation, undisturbed: str, tmp_path: Path
) -> None:
    """The SuperLink dies with a message: the site stays online and knows of nothing."""
    config = federation_of(config, deadline=300.0)
    north, south, west = nodes()
    script = losing_a_task(west)
    assert run(config, ScriptedGrid(north, south, west, script=script), tmp_path / "run", federation) == undisturbed
    assert west.times("train", 1) == 1
    assert west.times("query", 0) >= 2


def test_a_site_that_works_for_long_is_not_asked_twice(
    config: RunConfig, federation: Federation, undisturbed: str, tmp_path: Path, clock: Clock
) -> None:
    north, south, west = nodes()
    west.hold("train", 1, until=lambda: clock.monotonic() > 300)
    assert run(config, ScriptedGrid(north, south, west), tmp_path / "run", federation) == undisturbed
    assert len({number for kind, number in west.asked if kind == "train"}) == ROUNDS


def test_a_site_that_comes_late_is_asked_in_the_round_it_finds(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    config = federation_of(config, quorum=2, deadline=20.0)
    north, south, west = nodes()
    west.online = False

    def script(step: int) -> None:
        if north.times("train", 2):
            west.online = True

    north.hold("train", 2, until=lambda: west.times("train", 2) > 0)
    run(config, ScriptedGrid(north, south, west, script=script), tmp_path / "run", federation)
    assert contributed(config, tmp_path / "run") == [["north", "south"], [*SITES], [*SITES], [*SITES]]
    assert west.asked[0] == ("query", 0)


def test_a_late_site_that_would_train_something_else_is_left_out(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    config = federation_of(config, quorum=2, deadline=20.0)
    north, south, west = nodes()
    west.online = False
    west.but("query", Layout("west", SIZE, "0" * 64))

    def script(step: int) -> None:
        if north.times("train", 2):
            west.online = True

    north.hold("train", 2, until=lambda: west.times("query", 0) > 0)
    run(config, ScriptedGrid(north, south, west, script=script), tmp_path / "run", federation)
    assert refused(config, tmp_path / "run") == [{"west": Code.RUN_ABSENT}, *[{"west": Code.MODEL_ADAPTER}] * 3]
    assert west.times("train", 2) == 0


def test_a_site_with_new_keys_is_another_node_with_the_same_name(
    config: RunConfig, federation: Federation, undisturbed: str, tmp_path: Path
) -> None:
    north, south, west = nodes()
    fresh = Node(9, "west")
    fresh.online = False
    west.but("train", None, number=2)

    def script(step: int) -> None:
        if west.times("train", 2) and west.online:
            west.die()
            fresh.online = True
            federation.nodes_file.write_text(json.dumps({"1": "north", "2": "south", "9": "west"}))

    grid = ScriptedGrid(north, south, west, fresh, script=script)
    assert run(config, grid, tmp_path / "run", federation) == undisturbed
    assert fresh.asked[:2] == [("query", 0), ("train", 2)]
