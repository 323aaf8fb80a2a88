"""Hospitals of a federation as people make them, all but the network, and a coordinator that asks what it likes."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import tomli_w

import client.node.handlers
from client.node.handlers import HANDLERS, answer
from client.privacy.ledger import Ledger
from client.site.kit import accepted_roster
from client.training.workplace import Workplace
from common import synthetic
from common.codebook import Codebook
from common.config import RunConfig
from common.messages.kinds import Refusal, Reply, Task
from server.provisioning.federation import Federation
from simulation.prepare import write_site
from tests.federations import joined, made
from tests.small import small_config

POLICY: dict[str, object] = {
    "base_models": ["*"],
    "patient": {"column": "patient_id"},
    "privacy": {"epsilon": 100.0, "min_sites": 2, "max_steps": 1000},
}
PRIVACY = {"clip_norm": 0.5, "noise_multiplier": 8.0, "delta": 1e-5}
PATIENTS = 24


def federation_of(
    folder: Path, *names: str, federation: str = "sepsis", codebook: Codebook | None = None
) -> list[Path]:
    """Make the folders of admitted sites, each with a registry of its own and the policy of its officer."""
    described = None
    if codebook is not None:
        folder.mkdir(parents=True, exist_ok=True)
        described = folder / "codebook.toml"
        described.write_text(codebook.to_toml())
    provisioned = made(folder, sites=names, name=federation, codebook=described)
    folders = joined(Federation.open(provisioned.federation.folder), *names)
    for number, site in enumerate(folders):
        rows = synthetic.registry(("north", "south", "west")[number % 3], PATIENTS, seed=7)
        write_registry(site, rows)
        settle(site, registry={"path": "registry.csv"}, device="cpu", threads=1)
        (site / "policy.toml").write_text(tomli_w.dumps(POLICY))
    return folders


def write_registry(site: Path, rows: Sequence[dict[str, str]]) -> None:
    """Write the registry of a site; its other files stay."""
    book = synthetic.codebook()
    columns = [*dict.fromkeys([*rows[0], book.patient, *book.by_name])]
    written = write_site(site / "export", "export", columns, rows, book)
    (written / "registry.csv").replace(site / "registry.csv")


def settle(site: Path, **changes: object) -> None:
    """Change keys of site.toml."""
    path = site / "site.toml"
    path.write_text(tomli_w.dumps({**tomllib.loads(path.read_text()), **changes}))


def private_run(model: Path, name: str = "trial", **changes: Any) -> RunConfig:
    """Return a private run of the federation in which everybody trains and a round takes a second."""
    sections: dict[str, Any] = {
        "federation": {"name": "sepsis", "sites": 2, "population": 50, "sampling_rate": 1.0, "rounds": 20},
        "grpo": {"max_completion_tokens": 1, "group_size": 2},
        "questions": {"per_patient": 1},
        "privacy": PRIVACY,
    }
    merged = {key: {**sections.get(key, {}), **value} for key, value in changes.items()}
    return small_config(model, name=name, **{**sections, **merged})


def asked(site: Path, config: RunConfig, number: int = 1, *, kind: str = "train", **more: Any) -> Reply:
    """Ask a site as a coordinator does, with a zero adapter, bound to the roster that the site accepted."""
    layout = Workplace(site).engine(config).layout
    bound = {"roster_sha256": accepted_roster(site).sha256, **more}
    return answer(site, HANDLERS[kind], Task(config, number, 0, np.zeros(layout.size, dtype=np.float32), **bound))


def refusal(reply: Reply) -> int | None:
    """Return the number of a refusal, None where the site did what was asked."""
    return reply.code if isinstance(reply, Refusal) else None


@contextmanager
def machine() -> Iterator[Path]:
    """Give a folder on a machine of its own, whose record knows of no other site; what was open is forgotten."""
    with TemporaryDirectory() as folder, patch.dict(os.environ, {"FEDREASON_STATE": f"{folder}/machine"}):
        restart()
        yield Path(folder)


def restart() -> None:
    """Forget every site that is open in this process, as a new process would."""
    client.node.handlers._sites.clear()


def lines(site: Path) -> int:
    """Return how many releases a site's ledger has."""
    return len(Ledger.opened(site).entries())
