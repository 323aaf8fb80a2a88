"""Status and forecast as tables for people; programs take `--json`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime

from rich.console import Console
from rich.table import Table

from common.config import RunConfig
from common.guard import RIGHT
from common.mechanisms import mechanism_lines
from server.amounts import duration_text, size_text
from server.reports.forecast import Forecasts, delta_of
from server.reports.looks import KINDS, Look, sites_of
from server.reports.status import SiteTask, Status
from server.rounds.following import ago, describe, last_round
from server.rounds.pace import Pace
from server.rounds.refusals import all_told, kind_of, meaning

_WIDE = 200
_LATEST, _MOST_SITES = 8, 8
"""Looks of the guard, and sites in them, that are shown; the run's report has all."""


def show_forecasts(forecasts: Forecasts, config: RunConfig) -> None:
    """Print who would take part in a run, at what cost, what helps with the others, and what its sums promise."""
    table = Table("site", "answer", "own work a round", "up a round", "down a round", "budget")
    for one in forecasts.sites:
        if one.takes_part:
            seconds = "" if one.seconds_per_round is None else f"about {duration_text(one.seconds_per_round)}"
            up, down = (size_text(count or 0) for count in (one.bytes_up, one.bytes_down))
            table.add_row(
                one.site, "would take part", seconds, up, down, "-" if one.budget is None else f"{one.budget}"
            )
        else:
            table.add_row(one.site, f"{kind_of(one.code or 0)}: {meaning(one.code or 0)}", "", "", "", "")
    console = _console()
    console.print(table)
    lines = all_told({one.site: one.code for one in forecasts.sites if one.code is not None})
    promised = [f"{label:<5} {told}" for label, told in mechanism_lines(config, delta_of(config), forecasts.size)]
    for line in [*lines, *promised, *([pace_text(forecasts.pace)] if forecasts.pace else [])]:
        console.print(line, highlight=False, soft_wrap=True)


def pace_text(pace: Pace) -> str:
    """Say how long a round will take, and how well that is known."""
    seconds = duration_text(pace.seconds)
    if pace.rough:
        return f"A round takes roughly {seconds}: from a made-up patient at each site; no such round was measured yet."
    return f"A round takes about {seconds}: by the median of {pace.rounds} rounds of run {pace.run}."


def show_status(status: Status) -> None:
    """Print the status."""
    console = _console()
    lines = [f"{status.federation} in {status.folder}, reached at {status.address}"]
    lines += [f"{name}: {'up' if answers else 'DOWN'}" for name, answers in status.services.items()]
    lines.append(f"python -m server up: {f'process {status.coordinator}' if status.coordinator else 'not running'}")
    version = "none yet" if status.roster_version is None else f"version {status.roster_version}"
    lines.append(f"roster: {version}")
    for line in [*lines, *(f"WARNING: {warning}" for warning in status.warnings)]:
        console.print(line, highlight=False, soft_wrap=True)
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
        if standing.collapse:
            runs.add_row("", "", f"COLLAPSED: {'; '.join(standing.collapse)}", "")
        if standing.found:
            runs.add_row("", "", f"{standing.found} {standing.fix or ''}".strip(), "")
    console.print(runs)
    for run in status.runs:
        if run.looks:
            console.print(looks_table(run.name, run.looks))


def looks_table(run: str, looks: Sequence[Look]) -> Table:
    """Return the latest looks of a run's guard: right answers to public questions, as each site says, and agreed on.

    Of more sites than fit only those are shown that once said otherwise than most.
    """
    sites, kinds = sites_of(looks), [kind for kind in KINDS if any(kind in look.agreed for look in looks)]
    if len(sites) > _MOST_SITES:
        sites = [site for site in sites if any(site in look.disagreeing for look in looks)][:_MOST_SITES]
    names = [f"{KINDS[kind]}, median" for kind in kinds]
    table = Table("round", *(f"right, {site}" for site in sites), *names, "", title=f"public questions of {run}")
    for look in looks[-_LATEST:]:
        told = [_share(of[RIGHT] if (of := look.sites.get(site)) else None) for site in sites]
        table.add_row(str(look.round), *told, *(_share(look.agreed.get(kind)) for kind in kinds), look.remark)
    return table


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.3f}"


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
    return Console(width=None if sys.stdout.isatty() else _WIDE, markup=False)
