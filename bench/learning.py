"""How well the recipe learns: `python -m bench.learning`; with `--vary` also what each of its settings is worth.

Every run is a federation in this process, of the demo's hospitals or of SUPPORT2 split over five sites; `--run
configs/smollm2.toml` tries the recipe of another simulation than the demo's. Made-up patients, sites and every draw
follow from the seed; of a real registry the same patients are held out whatever the seed. The gain is held-out accuracy
over the best that needs no training, which is chosen feature by feature with the held-out answers in sight. Progress
goes to standard error.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from bench import learning_page
from bench.redraws import redrawing
from bench.result import print_result
from client.training.workplace import Workplace
from common.config import RunConfig, load_config
from common.logs import quiet_libraries
from common.messages.kinds import Reply, Task
from common.processes import die_with_parent
from server.rounds.loop import run_rounds
from server.rounds.store import RoundRow, RunStore
from simulation.arms import LocalExchange
from simulation.baselines import baselines
from simulation.driver import make_tiny, prepare_once
from simulation.folders import BEFORE, FEDERATED, open_sites
from simulation.summary import Counts, accuracies

DEMO, SUPPORT2 = Path("configs/demo.toml"), Path("configs/support2.toml")
RECIPE, REDRAWN = "recipe", "questions drawn again"
SEEDS = (11, 12, 13)
"""Made-up hospitals and patients that no setting was chosen on; 1 to 3 are for that."""
VARIED_SEED = 1
CURVE = 20
"""Rounds from one point of a curve to the next."""

VARIATIONS: Mapping[str, Mapping[str, Any]] = {
    "learning rate x 1/4": {"optimizer.learning_rate": 2.5e-4},
    "learning rate x 2": {"optimizer.learning_rate": 2e-3},
    "learning rate x 4": {"optimizer.learning_rate": 4e-3},
    "no bound on the mean gradient": {"optimizer.max_gradient_norm": None},
    "G = 4": {"grpo.group_size": 4},
    "G = 16": {"grpo.group_size": 16},
    "temperature 0.7": {"grpo.temperature": 0.7},
    "temperature 1.3": {"grpo.temperature": 1.3},
    "top_p 0.9": {"grpo.top_p": 0.9},
    "KL 0.04": {"grpo.kl": 0.04},
    "scaled by the group's deviation": {"grpo.scale_rewards": "group"},
    "half as many patients": {"federation.sampling_rate": 0.5},
    "twice as many patients": {"federation.sampling_rate": 2.0},
    REDRAWN: {},
}
"""One setting changed at a time; a sampling rate is a multiple of the recipe's."""
ON_SUPPORT2 = (
    "learning rate x 1/4",
    "learning rate x 4",
    "G = 16",
    "temperature 0.7",
    "temperature 1.3",
    "KL 0.04",
    "scaled by the group's deviation",
)
"""Those that are tried on SUPPORT2 too, where the embedded model hardly learns whatever they are."""


@dataclass(frozen=True)
class Case:
    """One run: a configuration, what is changed in it, and its seed."""

    path: Path
    variation: str
    seed: int
    curve: bool

    def settings(self) -> RunConfig:
        """Return the run's configuration."""
        config, _ = load_config(self.path)
        changes = dict(VARIATIONS.get(self.variation, {}))
        factor = changes.pop("federation.sampling_rate", 1.0)
        sections: dict[str, Any] = {
            "seed": self.seed,
            "evaluation": config.evaluation.model_copy(update={"every": CURVE if self.curve else 0}),
            "federation": config.federation.model_copy(
                update={"sampling_rate": config.federation.sampling_rate * factor}
            ),
        }
        for key, value in changes.items():
            section, name = key.split(".")
            sections[section] = sections.get(section, getattr(config, section)).model_copy(update={name: value})
        return config.model_copy(update=sections)


class TimedExchange(LocalExchange):
    """An exchange that adds up the processor time of the sites' contributions."""

    seconds = 0.0

    def contributions(self, task: Task, enough: Callable[[], bool]) -> Iterator[Reply]:
        """Ask for each site's part of a round."""
        replies = super().contributions(task, enough)
        while True:
            started = time.process_time()
            reply = next(replies, None)
            self.seconds += time.process_time() - started
            if reply is None:
                return
            yield reply


def run_case(case: Case, runs: Path) -> dict[str, Any]:
    """Run one case in this process, or return what it showed before; one that was interrupted starts again."""
    settings = case.settings()
    folder = runs / f"{settings.name}-{case.variation.replace(' ', '-').replace('/', '-')}-{settings.sha256[:8]}"
    kept = folder / "result.json"
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    shutil.rmtree(folder, ignore_errors=True)
    quiet_libraries()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    _, codebook = load_config(case.path)
    prepare_once(settings, codebook, folder, case.path.parent)
    sites = open_sites(folder)
    exchange = TimedExchange(sites)
    drawn = redrawing() if case.variation == REDRAWN else nullcontext()
    with RunStore.opened(folder, settings) as store, drawn:
        run_rounds(settings, exchange, store)
        result = result_of(case, settings, sites, store) | {"cpu_seconds": round(exchange.seconds, 1)}
    kept.write_text(json.dumps(result))
    return result


