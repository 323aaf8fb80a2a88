"""Command line of the simulation: `python -m simulation configs/demo.toml`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from common.cli import application, console, run_application
from common.errors import FedReasonError
from common.logs import quiet_libraries
from common.processes import loading

app = application(__doc__)

Config = Annotated[Path, typer.Argument(help="Run configuration (TOML).")]
StudyFile = Annotated[Path, typer.Argument(help="Study file (TOML).")]
Runs = Annotated[Path, typer.Option(help="Folder that holds the run folders.")]


@app.command()
def run(config: Config, runs: Runs = Path("runs")) -> None:
    """Run or resume a simulation and write its report."""
    from common.config import load_config

    loaded, codebook = load_config(config)
    with loading():
        from simulation.driver import simulate

    simulate(config, loaded, codebook, runs, console)


@app.command()
def prepare(config: Config, runs: Runs = Path("runs")) -> None:
    """Write the site folders of a simulation and print where they are (for `flwr run`)."""
    from common.config import load_config
    from simulation.prepare import prepare as write_sites

    loaded, codebook = load_config(config)
    folders = write_sites(loaded, codebook, runs / loaded.name, base=config.parent)
    for folder in folders.values():
        print(folder)


@app.command()
def study(
    file: StudyFile,
    runs: Runs = Path("runs"),
    address: Annotated[
        str | None,
        typer.Option(help="Ray cluster that does the work; `local` starts one here. Else processes of this machine."),
    ] = None,
) -> None:
    """Run or resume a study: arms over seeds, every answer in one table, and what follows from it."""
    with loading():
        from simulation.study.driver import run_study

    table, done = run_study(file, runs, console, address)
    from server.reports.studied import RESULTS
    from simulation.statistics.results import write_results
    from simulation.statistics.tables import tables_of
    from simulation.study.report import write_study_report

    found = write_results(table)
    for each in tables_of(found):
        console.print(each)
    report = write_study_report(table.parent, done, found)
    told = f"answers: {table}\nresults: {table.with_name(RESULTS)}\nreport: {report}"
    console.print(told, highlight=False, soft_wrap=True)


@app.command()
def results(
    folders: Annotated[list[Path], typer.Argument(help="Folders of finished studies.")],
    out: Annotated[Path, typer.Option(help="Markdown file; its figures go into figures/ beside it.")],
) -> None:
    """Write a page of results from finished studies."""
    from simulation.study.results import write_results_page

    write_results_page(folders, out)
    print(out)


@app.command(hidden=True)
def units(file: StudyFile, unit: list[str] = typer.Option(), runs: Runs = Path("runs")) -> None:  # noqa: B008
    """Do some units of a study one after the other, reporting to the parent process."""
    from simulation.children import emit

    with loading():
        from simulation.study.work import work

    if not work(file, unit, runs, lambda event: emit(**event)):
        raise typer.Exit(1)


@app.command(hidden=True)
def arm(config: Config, arms: list[str], runs: Runs = Path("runs")) -> None:
    """Run some arms one after the other, reporting to the parent process."""
    from common.config import load_config
    from server.rounds.loop import Progress
    from simulation.children import emit

    with loading():
        from simulation.arms import run_arm

    quiet_libraries()
    loaded, _ = load_config(config)
    for name in arms:
        started = time.monotonic()

        def tell(progress: Progress, name: str = name) -> None:
            emit(arm=name, round=progress.round, reward=progress.reward)

        emit(arm=name, round=0, reward=None)
        try:
            run_arm(name, loaded, runs / loaded.name, tell)
        except FedReasonError as error:
            emit(arm=name, code=int(error.code), found=error.found, fix=error.fix)
            raise typer.Exit(1) from None
        emit(arm=name, done=True, seconds=time.monotonic() - started)


COMMANDS = {"run", "prepare", "arm", "study", "units", "results"}


def main() -> None:
    """Run the command line; the first word may be a configuration, which is run."""
    if len(sys.argv) > 1 and sys.argv[1] not in COMMANDS and not sys.argv[1].startswith("-"):
        sys.argv.insert(1, "run")
    run_application(
        app, interrupted=lambda: console.print("Interrupted. The same command goes on from the last finished round.")
    )


if __name__ == "__main__":
    main()
