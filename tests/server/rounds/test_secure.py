"""A secure sum in the rounds: the same adapter as the plain and the pooled run, whoever is lost on the way."""

from __future__ import annotations

from pathlib import Path

from client.training.workplace import Workplace
from common import synthetic
from common.arrays import adapter_sha256
from common.config import RunConfig
from server.rounds.loop import run_rounds
from server.rounds.store import RunStore
from simulation.arms import LocalExchange, one_site
from simulation.prepare import prepare
from tests.small import small_config

HOSPITALS = ["coast", "east", "north", "south", "west"]


def config_of(model: Path, aggregation: str = "secure", **changes: object) -> RunConfig:
    federation = {"sites": 5, "population": 60, "sampling_rate": 0.6, "rounds": 2, "aggregation": aggregation}
    lattice = {"bits": 24, "clip_norm": 0.5}
    simulation = {"hospitals": HOSPITALS, "patients": 12}
    return small_config(model, federation={**federation, **changes}, lattice=lattice, simulation=simulation)


def reached(config: RunConfig, sites: list[Path], folder: Path) -> str:
    with RunStore.opened(folder, config) as store:
        return adapter_sha256(run_rounds(config, LocalExchange([Workplace(site) for site in sites]), store))


def test_secure_plain_and_pooled_end_with_the_same_bits(small_model: Path, tmp_path: Path) -> None:
    config = config_of(small_model)
    sites = list(prepare(config, synthetic.codebook(), tmp_path / "run").values())
    secure = reached(config, sites, tmp_path / "secure")
    plain = reached(config_of(small_model, "plain"), sites, tmp_path / "plain")
    pooled = reached(one_site(config), [tmp_path / "run" / "pooled" / "pooled"], tmp_path / "pooled")
    assert secure == plain == pooled
