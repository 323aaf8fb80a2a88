"""A run in which time goes fast, its federation, and the adapter that it ends with where nothing goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.supercore.task_identity import TaskIdentity

from common.config import RunConfig
from server.provisioning.federation import Federation
from tests.scripted_grid import ScriptedGrid, run
from tests.server.rounds.faults.scene import ROUNDS, make_federation, nodes
from tests.small import small_config


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
        Path("none"), federation={"rounds": ROUNDS, "deadline": 600.0}, optimizer={"learning_rate": 1e-2}
    )


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    """Return the coordinator's folder of a federation of three sites, registered as nodes 1 to 3."""
    return make_federation(tmp_path / "coordinator")


@pytest.fixture
def undisturbed(config: RunConfig, federation: Federation, tmp_path: Path) -> str:
    """Return the adapter of a run in which nothing goes wrong."""
    return run(config, ScriptedGrid(*nodes()), tmp_path / "undisturbed", federation)
