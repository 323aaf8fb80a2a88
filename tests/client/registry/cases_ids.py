"""Registries of a line or two, read or refused by number."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.registry.load import Registry
from client.site.config import RegistryConfig, SiteConfig
from client.site.opened import read_registry
from common.codebook import Codebook, Task
from common.errors import Code, FedReasonError
from common.feature import Feature

AGE = Feature(name="age", section="Person", label="Age", kind="numeric", low=0, high=120, step=5)
LACTATE = Feature(
    name="lact", section="Labs", label="Lactate", kind="numeric", low=0, high=30, step=1, decimals=1, series=True
)
BOOK = Codebook(title="T", patient="id", features=(AGE,))
TIMED = Codebook(
    title="T",
    patient="id",
    features=(AGE, LACTATE),
    tasks=(Task(name="l24", kind="later", feature="lact", hours=24, tolerance=0.5, question="In 24 hours?"),),
)


def refusal(of: FedReasonError, code: Code, *told: str) -> None:
    assert of.code is code, str(of)
    for part in told:
        assert part in str(of)


def read(folder: Path, rows: str, codebook: Codebook = BOOK) -> Registry:
    (folder / "r.csv").write_text(rows)
    return read_registry(SiteConfig(name="amc", registry=RegistryConfig(path=folder / "r.csv")), codebook)


def refused(folder: Path, rows: str, codebook: Codebook = BOOK) -> FedReasonError:
    with pytest.raises(FedReasonError) as caught:
        read(folder, rows, codebook)
    return caught.value
