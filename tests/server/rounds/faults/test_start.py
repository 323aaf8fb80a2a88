"""A run starts with whom its configuration and its roster name, or ends at its deadline and says who is missing."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from common.config import RunConfig
from common.errors import Code, FedReasonError
from server.provisioning.federation import Federation
from server.rounds.estimates import ask_sites
from server.rounds.grid import GridExchange
from server.rounds.standing import FILE, Standing, StandingFile, read_standing
from tests.clock import Clock
from tests.scripted_grid import Node, ScriptedGrid, federation_of, run
from tests.server.rounds.faults.scene import ROUNDS, SITES, Stopped, contributed, nodes, standing, stop_after


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
    config = federation_of(config, quorum=2, deadline=20.0, rounds=1)
    north, south, west = nodes()
    west.online = False
    run(config, ScriptedGrid(north, south, west), tmp_path / "run", federation)
    assert contributed(config, tmp_path / "run") == [["north", "south"]]


def test_below_the_quorum_the_start_ends_at_the_deadline_and_names_the_missing(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    config = federation_of(config, quorum=2, deadline=20.0)
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
    revoked: list[int] = []
    north.hold("train", 2, until=lambda: bool(revoked))

    def script(step: int) -> None:
        if north.times("train", 2) and not revoked:
            revoked.append(step)
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


# --- A run that goes on ---


def after_two_rounds(config: RunConfig, federation: Federation, folder: Path) -> tuple[Node, Node, Node]:
    """Do two rounds, and return the sites as they are when the coordinator is back."""
    with pytest.raises(Stopped):
        run(config, ScriptedGrid(*nodes()), folder, federation, stop_after(2))
    return nodes()


def test_a_run_that_goes_on_waits_a_minute_at_most_for_a_site_that_is_away(
    config: RunConfig, federation: Federation, tmp_path: Path, clock: Clock
) -> None:
    config = federation_of(config, quorum=2, deadline=3600.0)
    north, south, west = after_two_rounds(config, federation, tmp_path / "run")
    west.online, before = False, clock.monotonic()
    run(config, ScriptedGrid(north, south, west), tmp_path / "run", federation)
    assert clock.monotonic() - before < 120
    assert contributed(config, tmp_path / "run") == [[*SITES]] * 2 + [["north", "south"]] * 2


def test_a_run_that_goes_on_below_its_quorum_waits_until_sites_come_back(
    config: RunConfig, federation: Federation, tmp_path: Path, clock: Clock
) -> None:
    config = federation_of(config, quorum=2, deadline=300.0)
    north, south, west = after_two_rounds(config, federation, tmp_path / "run")
    south.online = west.online = False
    before = clock.monotonic()

    def script(step: int) -> None:
        south.online = clock.monotonic() - before > 5 * config.federation.deadline

    run(config, ScriptedGrid(north, south, west, script=script), tmp_path / "run", federation)
    assert contributed(config, tmp_path / "run") == [[*SITES]] * 2 + [["north", "south"]] * 2
