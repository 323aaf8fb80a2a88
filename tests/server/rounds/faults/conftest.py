"""A run whose time passes where it waits alone, its federation, and the adapter that it ends with undisturbed."""

from __future__ import annotations

from pathlib import Path

import pytest
from flwr.supercore.task_identity import TaskIdentity

from common.config import RunConfig
from server.provisioning.federation import Federation
from tests.clock import Clock
from tests.scripted_grid import ScriptedGrid, run
from tests.server.rounds.faults.scene import ROUNDS, make_federation, nodes
from tests.small import small_config


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return the clock of coordinator and sites; messages may be made outside of a run of Flower's."""
    found = Clock()
    for module in ("server.rounds.grid", "server.rounds.attendance", "server.rounds.stages", "tests.scripted_grid"):
        monkeypatch.setattr(f"{module}.time", found)
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    return found


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
