"""A task is of this site's federation and bound to the roster that people here accepted, or it is not looked at."""

from __future__ import annotations

from pathlib import Path

from client.site.config import SiteConfig
from client.site.kit import require_roster
from common.config import RunConfig
from common.errors import Code, FedReasonError
from common.messages.kinds import Task


def require_named(federation: str, run: RunConfig) -> None:
    """Refuse a run that calls its federation otherwise than site.toml does.

    Raises
    ------
    FedReasonError
        FEDERATION_OTHER.
    """
    if run.federation.name != federation:
        raise FedReasonError(
            Code.FEDERATION_OTHER,
            f"Run '{run.name}' is of another federation than {federation}, which site.toml names.",
            "Nothing was computed. The run's configuration has to state federation.name as the kit does.",
        )


def require_federation(folder: Path, config: SiteConfig, task: Task) -> frozenset[str] | None:
    """Refuse a task of another federation or roster; returns the names on the roster, None in a simulation.

    Raises
    ------
    FedReasonError
        FEDERATION_OTHER where the run is of another federation than site.toml; all of `require_roster`.
    """
    if config.federation is None:
        return None
    require_named(config.federation, task.config)
    roster = require_roster(folder, task.roster_sha256, task.roster)
    return frozenset(member.site for member in roster.members)
