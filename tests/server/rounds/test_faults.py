"""Faults: a site that is slow, dead, refused or wrong costs its own part at most, never the run or a bit of it."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, Error, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from common.config import PrivacyConfig, RunConfig
from common.errors import TRANSIENT, Code, FedReasonError
from common.identity.keys import new_node_key, new_signing_key, public_text, save_key
from common.identity.roster import Member, Roster, sign_roster
from common.messages.kinds import Contribution, Layout, Refusal, Reply, Task
from common.messages.records import read_task
from server import app as server_app
from server.provisioning.federation import Federation, FederationConfig
from server.rounds.estimates import ask_sites
from server.rounds.following import describe
from server.rounds.grid import GridExchange
from server.rounds.loop import Progress, run_rounds
from server.rounds.standing import FILE, Standing, StandingFile, read_standing
from server.rounds.store import RunStore
from tests.paths import ROOT
from tests.scripted_grid import SIZE, Node, ScriptedGrid, contribution, federation_of, run
from tests.small import small_config
from tests.small_disk import needs_small_disk, on_small_disk

SITES = ("north", "south", "west")
ROUNDS = 4


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let time run fast, and let messages be made outside of a run of Flower's."""
    monkeypatch.setattr("server.rounds.grid._POLL_SECONDS", 0.001)
    monkeypatch.setattr("server.rounds.grid._LONGEST_POLL", 0.001)
    monkeypatch.setattr("server.rounds.attendance._LOOK_SECONDS", 0.0)
    monkeypatch.setattr("server.rounds.asking._AGAIN_SECONDS", 0.02)
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    yield


@pytest.fixture
def config() -> RunConfig:
    """Return four rounds over three sites, all of which make the quorum, and a deadline that no test waits for."""
    return small_config(
        Path("none"), federation={"rounds": ROUNDS, "deadline": 60.0}, optimizer={"learning_rate": 1e-2}
    )


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    """Return the coordinator's folder of a federation of three sites, registered as nodes 1 to 3."""
    return make_federation(tmp_path / "coordinator")


def make_federation(folder: Path) -> Federation:
    federation = Federation(folder, FederationConfig(name="fed", host="localhost", sites=SITES))
    key = new_signing_key()
    save_key(federation.signing_key, key)
    federation.save()
    members = [
        Member(
            site=site,
            signing_key=public_text(new_signing_key()),
            node_key=public_text(new_node_key()),
            admitted=date(2026, 1, 1),
        )
        for site in SITES
    ]
    roster = Roster(federation="fed", version=1, issued=datetime.now(UTC), members=tuple(members))
    federation.roster_file.write_text(sign_roster(roster, key))
    federation.nodes_file.write_text(json.dumps({str(i): site for i, site in enumerate(SITES, start=1)}))
    return federation


def nodes() -> tuple[Node, Node, Node]:
    north, south, west = (Node(number, site) for number, site in enumerate(SITES, start=1))
    return north, south, west


class Stopped(Exception):
    """Stands for a kill between two rounds."""


@pytest.fixture
def undisturbed(config: RunConfig, federation: Federation, tmp_path: Path) -> str:
    """Return the adapter of a run in which nothing goes wrong."""
    return run(config, ScriptedGrid(*nodes()), tmp_path / "undisturbed", federation)


def refused(config: RunConfig, folder: Path) -> list[dict[str, int]]:
    with RunStore.opened(folder, config) as store:
        return [row.refused for row in store.rounds()]


def contributed(config: RunConfig, folder: Path) -> list[list[str]]:
    with RunStore.opened(folder, config) as store:
        return [row.sites for row in store.rounds()]


def standing(folder: Path) -> Standing:
    found = read_standing(folder / FILE)
    assert found is not None
    return found


# --- Who is waited for, and until when ---


def test_an_undisturbed_round_asks_each_site_once(config: RunConfig, federation: Federation, tmp_path: Path) -> None:
    sites = nodes()
    run(config, ScriptedGrid(*sites), tmp_path / "run", federation)
    for site in sites:
        assert [asked for asked in site.asked if asked[0] == "train"] == [("train", n) for n in (1, 2, 3, 4)]
        assert site.times("query", 0) == 1
    assert refused(config, tmp_path / "run") == [{}] * ROUNDS


