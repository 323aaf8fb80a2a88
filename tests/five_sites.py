"""A run over five simulated hospitals, by secure sums or plain ones."""

from __future__ import annotations

from pathlib import Path

from common.config import RunConfig
from tests.small import small_config

HOSPITALS = ["coast", "east", "north", "south", "west"]
LATTICE: dict[str, object] = {"bits": 24, "clip_norm": 0.5}


def config_of(
    model: Path, aggregation: str = "secure", lattice: dict[str, object] = LATTICE, **changes: object
) -> RunConfig:
    federation = {"sites": 5, "population": 60, "sampling_rate": 0.6, "rounds": 2, "aggregation": aggregation}
    simulation = {"hospitals": HOSPITALS, "patients": 12}
    return small_config(model, federation={**federation, **changes}, lattice=lattice, simulation=simulation)
