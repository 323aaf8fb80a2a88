"""Command line of the simulation: `python -m simulation configs/demo.toml`."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Annotated

import click
import typer
from rich.console import Console
from rich.logging import RichHandler

from common.errors import FedReasonError
from common.logs import quiet_libraries

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
console = Console(stderr=True)
_INTERRUPTED = 130

Config = Annotated[Path, typer.Argument(help="Run configuration (TOML).")]
Runs = Annotated[Path, typer.Option(help="Folder that holds the run folders.")]


@app.command()
def run(config: Config, runs: Runs = Path("runs")) -> None:
    """Run or resume a simulation and write its report."""
    from common.config import load_config

    loaded, codebook = load_config(config)
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


@app.command(hidden=True)
def arm(config: Config, arms: list[str], runs: Runs = Path("runs")) -> None:
    """Run some arms one after the other, reporting to the parent process."""
    from common.config import load_config
    from server.rounds import Progress
    from simulation.arms import run_arm
    from simulation.children import emit

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


def main() -> None:
    """Run the command line; a refusal is one line and exit status 1, an interruption 130."""
    logging.basicConfig(
        level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=console, show_path=False)]
    )
    if len(sys.argv) > 1 and sys.argv[1] not in {"run", "prepare", "arm"} and not sys.argv[1].startswith("-"):
        sys.argv.insert(1, "run")
    try:
        status = app(standalone_mode=False) or 0
    except FedReasonError as error:
        console.print(f"[red]{error}[/red]", highlight=False)
        status = 1
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        status = _INTERRUPTED
    if status == _INTERRUPTED:
        console.print("Interrupted. The same command goes on from the last finished round.")
    sys.exit(status)


if __name__ == "__main__":
    main()