def test_with_the_quorum_a_round_does_not_wait_for_sites_that_are_away(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    config = federation_of(config, quorum=2)
    north, south, west = nodes()
    north.but("train", None, number=2)
    grid = ScriptedGrid(north, south, west, script=lambda step: north.die() if north.times("train", 2) else None)
    started = time.monotonic()
    run(config, grid, tmp_path / "run", federation)
    assert time.monotonic() - started < 10
    assert contributed(config, tmp_path / "run") == [[*SITES], *[["south", "west"]] * 3]
    assert refused(config, tmp_path / "run") == [{}, *[{"north": Code.RUN_ABSENT}] * 3]


@pytest.mark.parametrize("code", sorted(TRANSIENT - {Code.MODEL_MAKING}))
def test_with_the_quorum_a_round_does_not_wait_for_a_site_that_cannot_for_now(
    config: RunConfig, federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: Code
) -> None:
    monkeypatch.setattr("server.rounds.asking._AGAIN_SECONDS", 60.0)
    config = federation_of(config, quorum=2)
    north, south, west = nodes()
    south.but("train", Refusal("south", int(code)), number=2)
    started = time.monotonic()
    run(config, ScriptedGrid(north, south, west), tmp_path / "run", federation)
    assert time.monotonic() - started < 10
    assert refused(config, tmp_path / "run") == [{}, {"south": code}, {}, {}]


def test_at_the_deadline_the_quorum_is_enough_and_a_slow_site_is_left_out_until_it_is_done(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    config = federation_of(config, quorum=2, deadline=1.0)
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
    config = federation_of(config, deadline=0.5)
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
    config = federation_of(config, quorum=2, deadline=0.2, rounds=1)
    north, south, west = nodes()
    north.but("train", None)
    south.but("train", Refusal("south", int(Code.SITE_PAUSED)), times=6)
    run(config, ScriptedGrid(north, south, west), tmp_path / "run", federation)
    assert contributed(config, tmp_path / "run") == [["south", "west"]]
    assert refused(config, tmp_path / "run") == [{"north": Code.SITE_SILENT}]


# --- Sites that come, go and come back ---


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
    config: RunConfig, federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The site has lost the network between two looks at who is online: its message must survive that."""
    monkeypatch.setattr("server.rounds.attendance._LOOK_SECONDS", 0.3)
    monkeypatch.setattr("server.rounds.attendance._MARGIN_SECONDS", 0.1)
    config = federation_of(config, rounds=1)
    north, south, west = nodes()
    back: list[bool] = []
    west.hold("train", 1, until=lambda: bool(back))

    def script(step: int) -> None:
        if west.left is not None:
            back.append(True)
            west.left = None
        elif west.times("train", 1) and not back:
            west.left = time.time() + 0.2

    run(config, ScriptedGrid(north, south, west, script=script), tmp_path / "run", federation)
    assert back
    assert west.times("train", 1) == 1
    assert contributed(config, tmp_path / "run") == [[*SITES]]


def test_a_slow_site_that_was_asked_twice_counts_once(
    config: RunConfig, federation: Federation, undisturbed: str, tmp_path: Path
) -> None:
    config = federation_of(config, deadline=0.3)
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


def test_a_site_that_is_silent_for_a_whole_deadline_is_asked_again(
    config: RunConfig, federation: Federation, undisturbed: str, tmp_path: Path
) -> None:
    """A message can be lost without a trace: taken by a process that is killed before it has written it down."""
    config = federation_of(config, deadline=0.5)
    north, south, west = nodes()
    taken: list[int] = []

    def script(step: int) -> None:
        if west.queue and west.queue[0].metadata.message_type == "train" and not taken:
            taken.append(step)
            west.queue.clear()

    assert run(config, ScriptedGrid(north, south, west, script=script), tmp_path / "run", federation) == undisturbed
    assert west.times("train", 1) == 1


def test_a_message_that_never_arrived_is_found_out_long_before_the_deadline(
    config: RunConfig, federation: Federation, undisturbed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SuperLink dies with a message: the site stays online and knows of nothing."""
    monkeypatch.setattr("server.rounds.asking.SILENT_SECONDS", 0.5)
    config = federation_of(config, deadline=300.0)
    north, south, west = nodes()
    taken: list[int] = []

    def script(step: int) -> None:
        if west.queue and west.queue[0].metadata.message_type == "train" and not taken:
            taken.append(step)
            west.queue.clear()

    assert run(config, ScriptedGrid(north, south, west, script=script), tmp_path / "run", federation) == undisturbed
    assert west.times("train", 1) == 1
    assert west.times("query", 0) >= 2


def test_a_site_that_works_for_long_is_not_asked_twice(
    config: RunConfig, federation: Federation, undisturbed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.rounds.asking.SILENT_SECONDS", 0.2)
    north, south, west = nodes()
    ready = time.monotonic() + 3
    west.hold("train", 1, until=lambda: time.monotonic() > ready)
    assert run(config, ScriptedGrid(north, south, west), tmp_path / "run", federation) == undisturbed
    assert len({number for kind, number in west.asked if kind == "train"}) == ROUNDS


def test_a_site_that_comes_late_is_asked_in_the_round_it_finds(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    config = federation_of(config, quorum=2, deadline=1.0)
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
    config = federation_of(config, quorum=2, deadline=1.0)
    north, south, west = nodes()
    west.online = False
    west.but("query", Layout("west", SIZE, "another"))

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


# --- Sites that refuse or are wrong ---


@pytest.mark.parametrize("code", sorted(TRANSIENT))
def test_a_site_that_cannot_for_now_is_asked_again_and_the_bits_stay(
    config: RunConfig, federation: Federation, undisturbed: str, tmp_path: Path, code: Code
) -> None:
    north, south, west = nodes()
    south.but("train", Refusal("south", int(code)), times=3, number=2)
    assert run(config, ScriptedGrid(north, south, west), tmp_path / "run", federation) == undisturbed
    assert south.times("train", 2) == 4


def test_a_site_that_cannot_for_now_is_asked_at_growing_intervals(config: RunConfig, federation: Federation) -> None:
    north, south, west = nodes()
    asked: list[float] = []
    south.but("train", Refusal("south", int(Code.SITE_PAUSED)), times=4)
    answers = south.handle

    def handle(kind: str, task: Task) -> Reply | Error | None:
        asked.append(time.monotonic())
        return answers(kind, task)

    exchange = met(config, federation, north, south, west)
    south.handle = handle
    replies = list(exchange.contributions(task_of(config), lambda: False))
    pauses = np.diff(asked)
    assert len(replies) == 3
    assert all(pause > wanted for pause, wanted in zip(pauses, (0.02, 0.04, 0.08, 0.16), strict=True))


def met(config: RunConfig, federation: Federation | None, *sites: Node) -> GridExchange:
    """Return an exchange whose sites have agreed on a layout."""
    exchange = GridExchange(ScriptedGrid(*sites), config, federation)
    list(exchange.layouts(Task(config, 0, 0, None), lambda: False))
    return exchange


def task_of(config: RunConfig, number: int = 1) -> Task:
    return Task(config, number, 0, np.zeros(SIZE, dtype=np.float32))


@pytest.mark.parametrize(
    "code", [Code.POLICY_REFUSED, Code.CODEBOOK_CHANGED, Code.MODEL_MANIFEST, Code.REGISTRY_MISSING, Code.RUN_FAILED]
)
def test_any_other_refusal_is_final_for_its_round(
    config: RunConfig, federation: Federation, tmp_path: Path, code: Code
) -> None:
    config = federation_of(config, quorum=2)
    north, south, west = nodes()
    west.but("train", Refusal("west", int(code)), number=2)
    run(config, ScriptedGrid(north, south, west), tmp_path / "run", federation)
    assert refused(config, tmp_path / "run") == [{}, {"west": code}, {}, {}]
    assert [west.times("train", number) for number in (1, 2, 3, 4)] == [1, 1, 1, 1]


def test_where_refusals_leave_no_quorum_the_run_stops_at_once_and_names_them(
    config: RunConfig, federation: Federation, undisturbed: str, tmp_path: Path
) -> None:
    config = federation_of(config, quorum=2)
    north, south, west = nodes()
    north.but("train", None, number=3)
    south.but("train", Refusal("south", int(Code.POLICY_REFUSED)), times=1, number=3)
    west.but("train", Refusal("west", int(Code.REGISTRY_MISSING)), times=1, number=3)
    started = time.monotonic()
    with pytest.raises(FedReasonError) as stopped:
        run(config, ScriptedGrid(north, south, west), tmp_path / "run", federation)
    assert time.monotonic() - started < 5
    assert stopped.value.code == Code.RUN_QUORUM
    assert "south refused: E832 policy refused (the run asks for more" in stopped.value.found
    assert "west refused: E301 registry missing (its registry" in stopped.value.found
    assert stopped.value.fix.startswith("Change the run or have the site change")
    now = standing(tmp_path / "run")
    assert (now.state, now.round, now.code, now.refused) == ("stopped", 3, 503, {"south": 832, "west": 301})
    assert run(config, ScriptedGrid(*nodes()), tmp_path / "run", federation) == undisturbed


def test_a_reply_under_another_site_s_name_is_left_out(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    config = federation_of(config, quorum=2)
    north, south, west = nodes()
    answers = west.handle
    west.handle = lambda kind, task: (
        replace(contribution("west", task), site="north") if (kind, task.round) == ("train", 2) else answers(kind, task)
    )
    run(config, ScriptedGrid(north, south, west), tmp_path / "run", federation)
    assert refused(config, tmp_path / "run") == [{}, {"west": Code.SITE_IDENTITY}, {}, {}]
    assert contributed(config, tmp_path / "run")[1] == ["north", "south"]


def test_a_refusal_is_booked_to_the_node_that_sent_it(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    config = federation_of(config, quorum=2, rounds=1)
    north, south, west = nodes()
    west.but("train", Refusal("unknown site", int(Code.REGISTRY_MISSING)))
    run(config, ScriptedGrid(north, south, west), tmp_path / "run", federation)
    assert refused(config, tmp_path / "run") == [{"west": Code.REGISTRY_MISSING}]


def test_a_node_that_is_not_in_the_federation_is_not_asked(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    stranger = Node(7, "north")
    run(config, ScriptedGrid(*nodes(), stranger), tmp_path / "run", federation)
    assert stranger.asked == []


def test_a_contribution_of_another_shape_or_round_is_left_out(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    config = federation_of(config, quorum=2)
    north, south, west = nodes()
    west.but("train", Contribution("west", 2, 0, np.ones(SIZE + 1, dtype=np.int64), None), number=2)
    west.but("train", Contribution("west", 2, 0, np.ones(SIZE, dtype=np.int64), None), number=3)
    run(config, ScriptedGrid(north, south, west), tmp_path / "run", federation)
    assert refused(config, tmp_path / "run") == [{}, {"west": 504}, {"west": 504}, {}]


def test_a_program_that_fails_is_left_out_for_the_round(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    config = federation_of(config, quorum=2)
    north, south, west = nodes()
    west.but("train", Error(2, "text that a site should not have sent"), number=2)
    run(config, ScriptedGrid(north, south, west), tmp_path / "run", federation)
    assert refused(config, tmp_path / "run") == [{}, {"west": Code.RUN_FAILED}, {}, {}]
    assert west.times("train", 2) == 1


def test_sites_that_would_train_other_parameters_than_the_checkpoint_has_stop_the_run(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    with pytest.raises(Stopped):
        run(config, ScriptedGrid(*nodes()), tmp_path / "run", federation, stop_after(1))
    sites = nodes()
    for site in sites:
        site.but("query", Layout(site.site, SIZE + 1, "new"))
    with pytest.raises(FedReasonError) as stopped:
        run(config, ScriptedGrid(*sites), tmp_path / "run", federation)
    assert stopped.value.code == Code.MODEL_ADAPTER


def stop_after(number: int) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if progress.round == number:
            raise Stopped

    return report


# --- Start ---


def test_the_start_waits_for_every_site_and_says_for_whom(
    config: RunConfig, federation: Federation, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    north, south, west = nodes()
    south.online = west.online = False
    seen: list[Standing | None] = []

    def script(step: int) -> None:
        if step in (20, 40):
            seen.append(read_standing(tmp_path / "run" / FILE))
        south.online, west.online = step > 20, step > 40

    with caplog.at_level(logging.INFO):
        run(config, ScriptedGrid(north, south, west, script=script), tmp_path / "run", federation)
    assert [(now.state, now.waiting_for) for now in seen if now] == [
        ("waiting", ("south", "west")),
        ("waiting", ("west",)),
    ]
    assert caplog.messages.count("waiting for south, west") == 1
    assert caplog.messages.count("waiting for west") == 1


def test_the_start_is_content_with_the_quorum_at_the_deadline(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    config = federation_of(config, quorum=2, deadline=0.2, rounds=1)
    north, south, west = nodes()
    west.online = False
    run(config, ScriptedGrid(north, south, west), tmp_path / "run", federation)
    assert contributed(config, tmp_path / "run") == [["north", "south"]]


def test_below_the_quorum_the_start_ends_at_the_deadline_and_names_the_missing(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    config = federation_of(config, quorum=2, deadline=0.2)
    north, south, west = nodes()
    south.online = west.online = False
    with pytest.raises(FedReasonError) as stopped:
        run(config, ScriptedGrid(north, south, west), tmp_path / "run", federation)
    assert stopped.value.code == Code.RUN_QUORUM
    assert "south, west" in str(stopped.value)
    now = standing(tmp_path / "run")
    assert (now.state, now.code, now.found) == ("stopped", 503, stopped.value.found)


def test_fewer_registered_sites_than_the_quorum_are_refused_at_once(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    federation.nodes_file.write_text(json.dumps({"1": "north"}))
    with pytest.raises(FedReasonError) as stopped:
        run(config, ScriptedGrid(*nodes()), tmp_path / "run", federation)
    assert stopped.value.code == Code.RUN_QUORUM
    assert "1 registered" in str(stopped.value)


def test_more_registered_sites_than_the_run_states_are_refused(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    config = federation_of(config, sites=2, quorum=2)
    with pytest.raises(FedReasonError) as stopped:
        run(config, ScriptedGrid(*nodes()), tmp_path / "run", federation)
    assert stopped.value.code == Code.CONFIG_VALUE


def test_a_site_admitted_during_a_run_is_not_of_that_run(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    late = Node(4, "east")

    def script(step: int) -> None:
        if step == 5:
            names = json.loads(federation.nodes_file.read_text())
            federation.nodes_file.write_text(json.dumps(names | {"4": "east"}))

    run(config, ScriptedGrid(*nodes(), late, script=script), tmp_path / "run", federation)
    assert late.asked == []
    assert contributed(config, tmp_path / "run") == [[*SITES]] * ROUNDS


def test_a_site_revoked_during_a_run_is_asked_nothing_more(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    config = federation_of(config, quorum=2)
    north, south, west = nodes()

    def script(step: int) -> None:
        if north.times("train", 2):
            federation.nodes_file.write_text(json.dumps({"1": "north", "2": "south"}))

    run(config, ScriptedGrid(north, south, west, script=script), tmp_path / "run", federation)
    assert west.times("train", 3) == 0
    assert contributed(config, tmp_path / "run")[2:] == [["north", "south"]] * 2


def test_every_task_names_the_roster_and_the_questions_before_a_run_bring_it(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    sites = nodes()
    grid = ScriptedGrid(*sites)
    run(config, grid, tmp_path / "run", federation)
    ask_sites(config, GridExchange(grid, config, federation), StandingFile(None))
    roster = federation.roster()
    assert roster is not None
    for site in sites:
        assert {task.roster_sha256 for task in site.tasks} == {roster.sha256}
        for (kind, _), task in zip(site.asked, site.tasks, strict=True):
            assert task.roster == (federation.roster_file.read_text() if kind.startswith("query") else None)


def test_a_roster_that_the_coordinator_did_not_sign_starts_nothing(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    text = federation.roster_file.read_text()
    federation.roster_file.write_text(text.replace('"version": 1', '"version": 2'))
    sites = nodes()
    with pytest.raises(FedReasonError) as stopped:
        run(config, ScriptedGrid(*sites), tmp_path / "run", federation)
    assert stopped.value.code == Code.ROSTER_SIGNATURE
    assert [site.asked for site in sites] == [[], [], []]
    assert standing(tmp_path / "run").code == Code.ROSTER_SIGNATURE


# --- Kill and resume ---


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_run_killed_after_any_round_ends_with_the_bits_of_an_undisturbed_one(
    config: RunConfig, federation: Federation, undisturbed: str, tmp_path: Path, stop: int
) -> None:
    with pytest.raises(Stopped):
        run(config, ScriptedGrid(*nodes()), tmp_path / "run", federation, stop_after(stop))
    sites = nodes()
    assert run(config, ScriptedGrid(*sites), tmp_path / "run", federation) == undisturbed
    assert [number for kind, number in sites[0].asked if kind == "train"] == list(range(stop + 1, ROUNDS + 1))


def test_a_finished_run_is_not_started_again(config: RunConfig, federation: Federation, tmp_path: Path) -> None:
    first = run(config, ScriptedGrid(*nodes()), tmp_path / "run", federation)
    assert run(config, ScriptedGrid(), tmp_path / "run", federation) == first
    assert standing(tmp_path / "run").state == "finished"


def test_sites_left_out_of_a_round_leave_the_sum_of_the_others(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    """The same participants give the same bits, whatever kept the third site away."""
    config = federation_of(config, quorum=2)
    hashes = []
    for name, reply in (("policy", Refusal("west", 832)), ("failed", Error(1)), ("wrong", Layout("west", 4, "x"))):
        north, south, west = nodes()
        west.but("train", reply)
        hashes.append(run(config, ScriptedGrid(north, south, west), tmp_path / name, federation))
    assert len(set(hashes)) == 1


@pytest.mark.federation
def test_sigterm_ends_the_run_promptly_with_its_checkpoint_and_its_standing(
    config: RunConfig, federation: Federation, undisturbed: str, tmp_path: Path
) -> None:
    """Flower's own handler raises SystemExit from wherever the ServerApp is."""
    script = textwrap.dedent(f"""
        import signal, sys
        from pathlib import Path
        from flwr.supercore.task_identity import TaskIdentity
        from common.config import RunConfig
        from server.provisioning.federation import Federation
        from tests.scripted_grid import Node, ScriptedGrid, run

        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
        config = RunConfig.model_validate_json({config.model_dump_json()!r})
        sites = [Node(number, site) for number, site in enumerate({SITES!r}, start=1)]
        sites[0].but("train", None, number=3)
        grid = ScriptedGrid(*sites, script=lambda step: print(flush=True) if sites[0].times("train", 3) else None)
        run(config, grid, Path({str(tmp_path / "run")!r}), Federation.open(Path({str(federation.folder)!r})))
    """)
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline()
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 0
    assert time.monotonic() - started < 5
    now = standing(tmp_path / "run")
    assert (now.state, now.round, now.code) == ("aborted", 3, Code.RUN_ABORTED)
    assert run(config, ScriptedGrid(*nodes()), tmp_path / "run", federation) == undisturbed


@needs_small_disk
def test_a_full_disk_stops_the_run_by_its_number_and_keeps_the_last_checkpoint(config: RunConfig) -> None:
    on_small_disk(f"""
        from pathlib import Path
        import numpy as np
        from common.config import RunConfig
        from common.errors import Code, FedReasonError
        from server.rounds.store import Checkpoint, RunStore, RoundRow

        config = RunConfig.model_validate_json({config.model_dump_json()!r})
        with RunStore.opened(Path("/mnt/run"), config) as store:
            def save(number, size):
                store.save(Checkpoint(number, np.ones(size, dtype=np.float32), {{}}))

            save(1, 1000)
            ballast = fill()
            codes = []
            row = dict(seconds=1.0, refused={{}}, bytes_up=0, bytes_down=0, counts=None, gradient_norm=0.0)
            big = RoundRow(round=2, sites=["x" * 9999], adapter_sha256="", **row)
            for write in (lambda: save(2, 2000), lambda: store.record(big)):
                try:
                    write()
                except FedReasonError as error:
                    codes.append(error.code)
            assert codes == [Code.DISK_FULL] * 2, codes
            assert not list(Path("/mnt/run").glob("*.new"))
            ballast.truncate(0)
            kept = store.load()
            assert kept.round == 1 and kept.adapter.tolist() == [1.0] * 1000
            save(2, 2000)
    """)


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
    config = federation_of(config, quorum=2, deadline=1.0)
    north, south, west = nodes()
    west.hold("train", 1, until=lambda: south.times("train", 3) > 0)
    south.hold("train", 3, until=lambda: west.times("train", 3) > 0)
    grid = ScriptedGrid(north, south, west)
    run(config, grid, tmp_path / "run", federation)
    assert contributed(config, tmp_path / "run")[-1] == [*SITES]
    assert (grid.sent, grid.replies) == ({}, {})


def test_where_refusals_leave_no_quorum_sites_that_are_offline_are_told_apart(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    config = federation_of(config, quorum=2)
    north, south, west = nodes()
    north.but("query", Refusal("north", int(Code.POLICY_REFUSED)))
    west.but("query", Refusal("west", int(Code.SITE_IDENTITY)))
    grid = ScriptedGrid(north, south, west, script=lambda step: south.die() if step > 1 else None)
    with pytest.raises(FedReasonError) as stopped:
        run(config, grid, tmp_path / "run", federation)
    found = stopped.value.found
    assert found.index("north refused: E832") < found.index("west failed: E815") < found.index("south is offline: E507")
    assert "policy.toml" in found and "have the absent sites started" in stopped.value.fix


# --- Sites that make their model first ---


def test_a_site_that_makes_its_model_is_waited_for_and_how_far_it_is_stands_in_the_standing(
    config: RunConfig, federation: Federation, undisturbed: str, tmp_path: Path
) -> None:
    """With the quorum reached too, as one that works on its answer is."""
    config = federation_of(config, quorum=2)
    north, south, west = nodes()
    south.but("query", Refusal("south", int(Code.MODEL_MAKING), (20, 600)), times=20)
    seen: list[Standing] = []

    def script(step: int) -> None:
        if (now := read_standing(tmp_path / "run" / FILE)) and now.stages:
            seen.append(now)

    run(config, ScriptedGrid(north, south, west, script=script), tmp_path / "run", federation)
    assert seen[-1].stages == {"south": "making a model, step 20 of 600"} and seen[-1].refused == {}
    assert describe(seen[-1]).startswith("comparing models, waiting for ")
    assert "south (making a model, step 20 of 600)" in describe(seen[-1])
    assert contributed(config, tmp_path / "run") == [[*SITES]] * ROUNDS
    assert standing(tmp_path / "run").stages == {}


def test_a_site_that_never_ends_making_its_model_is_left_out_at_the_deadline(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    config = federation_of(config, quorum=2, deadline=0.3, rounds=1)
    north, south, west = nodes()
    for kind in ("query", "train"):
        south.but(kind, Refusal("south", int(Code.MODEL_MAKING), (1, 600)))
    run(config, ScriptedGrid(north, south, west), tmp_path / "run", federation)
    assert refused(config, tmp_path / "run") == [{"south": Code.MODEL_MAKING}]


def test_the_question_before_a_run_waits_for_a_model_that_is_being_made(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    north, south, west = nodes()
    south.but("query.ask", Refusal("south", int(Code.MODEL_MAKING), (1, 600)), times=9)
    path = tmp_path / "ask.json"
    with StandingFile(path) as told:
        ask_sites(config, GridExchange(ScriptedGrid(north, south, west), config, federation, told), told)
    found = read_standing(path)
    assert found is not None and {one.site: one.code for one in found.estimates} == dict.fromkeys(SITES)
    assert south.times("query.ask", 0) == 10


# --- Evaluation and the question before a run ---


def test_an_evaluation_ends_when_those_online_have_answered(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    north, south, west = nodes()
    west.but("evaluate", None, number=ROUNDS)
    south.but("evaluate", Refusal("south", int(Code.SITE_PAUSED)), number=ROUNDS)
    grid = ScriptedGrid(north, south, west, script=lambda step: west.die() if west.times("evaluate", ROUNDS) else None)
    started = time.monotonic()
    run(config, grid, tmp_path / "run", federation)
    assert time.monotonic() - started < 10
    with RunStore.opened(tmp_path / "run", config) as store:
        assert {(row.round, row.site) for row in store.evaluations()} == {
            *((0, site) for site in SITES),
            (ROUNDS, "north"),
        }


def test_the_question_before_a_run_is_answered_by_each_site_and_disturbs_no_run(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    north, south, west = nodes()
    south.but("query.ask", Refusal("south", int(Code.POLICY_REFUSED)))
    west.online = False
    path = tmp_path / "ask.json"
    with StandingFile(path) as told:
        ask_sites(config, GridExchange(ScriptedGrid(north, south, west), config, federation, told), told)
    found = read_standing(path)
    assert found is not None
    assert (found.state, found.exchange) == ("finished", None)
    assert [entry.model_dump(exclude_none=True) for entry in found.estimates] == [
        {"site": "north", "seconds_per_group": 0.5, "size": SIZE},
        {"site": "south", "code": 832},
        {"site": "west", "code": 507},
    ]
    assert {kind for site in (north, south) for kind, _ in site.asked} == {"query.ask"}


# --- How it is told ---


def test_the_standing_tells_each_round_and_its_cost(config: RunConfig, federation: Federation, tmp_path: Path) -> None:
    seen: list[Standing] = []
    grid = ScriptedGrid(*nodes())
    with RunStore.opened(tmp_path / "run", config) as store, StandingFile(tmp_path / FILE, ROUNDS) as told:

        def report(progress: Progress) -> None:
            told.tell(seconds=progress.seconds, bytes_up=progress.bytes_up, bytes_down=progress.bytes_down)
            seen.append(Standing.model_validate_json((tmp_path / FILE).read_text()))

        run_rounds(config, GridExchange(grid, config, federation, told), store, report)
        rows = store.rounds()
    assert [now.round for now in seen] == [1, 2, 3, 4]
    assert [(now.bytes_up, now.bytes_down) for now in seen] == [(row.bytes_up, row.bytes_down) for row in rows]
    assert rows[0].bytes_up >= 3 * 8 * SIZE and rows[0].bytes_down >= 3 * 4 * SIZE
    assert all(set(now.contact) == set(SITES) for now in seen)


@pytest.mark.parametrize(
    ("error", "state", "code"),
    [
        (FedReasonError(Code.RUN_QUORUM, "found", "fix"), "stopped", 503),
        (ValueError("SENTINEL"), "stopped", 506),
        (OSError(28, "No space left on device", "/runs/x"), "stopped", 821),
        (SystemExit(0), "aborted", 912),
        (KeyboardInterrupt(), "aborted", 912),
    ],
)
def test_the_standing_tells_how_a_run_ended(tmp_path: Path, error: BaseException, state: str, code: int) -> None:
    with pytest.raises((type(error), FedReasonError)), StandingFile(tmp_path / FILE, 3):
        raise error
    text = (tmp_path / FILE).read_text()
    now = Standing.model_validate_json(text)
    assert (now.state, now.code) == (state, code)
    assert now.found and now.fix
    assert "SENTINEL" not in text


def test_services_that_go_down_are_told_apart_from_a_run_that_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit), StandingFile(tmp_path / FILE, 3):
        monkeypatch.setattr(os, "getppid", lambda: 1)
        raise SystemExit(0)
    assert standing(tmp_path).code == Code.COORDINATOR_DOWN


def test_a_run_that_is_refused_its_folder_leaves_the_standing_of_the_run_in_it(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    run(config, ScriptedGrid(*nodes()), tmp_path / "run", federation)
    before = (tmp_path / "run" / FILE).read_bytes()
    with pytest.raises(FedReasonError):
        run(config.model_copy(update={"seed": 9}), ScriptedGrid(*nodes()), tmp_path / "run", federation)
    assert (tmp_path / "run" / FILE).read_bytes() == before


def test_flower_logs_a_refusal_of_the_serverapp_as_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    context = Context(
        run_id=1,
        node_id=1,
        node_config={},
        state=RecordDict(),
        run_config={"config": str(tmp_path / "none.toml"), "runs": str(tmp_path), "federation": "", "ask": False},
    )
    with pytest.raises(FedReasonError) as refusal:
        server_app.app(ScriptedGrid(), context)
    assert refusal.value.code == Code.CONFIG_MISSING
    flower = logging.getLogger("flwr")
    try:
        flower.log(logging.ERROR, "%s raised an exception", "ServerApp", exc_info=refusal.value)
        flower.log(logging.ERROR, "%s raised an exception", "ServerApp", exc_info=ValueError("other"))
    finally:
        flower.removeFilter(server_app.in_one_line)
    assert caplog.messages == [str(refusal.value), "ServerApp raised an exception"]
    assert [record.exc_info is None for record in caplog.records] == [True, False]


# --- Sites of a private run that may not answer ---


@pytest.mark.parametrize("private", [True, False])
def test_a_site_that_stays_silent_for_an_attempt_is_asked_for_the_next_one_and_only_in_a_private_run(
    config: RunConfig, federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, private: bool
) -> None:
    monkeypatch.setattr("server.rounds.asking.SILENT_SECONDS", 0.2)
    privacy = PrivacyConfig(clip_norm=1.0, noise_multiplier=1.0, delta=1e-5, answer_every=0.0)
    config = federation_of(config, deadline=300.0).model_copy(update={"privacy": privacy if private else None})
    north, south, west = nodes()
    dropped: list[int] = []

    def script(step: int) -> None:
        if west.queue and west.queue[0].metadata.message_type == "train" and len(dropped) < 2:
            dropped.append(read_task(west.queue.pop(0).content).attempt)

    run(config, ScriptedGrid(north, south, west, script=script), tmp_path / "run", federation)
    asked = [task.attempt for task in west.tasks if task.adapter is not None and task.round == 1]
    assert dropped == [0, 0] and asked[0] == int(private)
    assert {task.attempt for node in (north, south) for task in node.tasks} == {0}
    assert refused(config, tmp_path / "run") == [{}] * ROUNDS
