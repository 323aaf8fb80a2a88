"""Does the coordinator's memory grow with the sites? `python -m bench.memory --sites 4 16 64 --megabytes 50`.

One round of the server's own loop, for every number of sites and both kinds of sum, each in a process of its own whose
largest size is what is told. The sites are in another process (bench/apart.py); one of them is lost. Prints JSON.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from bench.result import print_result
from bench.words import spread
from common.config import RunConfig

_LOST = 1
FEWEST_SITES = 4
"""With three no site may be lost."""


class Kind(StrEnum):
    """How the sites' parts are summed."""

    PLAIN = "plain"
    SECURE = "secure"


def peak_mib(kind: Kind, sites: int, megabytes: float) -> float:
    """Return the largest size of this process, in MiB, over a round with an adapter of so many megabytes.

    Raises
    ------
    AssertionError
        Where the sum is not that of the sites that are left.
    """
    from bench.apart import part_of_all, sites_apart
    from server.rounds.grid import GridExchange
    from server.rounds.loop import run_rounds
    from server.rounds.store import RunStore

    size, config = round(megabytes * 1e6 / 4), config_of(kind, sites)
    with (
        tempfile.TemporaryDirectory() as name,
        sites_apart(sites, size, lost=_LOST) as (grid, roster),
        RunStore.opened(Path(name), config) as store,
    ):
        adapter = run_rounds(config, GridExchange(grid, config, roster=roster), store)
        (row,) = store.rounds()
    largest, there = peak(), range(_LOST + 1, sites + 1)
    mean = (part_of_all(size) * len(there) + sum(there)) * config.unit / config.divisor
    assert len(row.sites) == len(there) and np.array_equal(adapter, (-mean).astype(np.float32))
    return largest


def config_of(kind: Kind, sites: int) -> RunConfig:
    """Return a run of one round whose optimizer takes the mean as it is."""
    return RunConfig.model_validate(
        {
            "name": "memory",
            "model": {"base": "/none"},
            "federation": {
                "name": "bench",
                "aggregation": kind.value,
                "rounds": 1,
                "sites": sites,
                "quorum": sites - _LOST,
                "population": sites,
                "sampling_rate": 1.0,
                "deadline": 3600.0,
            },
            "lattice": {"bits": 20, "clip_norm": 1.0},
            "optimizer": {"name": "sgd", "learning_rate": 1.0, "momentum": 0.0, "warmup_rounds": 0, "decay": 1.0},
            "evaluation": {"every": 0, "per_patient": 1},
        }
    )


def peak() -> float:
    """Return the largest size that this process ever had, in MiB; the program that started it is not counted."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def main(
    sites: Annotated[list[int], typer.Option(min=FEWEST_SITES, help="Sites; several may follow.")] = [4, 16, 64],  # noqa: B006
    megabytes: Annotated[float, typer.Option(min=0.01, help="The adapter; a plain sum has twice as many.")] = 50,
) -> None:
    """Run every round and print the peaks."""
    peaks: dict[str, dict[str, float]] = {}
    for kind in Kind:
        for count in sites:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                found = pool.submit(peak_mib, kind, count, megabytes).result()
            peaks.setdefault(kind.value, {})[str(count)] = round(found, 1)
            print(f"{kind.value}, {count} sites: {found:.0f} MiB", file=sys.stderr)
    growth = {kind: round(max(by.values()) / by[str(min(sites))] - 1, 3) for kind, by in peaks.items()}
    print_result({"megabytes": megabytes, "peak_mib": peaks, "growth": growth})


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command()(main)
    app(args=spread(sys.argv[1:], "--sites"))
