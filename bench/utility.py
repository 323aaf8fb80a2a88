"""What privacy costs in accuracy: `python -m bench.utility`; for SUPPORT2 name `configs/support2-dp.toml`.

The same federation without differential privacy, at epsilon 8 and at epsilon 3, by both protocols, with the same
patients, steps and learning rate. A run that is not private bounds the mean gradient in place of each patient's.
Where the sites of a configuration share the noise (`configs/demo-distributed.toml`) it is compared with a trusted
server's and with noise added by every site. Prints a table, and JSON. A private run draws fresh randomness: another
time its figures are others.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from bench import utility_page
from bench.result import print_result
from client.privacy.ledger import Ledger
from client.training.workplace import Workplace
from common.accounting import noise_for
from common.config import RunConfig, load_config
from common.logs import quiet_libraries
from common.processes import die_with_parent
from common.secagg.terms import share_sigma
from common.sums import PrivacyConfig
from server.rounds.loop import run_rounds
from server.rounds.store import RoundRow, RunStore
from simulation.arms import LocalExchange, one_site
from simulation.driver import make_tiny, prepare_once
from simulation.folders import arm_folder
from simulation.prepare import POOLED, simulation_of

LOCAL_STEPS = 3
"""Local steps of a round of fedavg, in place of as many rounds of fedsgd: as many releases, the same noise on each."""

PLAIN_NORM = 0.25
"""Largest norm of the mean gradient without privacy, in clip norms: where no patient's gradient is clipped a few rule
the mean, and with the learning rate of a private run the model breaks."""


class Protocol(StrEnum):
    """What a site sends in a round."""

    FEDSGD = "fedsgd"
    FEDAVG = "fedavg"


class Noise(StrEnum):
    """Who adds the noise: one trusted server that holds all records, the sites a share each, every site all of it."""

    CENTRAL = "central"
    DISTRIBUTED = "distributed"
    LOCAL = "local"


class Case(NamedTuple):
    """One run of the comparison; without an epsilon it is not private, without a seed it has the configuration's."""

    protocol: Protocol
    epsilon: float | None
    noise: Noise = Noise.LOCAL
    seed: int | None = None


def cases(protocols: Sequence[Protocol], epsilons: Sequence[float]) -> list[Case]:
    """Return every run of the comparison, each protocol without privacy first."""
    return [Case(protocol, epsilon) for protocol in protocols for epsilon in (None, *epsilons)]


def cases_of(
    config: RunConfig, protocols: Sequence[Protocol], epsilons: Sequence[float], seeds: Sequence[int]
) -> list[Case]:
    """Return the runs that a configuration is compared by: where its sites share the noise, who adds it, for fedsgd."""
    drawn: Sequence[int | None] = seeds or [None]
    if shares_noise(config):
        budgets = [(epsilon, seed) for epsilon in epsilons for seed in drawn]
        return [Case(Protocol.FEDSGD, epsilon, noise, seed) for epsilon, seed in budgets for noise in Noise]
    return [case._replace(seed=seed) for seed in drawn for case in cases(protocols, epsilons)]


def shares_noise(config: RunConfig) -> bool:
    """Whether the sites of a run share the noise."""
    return config.privacy is not None and config.privacy.noise == "distributed"


