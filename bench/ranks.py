"""Several ranks of one site give the sum of one, bit for bit, in less time: `python -m bench.ranks --ranks 1 2 3`.

A step of the demo's run over one hospital's patients, without privacy and with it (there with the same coins, noise and
key of the step each time). Every rank is a process with one thread on the CPU; the numbers of ranks take turns, and a
speed-up is the median over pairs; that of work compares the busiest rank's seconds of the processor, which other
programs of the machine do not take. Prints JSON.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Annotated
from unittest.mock import patch

import numpy as np
import torch
import typer

from bench.result import print_result
from bench.words import spread
from client.privacy import mechanism
from client.training.contribution import gradient_sum
from client.training.workplace import Workplace
from common.config import PrivacyConfig, RunConfig, load_config
from common.stream import Stream
from simulation.prepare import simulation_of, split, write_site

_KEY = bytes(range(32))
_PRIVACY = PrivacyConfig(clip_norm=0.5, noise_multiplier=4.0, delta=1e-5)


@contextmanager
def repeated() -> Iterator[None]:
    """Have coins, noise and the key of a private step be the same each time; this process draws them all."""
    coins = partial(mechanism.poisson_sample, key=_KEY)
    noise = partial(mechanism.discrete_gaussian, key=_KEY)
    with ExitStack() as stack:
        stack.enter_context(patch.object(mechanism, "secrets", SimpleNamespace(token_hex=_KEY.hex)))
        stack.enter_context(patch.object(mechanism, "poisson_sample", coins))
        stack.enter_context(patch.object(mechanism, "discrete_gaussian", noise))
        yield


def site_of(folder: Path, config: RunConfig, patients: int, ranks: int) -> Workplace:
    """Write a site of so many patients and ranks, and open it."""
    _, codebook = load_config(Path("configs/demo.toml"))
    parts = split(config, codebook, simulation_of(config), Path()).values()
    rows = [row for part in parts for row in part][:patients]
    path = write_site(folder / str(ranks), "site", [codebook.patient, *codebook.by_name], rows, codebook)
    told = path / "site.toml"
    told.write_text(told.read_text().replace('device = "auto"', f"devices = {['cpu'] * ranks}"))
    return Workplace(path)


def worked(pid: int) -> float:
    """Return the processor's seconds that a process has had."""
    told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(told[11]) + int(told[12])) / os.sysconf("SC_CLK_TCK")


def step(place: Workplace, config: RunConfig) -> tuple[str, float, float]:
    """Return the hash of a site's sum at an adapter that is not the base, its seconds, and the busiest rank's work."""
    engine, team = place.engine(config), place.team(config)
    engine.set_adapter((0.02 * Stream.named("adapter").uniforms(engine.layout.size) - 0.01).astype(np.float32))
    maker, patients = place.maker(config), place.training(config)
    pids = [os.getpid(), *(team.pids if team else [])]
    before, started = [worked(pid) for pid in pids], time.perf_counter()
    how = mechanism.mechanism_of(config, 1, 0, 0)
    total, _ = gradient_sum(engine, maker, patients, config, how, team=team)
    took = time.perf_counter() - started
    work = max(worked(pid) - began for pid, began in zip(pids, before, strict=True))
    return hashlib.sha256(total.tobytes()).hexdigest(), took, work


def ratios(times: dict[int, list[float]]) -> dict[str, float]:
    """Return how many times as fast each number of ranks was as the first: the median over pairs that took turns."""
    first = next(iter(times.values()))
    return {
        str(count): round(median(a / b for a, b in zip(first, own, strict=True)), 2) for count, own in times.items()
    }


def main(
    ranks: Annotated[list[int], typer.Option(help="Numbers of ranks.", default_factory=lambda: [1, 2, 3])],
    patients: Annotated[int, typer.Option(min=1, help="How many.")] = 60,
    repeats: Annotated[int, typer.Option(min=1, help="Steps of each kind.")] = 3,
) -> None:
    """Take the same steps with every number of ranks; the last line is JSON."""
    torch.set_num_threads(1)
    config, _ = load_config(Path("configs/demo.toml"))
    federation = config.federation.model_copy(update={"sampling_rate": 1.0})
    exact = config.model_copy(update={"federation": federation})
    kinds = {"exact": exact, "private": exact.model_copy(update={"privacy": _PRIVACY})}
    hashes: dict[str, set[str]] = {kind: set() for kind in kinds}
    taken: dict[int, list[float]] = {count: [] for count in ranks}
    busiest: dict[int, list[float]] = {count: [] for count in ranks}
    with tempfile.TemporaryDirectory() as name, repeated():
        places = {count: site_of(Path(name), config, patients, count) for count in ranks}
        try:
            for place in places.values():
                step(place, exact)  # the first loads what is loaded late
            for _ in range(repeats):
                for kind, run in kinds.items():
                    for count, place in places.items():
                        found, took, work = step(place, run)
                        hashes[kind].add(found)
                        taken[count].append(took)
                        busiest[count].append(work)
                    print(f"{kind}: {', '.join(f'{times[-1]:.2f} s' for times in taken.values())}", file=sys.stderr)
        finally:
            for place in places.values():
                place.close()
    print_result(
        {
            "identical": all(len(found) == 1 for found in hashes.values()),
            "sha256": {kind: sorted(found) for kind, found in hashes.items()},
            "speedup": ratios(taken),
            "speedup_of_work": ratios(busiest),
            "seconds": {str(count): round(median(times), 2) for count, times in taken.items()},
            "patients": patients,
            "cores": os.cpu_count(),
        }
    )


if __name__ == "__main__":
    sys.argv[1:] = spread(sys.argv[1:], "--ranks")
    typer.run(main)
