"""What `python -m server status` tells: services, certificates, roster, who is online, and how each run stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from common.errors import FedReasonError
from common.toml import Strict
from server.provisioning.certificates import expiry_warnings, stale_warnings
from server.provisioning.federation import Federation
from server.reports.looks import Look
from server.rounds.claim import claim_of
from server.rounds.runs import find_run, record_of, run_folders, served
from server.rounds.standing import FILE, ExchangeName, Standing, read_standing
from server.services.coordinator import running
from server.services.heard import Errand, Presence, errands, heard
from server.services.supervision import SUPERLINK, services_up

Progress = Literal["not fetched", "working", "answered", "refused"]


class SiteTask(Strict):
    """What a site does with its task in the exchange under way of a run that is served.

    "not fetched": the task waits for the site since then; "working": the site has fetched it then, and answers when it
    is done; "answered" after `seconds`; "refused" with a number.
    """

    run: str
    round: int
    exchange: ExchangeName
    progress: Progress
    waited_for: bool
    since: datetime | None = None
    seconds: float | None = None
    code: int | None = None


class SiteStatus(Strict):
    """One site: whether the SuperLink hears from it, since when, its last sign of life, and its task."""

    site: str
    presence: Presence | Literal["not registered", "not admitted", "unknown"]
    since: datetime | None = None
    contact: datetime | None = None
    tasks: tuple[SiteTask, ...] = ()


class RunStatus(Strict):
    """One run, whether a ServerApp works on it, and what its guard saw."""

    name: str
    served: bool
    run_id: int | None
    restarts: int
    standing: Standing | None
    looks: tuple[Look, ...] = ()


class Status(Strict):
    """Everything that the coordinator can say without asking a site."""

    federation: str
    folder: str
    address: str
    coordinator: int | None
    services: dict[str, bool]
    warnings: tuple[str, ...]
    roster_version: int | None
    roster_sha256: str | None
    sites: tuple[SiteStatus, ...]
    runs: tuple[RunStatus, ...]

    def document(self) -> dict[str, Any]:
        """Return it for a program."""
        return self.model_dump(mode="json")


def status_of(
    federation: Federation, run: str | None = None, *, looks: bool = True, works: Callable[[Path], bool] = served
) -> Status:
    """Gather the status; with `run` of that run alone.

    Parameters
    ----------
    federation
        The federation, opened.
    run
        Name of the one run to tell of.
    looks
        Whether to read what guards saw: of the run that is named, else of those that have not ended.
    works
        Says whether a ServerApp works in a run's folder.

    Raises
    ------
    FedReasonError
        RUN_UNKNOWN where there is no such run.
    """
    folders = [find_run(federation, run)] if run else run_folders(federation)
    runs = []
    for folder in folders:
        record, standing = record_of(folder), read_standing(folder / FILE)
        runs.append(
            RunStatus(
                name=folder.name,
                served=works(folder),
                run_id=record.run_id if record else None,
                restarts=record.restarts if record else 0,
                standing=standing,
                looks=_looks(folder) if looks and (run or standing is None or not standing.ended) else (),
            )
        )
    services = services_up(federation)
    warnings = _warnings(federation)
    try:
        roster = federation.roster()
        members = roster.sites if roster else ()
    except FedReasonError as error:
        roster, members = None, None
        warnings.append(str(error))
    return Status(
        federation=federation.name,
        folder=str(federation.folder),
        address=federation.config.address,
        coordinator=running(federation),
        services=services,
        warnings=tuple(warnings),
        roster_version=roster.version if roster else None,
        roster_sha256=roster.sha256 if roster else None,
        sites=tuple(_sites(federation, members, services[SUPERLINK], runs)),
        runs=tuple(runs),
    )


def _looks(folder: Path) -> tuple[Look, ...]:
    """Return what the guard of a run saw; nothing where it has none, or its rows cannot be read now."""
    try:
        if not claim_of(folder)["config"].get("guard"):
            return ()
        from server.reports.rows import read_rows

        return tuple(read_rows(folder).looks)
    except (FedReasonError, OSError, ValueError, LookupError, TypeError, AttributeError):
        return ()


def _warnings(federation: Federation) -> list[str]:
    try:
        return expiry_warnings(federation) + stale_warnings(federation)
    except FedReasonError as error:
        return [str(error)]


def _sites(
    federation: Federation, members: tuple[str, ...] | None, answers: bool, runs: list[RunStatus]
) -> list[SiteStatus]:
    """Return what is known of each site; of a roster that cannot be read no `members` are known."""
    known, now = heard(federation), datetime.now(UTC)
    told = [run.standing.contact for run in runs if run.standing is not None]
    tasks = _tasks(federation, runs)
    result = []
    for site in sorted({*federation.config.sites, *(members or ())}):
        contact = max((contacts[site] for contacts in told if site in contacts), default=None)
        node = None if known is None else known.get(site)
        if node is not None and node.contact is not None:
            contact = node.contact
        presence: Presence | Literal["not registered", "not admitted", "unknown"]
        since = None
        if members is not None and site not in members:
            presence = "not admitted"
        elif not answers or known is None:
            presence = "unknown"
        elif node is None:
            presence = "not registered"
        else:
            presence, since = node.presence(now)
        result.append(
            SiteStatus(site=site, presence=presence, since=since, contact=contact, tasks=tuple(tasks.get(site, ())))
        )
    return result


def _tasks(federation: Federation, runs: list[RunStatus]) -> dict[str, list[SiteTask]]:
    """Return what each site does in the runs under way."""
    found: dict[str, list[SiteTask]] = {}
    for run in runs:
        if run.standing is None or not run.served or run.run_id is None:
            continue
        for task in site_tasks(run.name, run.standing, errands(federation, run.run_id)).items():
            found.setdefault(task[0], []).append(task[1])
    return found


def site_tasks(run: str, standing: Standing, open_errands: Mapping[str, Errand]) -> dict[str, SiteTask]:
    """Return what each site does in the exchange under way, from what the run told and what the SuperLink knows."""
    if standing.exchange is None or standing.state not in ("running", "paused"):
        return {}
    found = {}
    for site in {*standing.waiting_for, *standing.answered, *standing.refused}:
        progress: Progress
        since, seconds, code = None, None, standing.refused.get(site)
        errand = open_errands.get(site)
        if site in standing.answered:
            progress, seconds = "answered", standing.answered[site]
        elif code is not None and errand is None:
            progress = "refused"
        elif errand is not None and errand.fetched is not None:
            progress, since = "working", errand.fetched
        else:
            progress, since = "not fetched", errand.sent if errand is not None else standing.asked.get(site)
        found[site] = SiteTask(
            run=run,
            round=standing.round,
            exchange=standing.exchange,
            progress=progress,
            waited_for=site in standing.waiting_for,
            since=since,
            seconds=seconds,
            code=code,
        )
    return found
