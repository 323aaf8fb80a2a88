"""What is copied of a real table into a simulation can be read by whoever runs it and by nobody else."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from common import synthetic
from simulation.driver import prepare_once
from tests.small import small_config


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize("before", [False, True])
def test_copies_of_records_are_for_their_owner_alone_also_where_a_version_before_left_them_to_all(
    tmp_path: Path, before: bool
) -> None:
    rows = [row for name in ("north", "south") for row in synthetic.registry(name, 20, 5)]
    with (tmp_path / "own.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    table = {"registry": "own.csv", "hospitals": (), "alpha": 5.0}
    config = small_config(Path("none"), simulation=table, federation={"sites": 2, "quorum": 2})
    folder = tmp_path / "studies" / "own" / "seed-1"
    umask = os.umask(0o022)
    try:
        prepare_once(config, synthetic.codebook(), folder, tmp_path)
    finally:
        os.umask(umask)
    if before:
        for copy in folder.rglob("registry.csv"):
            copy.chmod(0o644)
            copy.parent.chmod(0o755)
        prepare_once(config, synthetic.codebook(), folder, tmp_path)
    copies = sorted(folder.rglob("registry.csv"))
    assert [copy.parent.name for copy in copies] == ["pooled", "site1", "site2"]
    assert all((mode(copy), mode(copy.parent)) == (0o600, 0o700) for copy in copies)
    assert mode(folder) == 0o755, "a run's report is for whoever may enter it"
    with copies[0].open(newline="") as file:
        assert sorted(csv.DictReader(file), key=str) == sorted(rows, key=str)
