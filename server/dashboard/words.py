"""How the pages say what the status holds: the sites, the runs, one run's standing, and what needs attention."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from common.config import RunConfig
from common.errors import FedReasonError
from common.pages.page import Link, facts, html_table, paragraph
from server.provisioning.certificates import expiries
from server.provisioning.federation import Federation
from server.reports.status import RunStatus, SiteStatus, Status
from server.reports.tables import task_text
from server.rounds.following import describe, last_round
from server.rounds.refusals import all_told, in_short
from server.rounds.standing import Standing

_AWAY = ("silent", "offline", "never seen", "not registered", "not admitted")


def clock(moment: datetime | None) -> str:
    """Return when something was: today the time alone; empty where there is no moment."""
    if moment is None:
        return ""
    today = moment.astimezone(UTC).date() == datetime.now(UTC).date()
    return f"{moment.astimezone(UTC):{'%H:%M:%S' if today else '%Y-%m-%d %H:%M'}} UTC"


def counted(number: int, what: str) -> str:
    """Return "1 run", "2 runs"."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def run_link(name: str) -> Link:
    """Return the link to a run's page."""
    return Link(name, f"/runs/{quote(name, safe='')}")


def warned(lines: Iterable[str]) -> str:
    """Return lines that need attention, as HTML."""
    return "".join(paragraph(line, "warn") for line in lines)


def attention(status: Status) -> str:
    """Say what somebody ought to look at: services, certificates, runs that stopped, paused or collapsed."""
    lines = [f"{name} does not answer: python -m server up" for name, up in status.services.items() if not up]
    lines += status.warnings
    for run in status.runs:
        standing = run.standing
        if standing is None:
            continue
        if standing.state == "stopped":
            lines.append(f"{run.name} stopped in round {standing.round}: {why(standing)}")
        elif standing.state == "paused":
            lines.append(f"{run.name} is paused in round {standing.round}: {describe(standing)}")
        if standing.collapse and not standing.ended:
            lines.append(f"{run.name}: training has collapsed: {'; '.join(standing.collapse)}")
    return warned(lines) or paragraph("Nothing needs you now.", "good")


def why(standing: Standing) -> str:
    """Say why a run stopped, and what to do."""
    number = "" if standing.code is None else f"E{standing.code}: "
    return f"{number}{standing.found or 'it did not say why.'} {standing.fix or ''}".strip()


def ends_of(federation: Federation) -> dict[str, datetime]:
    """Return until when each certificate is valid; empty where one cannot be read, which the warnings tell."""
    try:
        return expiries(federation)
    except FedReasonError:
        return {}


def services(federation: Federation, status: Status) -> str:
    """Services, certificates and roster."""
    now = datetime.now(UTC)
    until = {
        f"{what} certificate": f"until {moment:%Y-%m-%d} ({(moment - now).days} days)"
        for what, moment in ends_of(federation).items()
    }
    version = "none yet" if status.roster_version is None else f"version {status.roster_version}"
    return facts(
        {
            **{name: "up" if answers else "DOWN" for name, answers in status.services.items()},
            "python -m server up": f"process {status.coordinator}" if status.coordinator else "not running",
            "Reached at": status.address,
            **until,
            "Roster": version,
            "Roster SHA-256": status.roster_sha256,
        }
    )


def sites_table(status: Status, run: str | None = None) -> str:
    """Who is there since when, and what each does now; with `run` in this run alone."""
    if not status.sites:
        return paragraph("No site was admitted yet.")
    rows = [(one.site, one.presence, _doing(one, run), clock(one.since), clock(one.contact)) for one in status.sites]
    away = [one.site for one in status.sites if one.presence in _AWAY]
    told = f"{len(status.sites) - len(away)} of {len(status.sites)} sites are there."
    return paragraph(told) + html_table(["site", "presence", "does now", "since", "last contact"], rows)


def _doing(one: SiteStatus, run: str | None) -> str:
    tasks = [task for task in one.tasks if run in (None, task.run)]
    return "; ".join(
        ("" if run else f"{task.run}, ") + f"round {task.round}, {task.exchange}: {task_text(task)}" for task in tasks
    )


def runs_table(status: Status) -> str:
    """Return all runs with how they stand, those under way first."""
    if not status.runs:
        return paragraph("No run yet.")
    order = sorted(status.runs, key=lambda run: (run.standing is None or not run.standing.alive, run.name))
    return html_table(["run", "state", "round", "what goes on", "since", "last round"], map(_run_row, order))


def _run_row(run: RunStatus) -> tuple[object, ...]:
    standing = run.standing
    if standing is None:
        return run_link(run.name), "unknown", "", "", "", ""
    waits = _waiting(standing)
    done = f"{standing.round} of {standing.rounds}"
    return run_link(run.name), standing.state, done, waits, clock(standing.since), last_round(standing)


def _waiting(standing: Standing) -> str:
    """Say whom a run waits for, and who is left out; a number instead of names where there are many."""
    waits = standing.waiting_for if standing.alive else ()
    names = f"waits for {', '.join(waits) if len(waits) <= 5 else f'{len(waits)} sites'}" if waits else ""
    refused = in_short(standing.refused) if len(standing.refused) <= 5 else f"{len(standing.refused)} sites left out"
    return "; ".join(filter(None, [names, refused]))


def standing_facts(standing: Standing, config: RunConfig | None, status: RunStatus | None) -> str:
    """How a run stands: where it is, until when it waits and for how many."""
    alive = standing.alive
    closes = None
    if alive and config is not None and not config.secure and standing.exchange in ("train", "evaluate"):
        closes = clock(standing.since + timedelta(seconds=config.federation.deadline))
    worked = "" if status is None or status.served or not alive else " (no process works on it now)"
    return facts(
        {
            "State": f"{standing.state}{worked}",
            "Round": f"{standing.round} of {standing.rounds}",
            "Exchange": standing.exchange,
            "Since": clock(standing.since),
            "Deadline of this exchange": closes,
            "Quorum": None if config is None else f"{config.quorum} of {config.federation.sites} sites",
            "Answered": f"{len(standing.answered)}" if alive and standing.exchange else None,
            "Waits for": ", ".join(standing.waiting_for) if alive and standing.waiting_for else None,
            "Last round took": last_round(standing) or None,
            "Handed over again": status.restarts if status and status.restarts else None,
        }
    ) + warned(
        [
            *([why(standing)] if standing.state in ("stopped", "aborted") else []),
            *(f"Training has collapsed: {line}" for line in standing.collapse),
        ]
    )


def answers(standing: Standing, status: Status, run: str) -> str:
    """Return what each site answered or refused in this exchange, and what the coordinator can do."""
    stages = [f"{site}: {stage}" for site, stage in sorted(standing.stages.items())]
    refused = "".join(paragraph(line) for line in all_told(standing.refused))
    return sites_table(status, run) + "".join(map(paragraph, stages)) + refused
