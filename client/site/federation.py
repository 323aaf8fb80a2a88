"""A task is of this site's federation and bound to the roster that people here accepted, or it is not looked at."""

from __future__ import annotations

from pathlib import Path

from client.site.config import SiteConfig
from client.site.kit import require_roster
from common.errors import Code, FedReasonError
from common.messages.kinds import Task


def require_federation(folder: Path, config: SiteConfig, task: Task) -> frozenset[str] | None:
    """Refuse a task of another federation or roster; returns the names on the roster, None in a simulation.

    Raises
    ------
    FedReasonError
        FEDERATION_OTHER where the run is of another federation than site.toml; all of `require_roster`.
    """
    if config.federation is None:
        return None
    if task.config.federation.name != config.federation:
        raise FedReasonError(
            Code.FEDERATION_OTHER,
            f"Run '{task.config.name}' is of another federation than {config.federation}, which {folder / 'site.toml'} "
            "names.",
            "Nothing was computed. The coordinator states federation.name in the run's configuration as in the kit.",
        )
    roster = require_roster(folder, task.roster_sha256, task.roster)
    return frozenset(member.site for member in roster.members)
