"""What each stage of a round took: told by site, of all that was sent and came, and of those who did not answer."""

from __future__ import annotations

from pathlib import Path

from common.config import RunConfig
from common.errors import Code
from common.messages.kinds import Refusal
from server.dashboard.history import History
from server.provisioning.federation import Federation
from server.rounds.stages import EVALUATE, TRAIN, Stages
from tests.scripted_grid import ScriptedGrid, federation_of, run
from tests.server.rounds.faults.scene import ROUNDS, SITES, nodes


def read(folder: Path) -> tuple[History, dict[int, Stages]]:
    history = History(folder)
    history.look()
    return history, dict(history.stages(ROUNDS + 1))


def test_the_bytes_of_the_sites_are_those_of_the_round(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    """One answer is passing at first: what is sent twice counts twice, and what comes later took longer."""
    north, south, west = nodes()
    west.but("train", Refusal("west", int(Code.SITE_WORKER)), times=1, number=2)
    run(config, ScriptedGrid(north, south, west), tmp_path / "run", federation)
    history, stages = read(tmp_path / "run")
    assert [list(stages[number]) for number in (0, 1, ROUNDS)] == [[EVALUATE], [TRAIN], [TRAIN, EVALUATE]]
    for row in history.rounds:
        took = stages[row.round][TRAIN]
        assert took.keys() == set(SITES)
        assert sum(one.down for one in took.values()) == row.bytes_down
        assert sum(one.up for one in took.values()) == row.bytes_up
        assert all(one.seconds is not None for one in took.values())
    again = stages[2][TRAIN]
    assert again["west"].down == 2 * again["north"].down
    assert (again["west"].seconds or 0) > (again["north"].seconds or 0)


def test_of_a_site_that_did_not_answer_no_time_and_no_bytes_are_told(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    config = federation_of(config, quorum=2)
    north, south, west = nodes()
    west.hold("train", 2, lambda: north.times("train", 3) > 0)
    south.but("train", Refusal("south", int(Code.POLICY_REFUSED)), number=3)
    run(config, ScriptedGrid(north, south, west), tmp_path / "run", federation)
    history, stages = read(tmp_path / "run")
    silent = stages[2][TRAIN]["west"]
    assert history.rounds[1].refused == {"west": int(Code.SITE_SILENT)}
    assert (silent.seconds, silent.up) == (None, 0) and silent.down > 0
    refused = stages[3][TRAIN]["south"]
    assert refused.seconds is not None and refused.up == len("south")
