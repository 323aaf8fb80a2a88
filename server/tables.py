"""Status and forecast as tables for people; programs take `--json`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime

from rich.console import Console
from rich.table import Table

from server.following import ago, describe, last_round, meaning
from server.forecast import Forecast
from server.page import duration_text, size_text
from server.status import SiteTask, Status

_WIDE = 200


def show_forecasts(forecasts: Sequence[Forecast]) -> None:
    """Print who would take part in a run, and at what cost."""
    table = Table("site", "answer", "time a round", "up a round", "down a round", "budget")
    for one in forecasts:
        if one.takes_part:
            seconds = "" if one.seconds_per_round is None else duration_text(one.seconds_per_round)
            up, down = (size_text(count or 0) for count in (one.bytes_up, one.bytes_down))
            table.add_row(
                one.site, "would take part", seconds, up, down, "-" if one.budget is None else f"{one.budget}"
            )
        else:
            table.add_row(one.site, meaning(one.code or 0), "", "", "", "")
    _console().print(table)


def show_status(status: Status) -> None:
    """Print the status."""
    console = _console()
    lines = [f"{status.federation} in {status.folder}, reached at {status.address}"]
    lines += [f"{name}: {'up' if answers else 'DOWN'}" for name, answers in status.services.items()]
    lines.append(f"python -m server up: {f'process {status.coordinator}' if status.coordinator else 'not running'}")
    version = "none yet" if status.roster_version is None else f"version {status.roster_version}"
    lines.append(f"roster: {version}")
    for line in [*lines, *(f"WARNING: {warning}" for warning in status.warnings)]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    sites = Table("site", "presence", "since", "last contact", "task")
    for site in status.sites:
        contact = "" if site.contact is None else f"{_clock(site.contact)}, {ago(site.contact)}"
        tasks = "\n".join(f"{task.run}, round {task.round}: {task_text(task)}" for task in site.tasks)
        sites.add_row(site.site, site.presence, _clock(site.since), contact, tasks)
    console.print(sites)
    if not status.runs:
        console.print("No run yet.")
        return
    runs = Table("run", "round", "state", "last round")
    for run in status.runs:
        standing = run.standing
        if standing is None:
            runs.add_row(run.name, "", "unknown", "")
            continue
        runs.add_row(run.name, f"{standing.round}/{standing.rounds}", describe(standing), last_round(standing))
        if standing.found:
            runs.add_row("", "", f"{standing.found} {standing.fix or ''}".strip(), "")
    console.print(runs)


def task_text(task: SiteTask) -> str:
    """Say what a site does with its task, and whether the round waits for it."""
    what = {
        "not fetched": "has not fetched its task" + (f" of {_clock(task.since)}" if task.since else ""),
        "working": f"working since {_clock(task.since)}",
        "answered": f"answered in {duration_text(task.seconds or 0.0)}",
        "refused": meaning(task.code or 0),
    }[task.progress]
    return f"{what}; the round waits for it" if task.waited_for else what


def _clock(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _WIDE)
