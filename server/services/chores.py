"""What the coordinator does beside its services: the roster, who is online, certificates, runs that have to go on."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, date, datetime

from common.cli import unexpected
from common.errors import Code, FedReasonError
from server.provisioning.certificates import expiry_warnings, stale_warnings
from server.provisioning.deploy import trim_logs
from server.provisioning.federation import Federation
from server.services import control, flower
from server.services.heard import Presence, heard

Tell = Callable[[str], None]


class Chores:
    """All of them, for one thread that asks for what is due every few seconds."""

    def __init__(self, federation: Federation, tell: Tell, revive: Callable[[], None]) -> None:
        self._federation, self._tell, self._revive = federation, tell, revive
        self._roster: str | None = None
        self._watch = Watch(federation, tell)
        self._troubles: list[str] = []
        self._warned: date | None = None

    def do(self) -> None:
        """Do what is due; what goes wrong is told once and tried again, and keeps nothing else from being done."""
        answers = flower.superlink_answers(self._federation)
        due: list[Callable[[], object]] = [self._sync, self._watch.look, self._revive] if answers else []
        due += [self._warn, lambda: trim_logs(self._federation)]
        found = [_trouble(chore) for chore in due]
        troubles = list(dict.fromkeys(trouble for trouble in found if trouble))
        for trouble in troubles:
            if trouble not in self._troubles:
                self._tell(trouble)
        self._troubles = troubles

    def _warn(self) -> None:
        """Tell once a day of certificates that expire: whoever runs for a year sees no start."""
        now = datetime.fromtimestamp(time.time(), UTC)
        if now.date() == self._warned:
            return
        self._warned = now.date()
        for line in (*expiry_warnings(self._federation, now=now), *stale_warnings(self._federation)):
            self._tell(line)

    def _sync(self) -> None:
        """Tell the SuperLink of a new roster."""
        path = self._federation.roster_file
        roster = path.read_text(encoding="utf-8") if path.exists() else ""
        if roster != self._roster:
            for line in control.sync_nodes(self._federation):
                self._tell(line + ".")
            if not roster:
                self._tell("No site has been admitted yet.")
            self._roster = roster


def _trouble(chore: Callable[[], object]) -> str:
    """Do a chore and return what went wrong; "" where nothing did, or the SuperLink is away."""
    try:
        chore()
    except FedReasonError as error:
        return "" if error.code is Code.COORDINATOR_DOWN else str(error)
    except Exception as error:
        return str(unexpected(error))
    return ""


class Watch:
    """Tells who came, who fell silent and who went, by each site's last sign of life."""

    def __init__(self, federation: Federation, tell: Tell) -> None:
        self._federation, self._tell = federation, tell
        self._told: dict[str, Presence] = {}

    def look(self) -> None:
        """Tell what changed since the last look."""
        now = datetime.now(UTC)
        for site, node in sorted((heard(self._federation) or {}).items()):
            presence, since = node.presence(now)
            before = self._told.get(site)
            if presence != before and (before is not None or presence in ("online", "silent")):
                last = since if presence == "silent" else None
                self._tell(
                    f"{site} is {presence}{f': no sign of life since {last.astimezone():%H:%M:%S}' if last else ''}."
                )
            self._told[site] = presence
