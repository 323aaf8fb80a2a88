"""From a study file to its table: sites prepared, every unit done in one of a few processes, their rows put together.

What is done is kept: the same command goes on after a kill, from the last finished round of what was under way.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from rich.console import Console

from common.errors import Code, FedReasonError
from simulation.children import Children
from simulation.driver import make_tiny
from simulation.prepare import simulation_of
from simulation.study.claim import TABLE, claimed
from simulation.study.cluster import do_by_ray
from simulation.study.config import Study, load_study
from simulation.study.progress import UnitsProgress
from simulation.study.rows import read_table, schema_of, schema_of_unit, write_table
from simulation.study.units import Unit, prepare_units, unit_path, units_of


def run_study(path: Path, runs: Path, console: Console, address: str | None = None) -> tuple[Path, Study]:
    """Run or resume the study of a file; return the path of its table, and the study that this is of.

    One that is finished is not run again. Its file may be another by then: who tells of the table asks it no more.

    Parameters
    ----------
    address
        Of a Ray cluster that does the units; None does them in processes of this machine.
    """
    study = load_study(path)
    folder = runs / "studies" / study.config.name
    table = folder / TABLE
    console.print(f"[bold]{study.config.name}[/bold]: {told(study)}", highlight=False)
    with claimed(folder, study):
        if not table.exists():
            names = prepare_units(study, folder)
            units = units_of(study, names)
            if any(unit.trained or unit.arm == "before" for unit in units):
                make_tiny(study.plain, study.codebook, console)
            do_units(path, runs, study, folder, units, console, address)
            parts = [read_table(unit_path(folder, unit), schema_of_unit(study, unit)) for unit in units]
            write_table(table, pa.concat_tables(parts).replace_schema_metadata(schema_of(study.config).metadata))
        read_table(table, schema_of(study.config))
    return table, study


def told(study: Study) -> str:
    """Say how large a study is."""
    federation = study.plain.federation
    seeds = len(study.config.seeds)
    return (
        f"{seeds} {'seed' if seeds == 1 else 'seeds'}, {federation.sites} sites, {federation.rounds} rounds, "
        f"arms {', '.join(study.config.arms)}"
    )


def do_units(
    path: Path,
    runs: Path,
    study: Study,
    folder: Path,
    units: Sequence[Unit],
    console: Console,
    address: str | None = None,
) -> None:
    """Do the units that are not done yet: as many side by side as the simulation may use processes, or by Ray.

    Raises
    ------
    FedReasonError
        The first refusal of a unit; the others are stopped and can be resumed.
    """
    left = [unit for unit in units if not unit_path(folder, unit).exists()]
    if not left:
        return
    # Those with rounds first, the longest at the beginning, that no process waits at the end for the other.
    left.sort(key=lambda unit: not unit.trained)
    rounds = study.plain.federation.rounds
    if address is not None:
        with UnitsProgress(console, left, rounds, len(units)) as progress:
            refusal = do_by_ray(path, runs, left, address, progress.show)
        if refusal is not None:
            raise FedReasonError(Code(refusal["code"]), refusal["found"], refusal["fix"])
        return
    processes = min(simulation_of(study.plain).processes, len(left))
    shares = [left[i::processes] for i in range(processes)]
    commands = [
        ["-m", "simulation", "units", str(path), "--runs", str(runs), *(f"--unit={unit.name}" for unit in share)]
        for share in shares
    ]
    os.environ["OMP_NUM_THREADS"] = "1"  # read where scikit-learn and torch are imported
    with UnitsProgress(console, left, rounds, len(units)) as progress, Children(commands) as children:
        for event in children.events():
            if event.get("ended"):
                break
            if "ended" in event:
                continue
            if "code" in event:
                raise FedReasonError(Code(event["code"]), event["found"], event["fix"])
            progress.show(event)
        else:
            return
    raise FedReasonError(
        Code.RUN_FAILED,
        "A process of the study ended early.",
        "Look at its messages above, then start the same command again.",
    )
