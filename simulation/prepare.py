"""Lay out a simulation's hospitals as real site folders: site.toml, codebook, registry; and one that pools them all."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import tomli_w

from client.registry.delimited import read_delimited
from client.site.kit import ROSTER
from common import synthetic
from common.codebook import ROW, Codebook
from common.config import SYNTHETIC, RunConfig, SimulationConfig
from common.errors import Code, FedReasonError
from common.identity.keys import (
    load_signing_key,
    new_node_key,
    new_signing_key,
    private_folder,
    public_text,
    save_key,
    write_private,
)
from common.identity.kit import COORDINATOR_KEY
from common.identity.roster import Member, Roster, sign_roster
from server.rounds.store import write_durably
from simulation.partition import Row, column_sites, dirichlet_sites, whole_patients

POOLED = "pooled"
_ANOTHER = 1_000_000
"""From the seed of a synthetic hospital to that of another one like it."""
_POLICY = {
    "metrics": "plain",
    "base_models": ["*"],
    "protocols": ["fedsgd", "fedavg"],
    "max_prompt_tokens": 10**6,
    "max_completion_tokens": 10**6,
    "min_temperature": 1e-3,
    "max_temperature": 1e3,
    "min_top_p": 1e-3,
    "max_group_size": 10**6,
    "max_questions": 10**6,
    "max_attempts": 10**6,
    "max_rounds": 10**6,
    "privacy": {
        "epsilon": 1e6,
        "max_clip_norm": 1e6,
        "min_noise_multiplier": 0.0,
        "max_steps": 10**6,
        "min_answer_every": 0.0,
        "shared_noise": True,
    },
}
"""A simulated hospital allows everything that can be computed."""


def prepare(config: RunConfig, codebook: Codebook, folder: Path, *, base: Path = Path()) -> dict[str, Path]:
    """Write the site folders of a run below `folder` and return them by site, the pooled one beside them.

    Parameters
    ----------
    base
        Folder that a relative path to a real table or to a base model starts from.
    """
    simulation = simulation_of(config)
    rows = split(config, codebook, simulation, base)
    if len(rows) != config.federation.sites:
        raise FedReasonError(
            Code.CONFIG_VALUE,
            f"The simulation has {len(rows)} sites, federation.sites says {config.federation.sites}.",
            "Make the two agree.",
        )
    columns = codebook.columns
    folders = {
        site: write_site(folder / "sites" / site, site, columns, part, codebook, base) for site, part in rows.items()
    }
    if config.secure:
        write_roster(config.federation.name, folders)
    everyone = [row for part in rows.values() for row in part]
    write_site(folder / POOLED / POOLED, POOLED, columns, everyone, codebook, base)
    return folders


def simulation_of(config: RunConfig) -> SimulationConfig:
    """Return the simulation section, which a configuration for real hospitals lacks."""
    if config.simulation is None:
        raise FedReasonError(
            Code.CONFIG_VALUE,
            f"The run '{config.name}' has no [simulation] section: its records are at real hospitals.",
            "Run it on the coordinator, or add the section to try it on a table of your own.",
        )
    return config.simulation


def split(
    config: RunConfig, codebook: Codebook, simulation: SimulationConfig, base: Path
) -> Mapping[str, Sequence[Row]]:
    """Rows of every site: synthetic hospitals, or the patients of a real table by columns or by strata."""
    if simulation.registry == SYNTHETIC:
        return {name: synthetic_rows(name, simulation.patients, config.seed) for name in simulation.hospitals}
    table = read_delimited(base / expanded(simulation.registry))
    rows = [dict(zip(table.columns, cells, strict=True)) for _, cells in table.rows]
    if not rows:
        raise FedReasonError(Code.REGISTRY_EMPTY, f"{table.name} has a header and no rows.", "Export the table again.")
    if codebook.patient == ROW:
        raise FedReasonError(
            Code.CONFIG_VALUE,
            f"{table.name} names no patient: a row's number is another one at its site than where all are pooled.",
            "Give it a column of identifiers, and the codebook its name.",
        )

    def by_site(firsts: Sequence[Row]) -> dict[str, list[Row]]:
        if simulation.columns:
            return column_sites(firsts, *simulation.columns)
        return dirichlet_sites(firsts, simulation.stratify, config.federation.sites, simulation.alpha, config.seed)

    return whole_patients(rows, codebook.patient, by_site)


def synthetic_rows(name: str, patients: int, seed: int) -> list[Row]:
    """Registry of a synthetic hospital; `north-2` is another one like `north`, of other patients."""
    profile, _, number = name.partition("-")
    another = int(number) - 1 if number.isdecimal() else 0
    return synthetic.registry(profile if another > 0 else name, patients, seed + _ANOTHER * another)


def expanded(text: str) -> Path:
    """Path with its environment variables filled in."""
    path = os.path.expandvars(text)
    unset = re.findall(r"\$\{?(\w+)", path)
    if unset:
        raise FedReasonError(
            Code.CONFIG_VALUE,
            f"simulation.registry needs the environment variable {unset[0]}.",
            f"Set {unset[0]} to the folder.",
        )
    return Path(path).expanduser()


def write_roster(federation: str, folders: Mapping[str, Path]) -> None:
    """Give the sites of a simulation a roster of their signing keys, for secure sums; one that is there stays."""
    if all((folder / ROSTER).exists() for folder in folders.values()):
        return
    key, today = new_signing_key(), datetime.now(UTC).replace(microsecond=0)
    members = tuple(
        Member(
            site=name,
            signing_key=public_text(load_signing_key(folder / "keys" / "signing")),
            node_key=public_text(new_node_key()),
            admitted=today.date(),
        )
        for name, folder in folders.items()
    )
    text = sign_roster(Roster(federation=federation, version=1, issued=today, members=members), key)
    for folder in folders.values():
        write_durably(folder / COORDINATOR_KEY, public_text(key) + "\n")
        write_durably(folder / ROSTER, text)


def write_site(
    folder: Path, name: str, columns: Sequence[str], rows: Sequence[Row], codebook: Codebook, models: Path = Path()
) -> Path:
    """Write one site folder, for its owner alone; its counts may leave it, since a simulation stays on one machine.

    A column that the table lacks stays absent, so that the site meets it as a hospital would.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    private_folder(folder)
    kept = [column for column in columns if not rows or column in rows[0]]
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, kept, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    write_private(folder / "registry.csv", table.getvalue().encode())
    write_durably(folder / "codebook.toml", codebook.to_toml())
    site = {
        "name": name,
        "device": "auto",
        "threads": 1,
        "models": str(models.resolve()),
        "registry": {"path": "registry.csv"},
    }
    write_durably(folder / "site.toml", tomli_w.dumps(site))
    unit = {} if codebook.patient == ROW else {"patient": {"column": codebook.patient}}
    write_durably(folder / "policy.toml", tomli_w.dumps({**_POLICY, **unit}))
    if not (folder / "keys" / "signing").exists():
        private_folder(folder / "keys")
        save_key(folder / "keys" / "signing", new_signing_key(), name)
    return folder
