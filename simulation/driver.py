"""From a configuration to a report: prepare sites, run every arm side by side, summarise."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from common import wilson
from common.codebook import Codebook
from common.config import RunConfig
from common.errors import Code, FedReasonError
from common.identity.keys import private_folder
from common.logs import quiet_libraries
from common.model.making import shown
from common.tiny import Embedded
from server.rounds.store import RunStore, write_durably
from simulation.children import Children
from simulation.folders import FEDERATED
from simulation.prepare import prepare, simulation_of
from simulation.progress import ArmsProgress
from simulation.summary import ROWS, arms_of, summarise


def simulate(path: Path, config: RunConfig, codebook: Codebook, runs: Path, console: Console) -> None:
    """Run or resume the simulation of the configuration at `path`; print its table, write summary and report.

    A run that has ended is shown again.
    """
    folder = runs / config.name
    console.print(f"[bold]{config.name}[/bold]: {config.federation.sites} sites, {config.federation.rounds} rounds")
    sites = prepare_once(config, codebook, folder, path.parent)
    finished = folder / "summary.json"
    if not finished.exists():
        with timed(folder / "seconds.json"):
            make_tiny(config, codebook, console)
            run_arms(path, runs, config, arms_of(config, sites), console)
        with RunStore.opened(folder, config) as store:
            seconds = float(json.loads((folder / "seconds.json").read_text()))
            write_durably(finished, json.dumps(summarise(config, folder, store, seconds), indent=1))
    summary = json.loads(finished.read_text())
    from simulation.report import write_report

    report = write_report(folder, summary)
    console.print(table_of(summary))
    for line in remarks(summary):
        console.print(line, highlight=False)
    console.print(f"report: {report}", highlight=False)


@contextmanager
def timed(path: Path) -> Iterator[None]:
    """Add the seconds of this block to those in a file, so that a resumed run knows its whole time."""
    before = float(json.loads(path.read_text())) if path.exists() else 0.0
    started = time.monotonic()
    try:
        yield
    finally:
        write_durably(path, json.dumps(before + time.monotonic() - started))


def prepare_once(config: RunConfig, codebook: Codebook, folder: Path, base: Path) -> list[str]:
    """Write the site folders unless this configuration already has them; return the sites' names."""
    marker = folder / "sites" / "prepared.json"
    if marker.exists() and json.loads(marker.read_text())["config"] == config.sha256:
        for registry in folder.glob("*/*/registry.csv"):  # a version before left these to everybody
            private_folder(registry.parent)
            registry.chmod(0o600)
        return list(json.loads(marker.read_text())["sites"])
    with RunStore.opened(folder, config):
        names = list(prepare(config, codebook, folder, base=base))
        write_durably(marker, json.dumps({"config": config.sha256, "sites": names}))
    return names


def make_tiny(config: RunConfig, codebook: Codebook, console: Console) -> None:
    """Make the embedded model before the arms need it, where a run trains it and it is not there yet."""
    model = Embedded.of_run(config, codebook)
    if model is None or model.there:
        return
    quiet_libraries()
    with shown(console, "embedded model") as report:
        model.made(report)


def run_arms(path: Path, runs: Path, config: RunConfig, arms: list[str], console: Console) -> None:
    """Run all arms, the federation beside as many processes as the simulation may use.

    Raises
    ------
    FedReasonError
        The first refusal of an arm; the other arms are stopped and can be resumed.
    """
    local = [arm for arm in arms if arm != FEDERATED]
    processes = min(simulation_of(config).processes, len(local))
    groups = [[FEDERATED], *(local[i::processes] for i in range(processes))]
    commands = [["-m", "simulation", "arm", str(path), *group, "--runs", str(runs)] for group in groups]
    with ArmsProgress(console, arms, config.federation.rounds) as progress, Children(commands) as children:
        failed: dict[str, Any] = {}
        for event in children.events():
            if event.get("ended"):
                break
            if "ended" in event:
                continue
            if "code" in event:
                failed = event
                break
            progress.show(event)
        else:
            return
    if failed:
        raise FedReasonError(Code(failed["code"]), failed["found"], failed["fix"])
    raise FedReasonError(
        Code.RUN_FAILED,
        "A process of the simulation ended early.",
        "Look at its messages above, then start the same command again.",
    )


def table_of(summary: dict[str, Any]) -> Table:
    """Accuracy of everything that is compared."""
    table = Table(title=f"{summary['name']}: accuracy on {summary['questions']} held-out questions of all sites")
    for column in ("", "free-form", "choice forced", *sorted(summary["by_kind"])):
        table.add_column(column, justify="left" if not column else "right")
    rows = [(label, key, None) for key, label in ROWS.items() if key in summary["accuracy"]]
    alone = [(f"  {site} alone", "", value) for site, value in summary["alone"].items()]
    where = next((i for i, row in enumerate(rows) if row[1] == "alone_mean"), len(rows))
    for label, key, value in rows[:where] + alone + rows[where:]:
        if value is not None:
            table.add_row(label, f"{value:.3f}")
            continue
        kinds = [f"{summary['by_kind'][kind][key]:.3f}" for kind in sorted(summary["by_kind"])]
        table.add_row(label, f"{summary['accuracy'][key]:.3f}", f"{summary['accuracy_forced'][key]:.3f}", *kinds)
    return table


def remarks(summary: dict[str, Any]) -> list[str]:
    """Return what a reader of the table should know."""
    federated = wilson.shown(summary["accuracy"][FEDERATED], summary["questions"])
    lines = [f"{wilson.NAME} of the federated accuracy, free-form: {federated}"]
    if summary["boxes_disagree"][FEDERATED]:
        lines.append(f"{summary['boxes_disagree'][FEDERATED]} of its completions box different answers")
    if "federated_equals_pooled" in summary:
        same = summary["federated_equals_pooled"]
        lines.append(
            f"federated adapter {summary['adapter_sha256'][:16]}, pooled {summary['pooled_adapter_sha256'][:16]}: "
            + ("the same bits" if same else "not the same")
        )
    lines.append(
        f"sent to the server {summary['bytes_up'] / 1e6:.1f} MB, back {summary['bytes_down'] / 1e6:.1f} MB, all rounds"
    )
    return lines