def result_of(case: Case, settings: RunConfig, sites: list[Workplace], store: RunStore) -> dict[str, Any]:
    """Return what a finished run showed: accuracies, the gain over the best without training, and its curve."""
    rows = store.rounds()
    by_round: dict[int, Counts] = {}
    for row in store.evaluations():
        by_round.setdefault(row.round, {})[row.site] = row.counts
    names, base = [site.name for site in sites], baselines(sites, settings)

    def accuracy(at: int) -> dict[str, float]:
        return accuracies({BEFORE: by_round[0], FEDERATED: by_round[at]}, base, list(base), names)

    last = accuracy(len(rows))
    edge = max(1, min(CURVE, len(rows)) // 2)
    return {
        "run": settings.name,
        "variation": case.variation,
        "seed": case.seed,
        "rounds": len(rows),
        "questions": sum(item.asked for item in base.values()),
        **{name: round(value, 4) for name, value in last.items()},
        "gain_over_no_training": round(last[FEDERATED] - last["best_no_training"], 4),
        "curve": {str(at): round(accuracy(at)[FEDERATED], 4) for at in sorted(by_round)},
        "first": shares(rows[:edge]),
        "last": shares(rows[-edge:]),
        "rewards_by_fifth": [shares(fifth)["reward"] for fifth in fifths(rows)],
    }


def fifths(rows: list[RoundRow]) -> list[list[RoundRow]]:
    """Split rounds into five parts, in order and as equal as can be; fewer where there are fewer rounds."""
    bounds = [len(rows) * place // 5 for place in range(6)]
    return [rows[start:end] for start, end in pairwise(bounds) if end > start]


def shares(rows: list[RoundRow]) -> dict[str, float]:
    """Return the mean reward of some rounds, and how many groups taught nothing and completions failed."""
    counts = [row.counts for row in rows if row.counts]

    def share(name: str, of: str) -> float:
        return round(sum(count[name] for count in counts) / max(1, sum(count[of] for count in counts)), 4)

    return {
        "reward": share("reward", "rollouts"),
        "zero_variance": share("zero_variance", "questions"),
        "unboxed": share("unboxed", "rollouts"),
        "truncated": share("truncated", "rollouts"),
    }


def table_of(results: list[dict[str, Any]]) -> Table:
    """Accuracy of every run beside what needs no training."""
    table = Table("run", "", "seed", "before", "bar", "after", "gain", "reward", "no variance", "CPU s")
    for result in results:
        both = [(result["first"][name], result["last"][name]) for name in ("reward", "zero_variance")]
        table.add_row(
            result["run"],
            result["variation"],
            str(result["seed"]),
            *(f"{result[name]:.3f}" for name in (BEFORE, "best_no_training", FEDERATED)),
            f"{result['gain_over_no_training']:+.3f}",
            *(f"{first:.2f} -> {last:.2f}" for first, last in both),
            f"{result['cpu_seconds']:.0f}",
        )
    return table


def main(
    run: Annotated[Path, typer.Option(help="Simulation whose recipe is tried, such as configs/smollm2.toml.")] = DEMO,
    seed: Annotated[list[int], typer.Option(help="Seeds of the recipe's runs.")] = [*SEEDS],  # noqa: B006
    vary: Annotated[
        bool, typer.Option("--vary", help="Also change one setting at a time, on the demo and SUPPORT2.")
    ] = False,
    runs: Annotated[Path, typer.Option(help="Folder of the runs: what is finished there is not run again.")] = Path(
        "runs/learning"
    ),
    processes: Annotated[int, typer.Option(help="Runs at a time, of one thread each.")] = 2,
    docs: Annotated[Path | None, typer.Option(help="Folder of docs whose page on the method is to show it.")] = None,
) -> None:
    """Run every case."""
    os.environ["OMP_NUM_THREADS"] = "1"
    console = Console(stderr=True)
    cases = [Case(run, RECIPE, number, curve=True) for number in seed]
    if vary:
        varied = {DEMO: tuple(VARIATIONS)} | ({SUPPORT2: ON_SUPPORT2} if os.environ.get("FEDREASON_DATA") else {})
        cases += [
            Case(path, name, VARIED_SEED, curve=False) for path, names in varied.items() for name in (RECIPE, *names)
        ]
    for path in dict.fromkeys(case.path for case in cases):
        config, codebook = load_config(path)
        make_tiny(config, codebook, console)
    results: list[dict[str, Any]] = []
    with ProcessPoolExecutor(
        processes, mp_context=multiprocessing.get_context("spawn"), initializer=die_with_parent
    ) as pool:
        for done in [pool.submit(run_case, case, runs) for case in cases]:
            results.append(done.result())
            console.print(json.dumps(results[-1]), highlight=False, soft_wrap=True)
    console.print(table_of(results))
    if docs is not None:
        learning_page.write(results, docs)
    gains = {str(result["seed"]): result["gain_over_no_training"] for result in results[: len(seed)]}
    print_result({"gain_over_no_training": gains, "results": results})


if __name__ == "__main__":
    typer.run(main)
