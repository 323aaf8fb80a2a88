"""A question before a run is answered by the sites that it was put to, of the configuration that it asks about."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from common.config import RunConfig
from common.errors import Code
from common.messages.kinds import Refusal
from server import app as server_app
from server.provisioning.federation import Federation
from server.reports import forecast
from server.services.control import FlowerRun
from tests.federations import refused
from tests.scripted_grid import ScriptedGrid
from tests.server.rounds.faults.scene import SITES, make_federation, nodes
from tests.small import small_config

UNPRICED = Refusal("south", int(Code.POLICY_REFUSED))


def program(config: RunConfig, runs: Path, run_id: int, *, south: Refusal | None = None) -> None:
    """Put a question to three sites, as the program does that Flower starts for it."""
    north, other, west = nodes()
    if south is not None:
        other.but("query.ask", south)
    values = {"stated": config.model_dump_json(), "runs": str(runs), "federation": "", "ask": True}
    context = Context(run_id=run_id, node_id=1, node_config={}, state=RecordDict(), run_config=values)  # type: ignore[arg-type]
    server_app.app(ScriptedGrid(north, other, west), context)


class Flower:
    """A SuperLink that starts the program of the question at once, and after it that of another one."""

    def __init__(self, config: RunConfig, *, own: bool = True) -> None:
        self.config, self.own = config, own
        self.stopped: list[int] = []

    def submit(self, federation: Federation, path: Path, sha256: str, stated: str, *, ask: bool) -> int:
        config = RunConfig.model_validate_json(stated)
        if self.own:
            program(config, federation.runs, 2**63 + 7)
        program(self.config, federation.runs, 8, south=UNPRICED)
        return 2**63 + 7

    def run_status(self, federation: Federation, run_id: int) -> FlowerRun:
        return FlowerRun(run_id, "finished", "failed", "")

    def stop_run(self, federation: Federation, run_id: int) -> bool:
        self.stopped.append(run_id)
        return True


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Federation:
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    return make_federation(tmp_path / "coordinator")


def asked(federation: Federation, flower: Any, monkeypatch: pytest.MonkeyPatch) -> forecast.Forecasts:
    monkeypatch.setattr(forecast, "control", flower)
    return forecast.ask(federation, Path("run.toml"), flower.config.model_copy(update={"seed": 5}))


def test_a_question_is_answered_of_its_own_configuration_whoever_asks_about_the_run_meanwhile(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(Path("none"))
    found = asked(federation, Flower(config), monkeypatch)
    assert [(one.site, one.takes_part) for one in found.sites] == [(site, True) for site in SITES]
    left = sorted(path.name for path in (federation.runs / config.name).iterdir())
    assert left == ["ask-8.json"], "the other question's answer is whole, and its own is taken away"


def test_a_question_whose_program_ended_without_a_word_takes_no_answer_of_another(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast, "_LOOK_SECONDS", 0.0)
    flower = Flower(small_config(Path("none")), own=False)
    refused(Code.RUN_FAILED, lambda: asked(federation, flower, monkeypatch))
    assert flower.stopped == [2**63 + 7]


def test_answers_that_nobody_waits_for_any_more_are_removed_by_the_next_question(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(Path("none"))
    folder = federation.runs / config.name
    folder.mkdir(parents=True)
    for name, age in (("ask.json", 1e6), ("ask-3.json", config.federation.deadline + 61), ("ask-4.json", 5.0)):
        (folder / name).touch()
        os.utime(folder / name, (time.time() - age,) * 2)
    asked(federation, Flower(config), monkeypatch)
    assert sorted(path.name for path in folder.iterdir()) == ["ask-4.json", "ask-8.json"]
