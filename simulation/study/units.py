"""What a study is made of: a unit for every arm and seed, and of some arms for every site; done once, kept whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from simulation.driver import prepare_once
from simulation.study.config import BY_SITE, PRIVATE, REFERENCES, Arm, Study


@dataclass(frozen=True)
class Unit:
    """An arm of one seed; `site` is the one whose adapter it is (`alone`) or that has no part in it (`left_out`)."""

    seed: int
    arm: Arm
    site: str | None = None

    @property
    def name(self) -> str:
        """Name of its file."""
        return "-".join([str(self.seed), self.arm, *([] if self.site is None else [self.site])])

    @property
    def trained(self) -> bool:
        """Whether it takes rounds."""
        return self.arm not in ("before", *REFERENCES)

    @classmethod
    def named(cls, name: str) -> Unit:
        """Return the unit of a name."""
        seed, arm, *site = name.removeprefix("-").split("-", 2)
        return cls(-int(seed) if name.startswith("-") else int(seed), cast(Arm, arm), site[0] if site else None)


def units_of(study: Study, sites: Sequence[str]) -> list[Unit]:
    """Return every unit, in the order of the table."""
    found = []
    for seed in study.config.seeds:
        for arm in study.config.arms:
            found += [Unit(seed, arm, site) for site in sites] if arm in BY_SITE else [Unit(seed, arm)]
    return found


def unit_path(folder: Path, unit: Unit) -> Path:
    """File with a unit's rows; it is there once the unit is done."""
    return folder / "units" / f"{unit.name}.parquet"


def seed_folder(folder: Path, seed: int, arm: Arm | None = None) -> Path:
    """Run folder of a seed; a private arm has sites of its own, whose ledgers nobody else charges."""
    return folder / f"seed-{seed}" if arm not in PRIVATE else folder / f"seed-{seed}-{arm}"


def prepare_units(study: Study, folder: Path) -> list[str]:
    """Lay out the sites of every seed, and of the private arms; return the sites' names."""
    names: list[str] = []
    for seed in study.config.seeds:
        for arm in (None, *(arm for arm in study.config.arms if arm in PRIVATE)):
            run = study.run_of(arm or "federated", seed)
            found = prepare_once(run, study.codebook, seed_folder(folder, seed, arm), study.base)
            names += [name for name in found if name not in names]
    return names
