"""Four hospitals of a real federation: their runs, how far one is, and what the sites and commands say."""

from __future__ import annotations

import json
import time
from pathlib import Path

import tomli_w

from bench.deployment import Deployment
from bench.waiting import until
from client.training.workplace import Workplace
from common.arrays import adapter_sha256
from common.config import RunConfig
from server.rounds.loop import run_rounds
from server.rounds.store import RunStore
from simulation.arms import LocalExchange
from tests.small import small_config

HOSPITALS = ("coast", "east", "north", "west")
POLICY = {
    "metrics": "plain",
    "base_models": ["*"],
    "max_rounds": 50,
    "patient": {"column": "patient_id"},
    "privacy": {"min_answer_every": 1.0},
}


def config_of(model: Path, name: str, rounds: int, **changes: object) -> RunConfig:
    """Return a run of these hospitals whose rounds take seconds."""
    federation = {"sites": len(HOSPITALS), "population": 48, "sampling_rate": 0.6, "rounds": rounds, "deadline": 300.0}
    simulation = {"hospitals": list(HOSPITALS), "patients": 12}
    return small_config(model, name=name, federation={**federation, **changes}, simulation=simulation)


def written(config: RunConfig, folder: Path) -> Path:
    """Write a run configuration as its author would."""
    table = config.model_dump(mode="json", exclude_none=True)
    table["questions"].pop("codebook_sha256")
    path = folder / f"{config.name}.toml"
    path.write_text(tomli_w.dumps(table))
    return path


def undisturbed(config: RunConfig, prepared: dict[str, Path], folder: Path) -> str:
    """Hash of the adapter that the same hospitals reach in one process, without Flower."""
    with RunStore.opened(folder, config) as store:
        return adapter_sha256(run_rounds(config, LocalExchange([Workplace(f) for f in prepared.values()]), store))


def reached(deployment: Deployment, config: RunConfig) -> str:
    """Hash of the adapter in the run folder."""
    with RunStore.opened(deployment.federation / "runs" / config.name, config) as store:
        checkpoint = store.load()
        assert checkpoint is not None and checkpoint.round == config.federation.rounds
        return adapter_sha256(checkpoint.adapter)


def standing(deployment: Deployment, config: RunConfig) -> dict[str, object]:
    path = deployment.federation / "runs" / config.name / "standing.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def under_way(deployment: Deployment, config: RunConfig, number: int) -> None:
    """Wait until the sites are asked for their part of a round."""
    until(
        lambda: (
            standing(deployment, config).get("round") == number
            and standing(deployment, config).get("exchange") == "train"
        ),
        lambda: f"round {number}: {standing(deployment, config)} {deployment.log('run')} {deployment.log('up')}",
    )


def refused(deployment: Deployment, *words: object) -> str:
    """Run a command that must refuse, and return the number; the time is printed, for `pytest -s`."""
    started = time.monotonic()
    done = deployment.command(*words)
    output = done.stdout + done.stderr
    assert done.returncode not in (0, None), output
    assert "Traceback" not in output
    lines = [line for line in output.splitlines() if line.startswith("E")]
    assert len(lines) == 1, output
    print(f"{time.monotonic() - started:.1f} s  {lines[0]}")
    return lines[0].split(":")[0]


def state(deployment: Deployment, site: str) -> str:
    return str(json.loads((deployment.hospitals / site / "state" / "status.json").read_text())["state"])