def settings_of(config: RunConfig, case: Case) -> RunConfig:
    """Return a run of the comparison: as many noised steps in all, with the least noise that keeps them within epsilon.

    Raises
    ------
    ValueError
        Where the configuration states no [privacy], or its steps are no whole number of rounds of fedavg.
    """
    if config.privacy is None:
        raise ValueError(f"the run '{config.name}' states no [privacy]: there is no clip norm and no delta")
    steps, federation = config.private_steps, config.federation
    local = 1 if case.protocol is Protocol.FEDSGD else LOCAL_STEPS
    if steps % local:
        raise ValueError(f"{steps} steps are no whole number of rounds of {local} steps")
    shared = case.noise is Noise.DISTRIBUTED
    sums = {} if shared else {"aggregation": "plain"}
    changes: dict[str, Any] = {
        "name": f"{config.name}-{case.protocol.value}-{'none' if case.epsilon is None else f'{case.epsilon:g}'}",
        "seed": config.seed if case.seed is None else case.seed,
        "federation": federation.model_copy(
            update={"protocol": case.protocol.value, "rounds": steps // local, "local_steps": local, **sums}
        ),
        "privacy": None,
        "evaluation": config.evaluation.model_copy(update={"every": 0}),
    }
    if case.epsilon is not None:
        sigma = noise_for(
            epsilon=case.epsilon,
            delta=config.privacy.delta,
            sampling_rate=federation.sampling_rate,
            steps=steps,
        )
        alone = {} if shared else {"noise": "local", "colluders": 0, "dropouts": 0}
        changes["privacy"] = config.privacy.model_copy(update={"noise_multiplier": sigma, **alone})
    else:
        bound = PLAIN_NORM * config.privacy.clip_norm
        changes["optimizer"] = config.optimizer.model_copy(update={"max_gradient_norm": bound})
    return config.model_copy(update=changes)


def shortened(config: RunConfig) -> RunConfig:
    """Return a run of a few patients and steps, to see that everything works."""
    federation = config.federation
    few = federation.model_copy(
        update={"rounds": LOCAL_STEPS, "local_steps": 1, "sampling_rate": min(1.0, 10 / federation.population)}
    )
    held_out = config.evaluation.model_copy(update={"per_patient": 1})
    return config.model_copy(update={"federation": few, "evaluation": held_out, "name": f"{config.name}-quick"})


def run_case(path: Path, case: Case, runs: Path, quick: bool) -> dict[str, Any]:
    """Run or resume one case in this process and return its row."""
    quiet_libraries()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    config, codebook = load_config(path)
    settings = settings_of(shortened(config) if quick else config, case)
    folder = runs / f"{settings.name}-{case.noise.value}-{settings.sha256[:8]}"
    names = prepare_once(settings, codebook, folder, path.parent)
    folders = [folder / "sites" / name for name in names]
    if case.noise is Noise.CENTRAL:
        settings, folders, folder = one_site(settings), [folder / POOLED / POOLED], arm_folder(folder, POOLED)
    with RunStore.opened(folder, settings) as store:
        run_rounds(settings, LocalExchange([Workplace(site) for site in folders]), store)
        return {"registry": config.name, **row_of(settings, case, store, folders)}


def row_of(settings: RunConfig, case: Case, store: RunStore, folders: Sequence[Path]) -> dict[str, Any]:
    """Return what a finished run showed; `spent` is the largest epsilon that a site's own ledger holds."""
    rounds, privacy = store.rounds(), settings.privacy
    noised = privacy is not None and case.protocol is Protocol.FEDSGD
    accuracy, questions = held_out(store)
    at = store.load()
    assert at is not None
    return {
        "protocol": case.protocol.value,
        "epsilon": case.epsilon,
        "noise": case.noise.value,
        "seed": settings.seed,
        "sites": settings.federation.sites,
        "spent": None if privacy is None else max(Ledger.opened(folder).epsilon for folder in folders),
        "delta": None if privacy is None else privacy.delta,
        "sigma": None if privacy is None else round(privacy.noise_multiplier, 4),
        "rounds": len(rounds),
        "steps": settings.private_steps,
        "noise_norm": round(noise_norm(settings, at.adapter.size), 4) if noised else None,
        "mean_norm": round(mean_norm(rounds, privacy), 4) if noised else None,
        "accuracy_before": accuracy[0],
        "accuracy_after": accuracy[len(rounds)],
        "questions": questions,
        "reward_first": reward(rounds[0]),
        "reward_last": reward(rounds[-1]),
        "seconds": round(sum(row.seconds for row in rounds)),
    }


def noise_norm(settings: RunConfig, size: int) -> float:
    """Return the norm of the noise on a round's mean gradient that theory gives, in clip norms; of fedsgd."""
    privacy, sites = settings.privacy, settings.federation.sites
    assert privacy is not None
    share = privacy.sigma_units
    if privacy.noise == "distributed":
        share = share_sigma(share, sites=sites, colluders=privacy.colluders, dropouts=privacy.dropouts)
    return share / privacy.clip_units * math.sqrt(sites * size) / settings.divisor


def mean_norm(rows: Sequence[RoundRow], privacy: PrivacyConfig | None) -> float:
    """Return the norm of a round's mean gradient as it was released, in clip norms, over the rounds' squares."""
    assert privacy is not None
    return float(np.sqrt(np.mean([row.gradient_norm**2 for row in rows]))) / privacy.clip_norm


def held_out(store: RunStore) -> tuple[dict[int, float], int]:
    """Return the free-form accuracy over all sites by round, and the number of questions."""
    right: dict[int, int] = {}
    asked: dict[int, int] = {}
    for row in store.evaluations():
        right[row.round] = right.get(row.round, 0) + sum(count["free"] for count in row.counts.values())
        asked[row.round] = asked.get(row.round, 0) + sum(count["asked"] for count in row.counts.values())
    return {number: right[number] / asked[number] for number in right}, asked[0]


def reward(row: RoundRow) -> float | None:
    """Return the mean reward of a round's rollouts, None where nobody was sampled."""
    counts = row.counts or {}
    return counts["reward"] / counts["rollouts"] if counts.get("rollouts") else None


def table_of(rows: Sequence[dict[str, Any]]) -> Table:
    """Accuracy of every run beside what it spent."""
    columns = (
        "registry",
        "seed",
        "protocol",
        "noise",
        "epsilon",
        "sigma",
        "rounds",
        "before",
        "after",
        "reward",
        "minutes",
    )
    table = Table(*columns, title="held-out accuracy")
    for row in rows:
        spent, sigma = row["epsilon"], row["sigma"]
        rewards = [f"{value:.3f}" if value is not None else "-" for value in (row["reward_first"], row["reward_last"])]
        table.add_row(
            row["registry"],
            str(row["seed"]),
            row["protocol"],
            row["noise"],
            "none" if spent is None else f"{spent:g}",
            "-" if sigma is None else f"{sigma:.3f}",
            str(row["rounds"]),
            f"{row['accuracy_before']:.3f}",
            f"{row['accuracy_after']:.3f}",
            " -> ".join(rewards),
            f"{row['seconds'] / 60:.1f}",
        )
    return table


def main(
    configs: Annotated[list[Path] | None, typer.Argument(help="Private runs; the demo's where left out.")] = None,
    protocol: Annotated[list[Protocol], typer.Option(help="What to compare.")] = [*Protocol],  # noqa: B006
    epsilon: Annotated[list[float], typer.Option(help="Budgets, beside no privacy.")] = [8.0, 3.0],  # noqa: B006
    seed: Annotated[list[int] | None, typer.Option(help="Hospitals and patients; the configuration's.")] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the runs: the same command goes on.")] = Path("runs/utility"),
    docs: Annotated[Path | None, typer.Option(help="Folder of docs whose page on privacy is to show it.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few patients: shows that it works, not what it costs.")
    ] = False,
) -> None:
    """Run every case, as many at a time as `simulation.processes` says."""
    os.environ["OMP_NUM_THREADS"] = "1"
    console = Console(stderr=True)
    paths = configs or [Path("configs/demo-dp.toml")]
    loaded = [load_config(path) for path in paths]
    if docs is not None and not (len(loaded) == len(epsilon) == 1 and shares_noise(loaded[0][0])):
        raise typer.BadParameter("it shows one run whose sites share the noise, at one epsilon", param_hint="--docs")
    for config, codebook in loaded:
        make_tiny(config, codebook, console)
    processes = min(simulation_of(config).processes for config, _ in loaded)
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(
        processes, mp_context=multiprocessing.get_context("spawn"), initializer=die_with_parent
    ) as pool:
        waiting = [
            pool.submit(run_case, path, case, runs, quick)
            for path, (config, _) in zip(paths, loaded, strict=True)
            for case in cases_of(config, protocol, epsilon, seed or [])
        ]
        for done in waiting:
            rows.append(done.result())
            console.print(json.dumps(rows[-1]), highlight=False, soft_wrap=True)
    console.print(table_of(rows))
    if docs is not None:
        utility_page.write(rows, docs)
    print_result({"rows": rows})


if __name__ == "__main__":
    typer.run(main)
