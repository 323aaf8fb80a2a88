"""Four hospitals on loopback: TLS, node authentication, nginx in front. One deployment for each file of tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.deployment import Deployment, started, state_split
from common import synthetic
from simulation.prepare import prepare
from tests.deployment.hospitals import POLICY, config_of


@pytest.fixture(scope="module")
def prepared(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Site folders of the same hospitals as a simulation has them, for the undisturbed run."""
    config = config_of(small_model, "prepared", 1)
    folders = prepare(config, synthetic.codebook(), tmp_path_factory.mktemp("prepared"))
    for folder in folders.values():
        state_split(folder)
    return folders


@pytest.fixture(scope="module")
def deployment(prepared: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    registries = {name: folder / "registry.csv" for name, folder in prepared.items()}
    with started(Deployment(tmp_path_factory.mktemp("deploy"), registries, POLICY)) as running:
        yield running
