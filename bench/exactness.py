"""Federated training equals pooled training, bit for bit: the same patients over 1, 3 and 5 sites, in different orders.

Beside it, for the record, how far the adapter drifts when sites and server add floats instead of lattice integers.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from bench.result import print_result
from client.privacy.mechanism import Exact
from client.training.gradients import one_gradient
from client.training.workplace import Workplace
from common.arrays import Vector, adapter_sha256
from common.config import RunConfig, load_config
from common.model.optimizer import Optimizer
from common.stream import Stream
from server.rounds.loop import run_rounds
from server.rounds.store import RunStore
from simulation.arms import LocalExchange
from simulation.prepare import simulation_of, split, write_site


def sites_of(config: RunConfig, count: int, folder: Path) -> list[Workplace]:
    """Spread all patients of the configuration at random over `count` sites, each in an order of its own."""
    _, codebook = load_config(Path("configs/demo.toml"))
    rows = [row for part in split(config, codebook, simulation_of(config), Path()).values() for row in part]
    shuffled = Stream.named("exactness", count).shuffled(rows)
    columns = [codebook.patient, *codebook.by_name]
    parts = [shuffled[i::count] for i in range(count)]
    folders = [write_site(folder / f"{count}-{i}", f"site{i}", columns, part, codebook) for i, part in enumerate(parts)]
    return [Workplace(path) for path in folders]


def over(config: RunConfig, count: int) -> RunConfig:
    """Return the run with another number of sites; the public population stays."""
    return config.model_copy(
        update={"federation": config.federation.model_copy(update={"sites": count, "quorum": count})}
    )


def float_run(config: RunConfig, sites: list[Workplace]) -> Vector:
    """Run the same rounds with float32 sums at every site and at the server."""
    engine, maker = sites[0].engine(config), sites[0].maker(config)
    adapter = np.zeros(engine.layout.size, dtype=np.float32)
    optimizer = Optimizer(config.optimizer, adapter, config.federation.rounds)
    for number in range(1, config.federation.rounds + 1):
        engine.set_adapter(optimizer.adapter)
        parts = []
        for site in sites:
            part = np.zeros_like(adapter)
            exact = Exact(config, number, 0, 0)
            for patient in exact.sample(site.training(config)):
                part += one_gradient(engine, maker, patient, config, exact)[0]
            parts.append(part)
        total = np.add.reduce(parts, dtype=np.float32)
        optimizer.step(total.astype(np.float64) / config.divisor, number)
    return optimizer.adapter


def main(
    sites: Annotated[list[int], typer.Option(help="numbers of sites", default_factory=lambda: [1, 3, 5])],
    rounds: Annotated[int, typer.Option(help="rounds of each run")] = 5,
) -> None:
    """Run every split and compare hashes; the last line is JSON."""
    torch.set_num_threads(1)
    config, _ = load_config(Path("configs/demo.toml"))
    update = {"rounds": rounds, "sites": 1, "quorum": 1}
    config = config.model_copy(update={"federation": config.federation.model_copy(update=update)})
    adapters: dict[int, Vector] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in sites:
            settings = over(config, count)
            opened = sites_of(config, count, folder)
            with RunStore.opened(folder / f"run-{count}", settings) as store:
                adapters[count] = run_rounds(settings, LocalExchange(opened, evaluate=False), store)
            print(f"{count} sites: {adapter_sha256(adapters[count])}", file=sys.stderr)
        floats = float_run(over(config, max(sites)), sites_of(config, max(sites), folder))
        print(f"float sums over {max(sites)} sites: {adapter_sha256(floats)}", file=sys.stderr)
    exact = adapters[sites[0]]
    hashes = {str(count): adapter_sha256(adapter) for count, adapter in adapters.items()}
    difference = float(np.linalg.norm(floats - exact) / np.linalg.norm(exact))
    print_result(
        {
            "identical": len(set(hashes.values())) == 1,
            "sha256": hashes,
            "relative_difference": difference,
            "rounds": rounds,
        }
    )


if __name__ == "__main__":
    typer.run(main)
