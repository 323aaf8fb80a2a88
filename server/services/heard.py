"""What the SuperLink's own state says of each site: when it last gave a sign of life, and what it does with its task.

Read from the database file, so it is true while the SuperLink is down, too. The tables are Flower's own and may change
with any version; `tests/server/services/test_heard.py` makes them by Flower's code. Of a heartbeat they hold no time,
only until when the node counts as online: two intervals later (`acknowledge_node_heartbeat` of Flower 1.41).
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from common.flower import BEAT_EVERY, FAREWELL_SECONDS, PATIENCE
from server.provisioning.federation import Federation
from server.services.supervision import database

Presence = Literal["online", "silent", "offline", "never seen"]

SILENT = timedelta(seconds=2.5 * BEAT_EVERY)
"""Age of the last sign of life from which a site that Flower still counts as online is called silent."""
_BUSY_SECONDS = 2.0
_LONGEST_INTERVAL = 1800.0
"""Flower's own bound; a simulation has intervals beyond it, which say nothing."""


@dataclass(frozen=True)
class Heard:
    """A node: when it last gave a sign of life, whether it counts as online, and since when it does or does not."""

    contact: datetime | None
    online: bool
    since: datetime | None

    def presence(self, now: datetime) -> tuple[Presence, datetime | None]:
        """Return how the site is there, and since when."""
        if self.since is None:
            return "never seen", None
        if not self.online:
            return "offline", self.since
        if self.contact is not None and now - self.contact > SILENT:
            return "silent", self.contact
        return "online", self.since


@dataclass(frozen=True)
class Errand:
    """A message that a site has not answered: what it asks for, when it was sent and fetched (None: not yet)."""

    kind: str
    sent: datetime
    fetched: datetime | None


def last_contact(online_until: float, interval: float, *, online: bool) -> datetime | None:
    """Return when a node last gave a sign of life; None where its heartbeats have no interval.

    A node that says goodbye does so after a heartbeat of the shortest interval: then `online_until` is that moment.
    """
    if not 0 < interval <= _LONGEST_INTERVAL:
        return None
    farewell = not online and interval == FAREWELL_SECONDS
    return datetime.fromtimestamp(online_until - (0.0 if farewell else PATIENCE * interval), UTC)


def heard(federation: Federation) -> dict[str, Heard] | None:
    """Return what is known of each registered site; None where the SuperLink's state cannot be read."""
    rows = _rows(
        federation,
        "select node_id, status, online_until, heartbeat_interval, last_activated_at from node "
        "where status != 'unregistered'",
    )
    if rows is None:
        return None
    names, now = _names(federation.nodes_file), datetime.now(UTC).timestamp()
    found = {}
    for number, status, until, interval, activated in rows:
        if (site := names.get(number % 2**64)) is None:
            continue
        if until is None or not activated:
            found[site] = Heard(None, False, None)
            continue
        online = status == "online" and until > now
        # Flower writes that a node is gone only when somebody asks: its word is then as old as its last heartbeat.
        gone = datetime.fromtimestamp(until, UTC)
        contact = last_contact(until, interval, online=status == "online")
        found[site] = Heard(contact, online, _moment(activated) if online else gone)
    return found


def errands(federation: Federation, run_id: int) -> dict[str, Errand]:
    """Return for each site the last message of a run without an answer, of those that it fetched if there is one.

    Empty where nothing can be read.
    """
    rows = _rows(
        federation,
        "select dst_node_id, message_type, created_at, delivered_at from message_ins where run_id = ? and message_id "
        "not in (select reply_to_message_id from message_res where reply_to_message_id is not null) "
        "order by delivered_at != '', created_at",
        (_signed(run_id),),
    )
    names = _names(federation.nodes_file)
    return {
        names[number % 2**64]: Errand(kind, datetime.fromtimestamp(created, UTC), _moment(delivered))
        for number, kind, created, delivered in rows or ()
        if number % 2**64 in names
    }


def answers(federation: Federation, run_id: int) -> tuple[set[str], set[str]] | None:
    """Return the messages of a run whose whole answers wait to be fetched, and those that may yet be answered.

    None where that cannot be read. An answer is whole once nothing of what its header names is missing, whatever its
    sender says; of one whose session has parts to come that is known without a walk through those that are here.
    """
    waiting = _rows(
        federation,
        "with recursive begun(answer) as ("
        "select root_object_id from object_push_session_roots join object_push_sessions using (session_id) "
        "where pending_count > 0), "
        "waiting(answer, asked) as (select message_id, reply_to_message_id from message_res "
        "where run_id = :run and delivered_at = '' and message_id not in (select answer from begun)), "
        "below(answer, part) as (select answer, answer from waiting "
        "union select answer, child_id from below join object_children on parent_id = part) "
        "select asked from waiting where answer not in "
        "(select answer from below join objects on object_id = part where is_available = 0)",
        {"run": _signed(run_id)},
    )
    known = _rows(
        federation,
        "select message_id from message_ins where run_id = :run and created_at + ttl > :now",
        {"run": _signed(run_id), "now": datetime.now(UTC).timestamp()},
    )
    if waiting is None or known is None:
        return None
    return {str(number) for (number,) in waiting}, {str(number) for (number,) in known}


def _signed(number: int) -> int:
    """Return a number of Flower's as its database holds it."""
    return number - 2**64 if number >= 2**63 else number


def _rows(
    federation: Federation, query: str, values: Sequence[object] | Mapping[str, object] = ()
) -> list[tuple[Any, ...]] | None:
    """Ask the SuperLink's state, without a chance to change it."""
    path = database(federation)
    try:
        link = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=_BUSY_SECONDS)
        with contextlib.closing(link):
            return list(link.execute(query, values))
    except sqlite3.Error:
        return None


def _names(path: Path) -> dict[int, str]:
    try:
        return {int(node): str(site) for node, site in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _moment(text: str | None) -> datetime | None:
    with contextlib.suppress(ValueError):
        return datetime.fromisoformat(text).astimezone(UTC) if text else None
    return None
