"""A collapse that is provoked is named within five steps, at the sites and at the coordinator; the recipe is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.training.log import read_log
from common.config import RunConfig, load_config
from server.rounds.loop import run_rounds
from server.rounds.store import RunStore
from simulation.arms import LocalExchange
from simulation.driver import prepare_once
from simulation.folders import open_sites
from tests.paths import ROOT

STEPS, NAMED = 5, "the mean reward fell"


def demo(learning_rate: float) -> RunConfig:
    """Return the demo of fewer patients, more of whom take part, at a learning rate that begins at once."""
    table = load_config(ROOT / "configs" / "demo.toml")[0].model_dump(mode="json", exclude_none=True)
    table["optimizer"] |= {"learning_rate": learning_rate, "warmup_rounds": 0}
    table["federation"] |= {"rounds": STEPS, "population": 216, "sampling_rate": 0.1}
    table["simulation"]["patients"] = 120
    return RunConfig.model_validate(table)


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.parametrize("factor", [1, 40])
def test_forty_times_the_recipe_s_learning_rate_is_named_within_five_steps(factor: int, tmp_path: Path) -> None:
    """Ten times as much ends some runs and spares others, by how a processor rounds."""
    _, codebook = load_config(ROOT / "configs" / "demo.toml")
    config = demo(1e-3 * factor)
    prepare_once(config, codebook, tmp_path, ROOT / "configs")
    sites = open_sites(tmp_path)
    told: list[tuple[str, ...]] = []
    with RunStore.opened(tmp_path, config) as store:
        run_rounds(config, LocalExchange(sites, evaluate=False), store, lambda progress: told.append(progress.collapse))
    logged = [entry.collapse for site in sites for entry in read_log(site.folder, config.name)]
    assert len(told) == STEPS and len(logged) == STEPS * len(sites)
    if factor == 1:
        assert set(told) == {()} and set(logged) == {""}
    else:
        assert told[0] == () and any(NAMED in line for lines in told for line in lines)
        assert any(NAMED in line for line in logged)
