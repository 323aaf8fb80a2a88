"""A site that makes its model first is waited for until the deadline, and the standing tells how far it is."""

from __future__ import annotations

from pathlib import Path

from common.config import RunConfig
from common.errors import Code
from common.messages.kinds import Refusal
from server.provisioning.federation import Federation
from server.rounds.estimates import ask_sites
from server.rounds.following import describe
from server.rounds.grid import GridExchange
from server.rounds.standing import FILE, Standing, StandingFile, read_standing
from tests.scripted_grid import ScriptedGrid, federation_of, run
from tests.server.rounds.faults.scene import ROUNDS, SITES, contributed, nodes, refused, standing


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
    config = federation_of(config, quorum=2, deadline=20.0, rounds=1)
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
