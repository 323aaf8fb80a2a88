"""`python -m server model` and `warmup`: the folder of a base model, and one that has learnt to answer in the box."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.cli import INTERRUPTED, console


def model(
    source: Annotated[str, typer.Argument(help='"smollm2", a GGUF file or a wheel with one, a folder, or a hub id.')],
    out: Annotated[Path, typer.Option(help="New folder for the model.")],
    revision: Annotated[str | None, typer.Option(help="Of a hub id: the commit.")] = None,
) -> None:
    """Make the folder of a base model, and print what a run configuration says of it."""
    from common.logs import quiet_libraries
    from server.models.convert import convert

    with console.status("reading the model"):
        quiet_libraries()
        made = convert(source, out, revision=revision)
    for line in made.lines():
        print(line)


def warmup(
    config: Annotated[Path, typer.Argument(help="What to teach, and to which base model (TOML).")],
    out: Annotated[Path, typer.Option(help="New folder for the model; NAME.part beside it meanwhile.")],
    device: Annotated[str | None, typer.Option(help="cpu or cuda; by default a GPU where there is one.")] = None,
) -> None:
    """Teach a base model, by public questions alone, to read and answer in the box; Ctrl-C, and it can go on."""
    from common.logs import quiet_libraries
    from common.model.making import shown
    from server.models.warmup import warm_up

    def tell(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    try:
        with shown(console, "warm-up") as report:
            quiet_libraries()
            made = warm_up(config, out, device=device, report=report, tell=tell)
    except KeyboardInterrupt:
        tell("Interrupted. The same command goes on from what was saved last.")
        raise typer.Exit(INTERRUPTED) from None
    for line in made.lines():
        print(line)
