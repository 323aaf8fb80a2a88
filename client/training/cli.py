"""`python -m client training`: the log of training at this site, for a person or for a program."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from client.options import Json, SiteName
from common.cli import console

if TYPE_CHECKING:
    from rich.table import Table

    from client.grpo.entry import Entry

_GIGABYTE = 1e9
_COLUMNS = (
    *(
        "round",
        "patients",
        "reward",
        "agree",
        "no box",
        "one letter",
        "boxes differ",
        "cut",
        "prompt",
        "answer",
        "KL",
        "clipped",
    ),
    *("seconds", "prefill/s", "decode/s", "train/s", "GB"),
)


def training(
    site: SiteName,
    run: Annotated[str | None, typer.Option(help="Name of the run; the latest where left out.")] = None,
    last: Annotated[int, typer.Option(min=1, help="How many steps.")] = 20,
    as_json: Json = False,
) -> None:
    """Show how training goes here, step by step: it tells of this site's patients, and stays here."""
    import json
    from dataclasses import asdict

    from client.grpo.entry import energy_text
    from client.site.folders import find_site_folder
    from client.training.log import read_log, runs

    folder = find_site_folder(site)
    known = runs(folder)
    if run is not None and run not in known:
        raise typer.BadParameter(f"there is no log of the run {run!r}; there are: {', '.join(known) or 'none'}")
    entries = read_log(folder, run or known[-1]) if known else []
    steps = [entry for entry in entries if entry.config == entries[-1].config]
    shown = steps[-last:]
    if as_json:
        print(json.dumps([asdict(entry) for entry in shown], indent=1))
    elif shown:
        console.print(f"{run or known[-1]}, the last {len(shown):,} of its steps", highlight=False, markup=False)
        Console().print(table(shown))
        print(energy_text(steps))
        if shown[-1].collapse:
            console.print(f"COLLAPSED: {shown[-1].collapse}", style="red", highlight=False, markup=False)
    else:
        console.print("Nothing was trained here yet.")


def table(entries: Iterable[Entry]) -> Table:
    """Return steps as a table for a terminal; what does not apply is blank."""
    from rich.table import Table

    shown = Table(box=None, pad_edge=False)
    for name in _COLUMNS:
        shown.add_column(name, justify="right")
    for entry in entries:
        shown.add_row(*_cells(entry))
    return shown


def _cells(entry: Entry) -> list[str]:
    step, again = f", step {entry.step + 1}" * (entry.step > 0), f", again {entry.attempt}" * (entry.attempt > 0)
    shares = (entry.zero_variance, entry.unboxed, entry.letter, entry.disagreeing, entry.truncated)
    return [
        f"{entry.round}{step}{again}",
        f"{entry.patients:,}",
        _number(entry.reward, ".3f"),
        *(_number(share, ".0%") for share in shares),
        *(_number(length, ",.0f") for length in (entry.prompt_tokens, entry.completion_tokens)),
        _number(entry.kl, ".4f"),
        _number(entry.clipped, ".0%"),
        _number(entry.seconds, ",.1f"),
        *(_number(speed, ",.0f") for speed in (entry.speed_prefill, entry.speed_decode, entry.speed_train)),
        _number(None if entry.peak_bytes is None else entry.peak_bytes / _GIGABYTE, ".1f"),
    ]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
