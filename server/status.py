"""What `python -m server status` tells: services, certificates, roster, who is online, and how each run stands."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from common.errors import FedReasonError
from common.toml import Strict
from server.certificates import expiry_warnings
from server.control import nodes
from server.coordinator import running
from server.federation import Federation
from server.runs import find_run, record_of, run_folders, served
from server.services import SUPERLINK, services_up
from server.standing import FILE, Standing, read_standing

Presence = Literal["online", "offline", "never seen", "not registered", "not admitted", "unknown"]


class SiteStatus(Strict):
    """One site: whether the SuperLink hears from it, since when, and when a run last did."""

    site: str
    presence: Presence
    since: datetime | None = None
    contact: datetime | None = None


class RunStatus(Strict):
    """One run, and whether a ServerApp works on it."""

    name: str
    served: bool
    run_id: int | None
    restarts: int
    standing: Standing | None


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


def status_of(federation: Federation, run: str | None = None) -> Status:
    """Gather the status; with `run` of that run alone.

    Raises
    ------
    FedReasonError
        RUN_UNKNOWN where there is no such run.
    """
    folders = [find_run(federation, run)] if run else sorted(set(run_folders(federation)))
    runs = []
    for folder in folders:
        record = record_of(folder)
        runs.append(
            RunStatus(
                name=folder.name,
                served=served(folder),
                run_id=record.run_id if record else None,
                restarts=record.restarts if record else 0,
                standing=read_standing(folder / FILE),
            )
        )
    services = services_up(federation)
    warnings = _warnings(federation)
    roster = federation.roster()
    return Status(
        federation=federation.name,
        folder=str(federation.folder),
        address=federation.config.address,
        coordinator=running(federation),
        services=services,
        warnings=tuple(warnings),
        roster_version=roster.version if roster else None,
        roster_sha256=roster.sha256 if roster else None,
        sites=tuple(_sites(federation, roster.sites if roster else (), services[SUPERLINK], runs)),
        runs=tuple(runs),
    )


def _warnings(federation: Federation) -> list[str]:
    try:
        return expiry_warnings(federation)
    except FedReasonError as error:
        return [str(error)]


def _sites(federation: Federation, members: tuple[str, ...], answers: bool, runs: list[RunStatus]) -> list[SiteStatus]:
    known = {node.site: node for node in nodes(federation)} if answers else {}
    told = [run.standing.contact for run in runs if run.standing is not None]
    result = []
    for site in sorted({*federation.config.sites, *members}):
        contact = max((contacts[site] for contacts in told if site in contacts), default=None)
        node = known.get(site)
        presence: Presence
        since = None
        if site not in members:
            presence = "not admitted"
        elif not answers:
            presence = "unknown"
        elif node is None:
            presence = "not registered"
        elif node.online:
            presence, since = "online", node.online_since
        elif node.online_since is None:
            presence = "never seen"
        else:
            presence, since = "offline", node.offline_since
        result.append(SiteStatus(site=site, presence=presence, since=since, contact=contact))
    return result
