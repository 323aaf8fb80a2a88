"""Where a site stands: the node writes `state/status.json`, `python -m client status` reads it.

The file is replaced as a whole, so that a reader never sees half of it. Nothing in it leaves the site.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from client.site.stage import Stage
from common.access import forbidden
from common.cli import is_disk_full
from common.errors import Code
from common.identity.keys import private_folder, write_private
from common.logs import logger
from common.processes import mark_of
from common.toml import Strict

STATUS_FILE = "status.json"
_OLD_STAGE_FILE = "stage.json"
"""Held the stage before status.json did."""
CONTACT_SECONDS = 120.0
"""Silence of the coordinator after which a site that should be connected counts as unwell: twice its longest wait."""

_READ_HERE = frozenset(code for code in Code if code < 400) - {Code.CODEBOOK_CHANGED}
"""Configuration, codebook and registry; where the codebook is not that of the run, either may be wrong."""
_TO_SETTLE = _READ_HERE | {
    *(Code.MODEL_MISSING, Code.MODEL_MANIFEST, Code.MODEL_QUANTIZATION, Code.MODEL_CACHE),
    *(Code.KEY_MISSING, Code.KEY_UNKNOWN, Code.KEY_PERMISSIONS),
    *(Code.ROSTER_MISSING, Code.ROSTER_CHANGED, Code.ROSTER_SIGNATURE),
    *(Code.SITE_CLOSED, Code.SITE_SILENCED, Code.DISK_FULL, Code.FILE_FORBIDDEN),
    *(Code.POLICY_MISSING, Code.POLICY_SIGNATURE, Code.POLICY_WEAKER),
    *(Code.LEDGER_DAMAGED, Code.LEDGER_ROLLED_BACK, Code.LEDGER_OTHER),
    *(Code.ROLLOUTS_UNAVAILABLE, Code.ROLLOUTS_ADAPTER, Code.RANKS_MISSING, Code.RANKS_UNLIKE),
}
"""Refusals that somebody at the site has to settle; the others pass, are decisions, or are for the coordinator."""
_SETTLED_BY = (
    *("site.toml", "policy.toml", "policy.toml.sig", "officer.pub", "roster.json", "excluded.txt", "ledger.json"),
    "state/policy.json",
)
"""Files of a site's folder that are written when somebody settles something: only another answer tells if it is."""
_RESUMED = "state/attempts.jsonl"
"""The one that `resume` writes, and the site itself at every attempt: for what only `resume` settles."""
_WRITE_SECONDS = 10.0
_log = logger("site")


class SiteState(StrEnum):
    """What the node is doing."""

    STARTING = "starting"
    CONNECTED = "connected"
    WORKING = "working"
    PAUSED = "paused"
    RECONNECTING = "reconnecting"
    STOPPED = "stopped"
    REFUSED = "refused"


class Record(Strict):
    """Content of status.json.

    `mark` tells this process from a later one with the same number; `contact` is when the coordinator last answered;
    `messages` and `bytes` are all that ever left this site; `loads` is how often this process has started the one that
    computes, which loads its model. `stage` is what is done with the task in hand, by the node or its resident process.
    `unsettled` is the number of the latest answer where it was a refusal that somebody here has to settle.
    """

    state: SiteState = SiteState.STARTING
    text: str = ""
    since: datetime
    pid: int
    mark: str
    run: str | None = None
    round: int | None = None
    contact: datetime | None = None
    messages: int = 0
    bytes: int = 0
    loads: int = 0
    code: int | None = None
    unsettled: int | None = None
    unsettled_since: datetime | None = None
    stage: Stage = Stage.WAITING
    stage_since: datetime | None = None


class Health(NamedTuple):
    """Whether a site is well, and why or why not."""

    well: bool
    text: str


class Status:
    """The status of this process, kept in the file; for the node alone."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "state" / STATUS_FILE
        private_folder(self._path.parent)
        self._path.with_name(_OLD_STAGE_FILE).unlink(missing_ok=True)
        self._failed = False
        self._written = time.monotonic()
        self.record = Record(since=_now(), pid=os.getpid(), mark=mark_of(os.getpid()) or "")
        self._write()

    @property
    def state(self) -> SiteState:
        """What the node is doing."""
        return self.record.state

    def tell(
        self, state: str, text: str = "", *, run: str | None = None, round: int | None = None, code: int | None = None
    ) -> None:
        """Say what the node does now, for which run and round, and the number of the refusal that stopped it."""
        since = self.record.since if state == self.record.state else _now()
        self._change(state=SiteState(state), text=text, since=since, run=run, round=round, code=code)
        self._write()

    def stage(self, stage: Stage) -> None:
        """Say what is done with the task in hand."""
        if stage is not self.record.stage:
            self._change(stage=stage, stage_since=_now())
            self._write()

    def answered(self, code: int | None) -> None:
        """Say what the latest answer was: a refusal by this number, or what was asked for."""
        waits = code if code in _TO_SETTLE else None
        self._change(unsettled=waits, unsettled_since=None if waits is None else _now())

    def announce(
        self, state: str, text: str, *, run: str | None = None, round: int | None = None, code: int | None = None
    ) -> None:
        """Say the same in the site's log, too."""
        self.tell(state, text, run=run, round=round, code=code)
        _log.info("%s: %s", state, text)

    def contact(self) -> None:
        """Say that the coordinator has just answered; the file follows within seconds."""
        self._change(contact=_now())
        if time.monotonic() - self._written > _WRITE_SECONDS:
            self._write()

    def sent(self, messages: int, size: int) -> None:
        """Say how many messages and bytes have left this site in all."""
        self._change(messages=messages, bytes=size)
        self._write()

    def loads(self, times: int) -> None:
        """Say how often the resident process has been started."""
        self._change(loads=times)
        self._write()

    def _change(self, **changes: object) -> None:
        self.record = self.record.model_copy(update=changes)

    def _write(self) -> None:
        """Replace the file; on a full disk the node goes on without, and says so once."""
        self._written = time.monotonic()
        try:
            write_private(self._path, self.record.model_dump_json(indent=1).encode())
            self._failed = False
        except OSError as error:
            if not is_disk_full(error):
                raise
            if not self._failed:
                _log.warning("no space left to write %s", self._path)
            self._failed = True


def read_status(folder: Path) -> Record | None:
    """Return what the node of a site folder last wrote, None where it never did.

    What waited for somebody no longer does where a file was written since by which people settle things.

    Raises
    ------
    FedReasonError
        FILE_FORBIDDEN where this user may not read it.
    """
    try:
        record = Record.model_validate_json((folder / "state" / STATUS_FILE).read_bytes())
    except PermissionError as error:
        raise forbidden(error) from None
    except (FileNotFoundError, ValidationError):
        return None
    since = record.unsettled_since
    files = (_RESUMED,) if record.unsettled == Code.SITE_SILENCED else _SETTLED_BY
    if since is not None and any(_written(folder / name) > since.timestamp() for name in files):
        return record.model_copy(update={"unsettled": None, "unsettled_since": None})
    return record


def _written(path: Path) -> float:
    """Return when a file was last written; long ago where there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def health(record: Record | None, now: datetime | None = None) -> Health:
    """Judge a site: its process must live and, unless it is paused or just starts, have heard from the coordinator.

    Nor is it well while what it answered last is a refusal for a reason that somebody here has to mend.
    """
    if record is None:
        return Health(False, "it has never run")
    if record.state in (SiteState.STOPPED, SiteState.REFUSED):
        code = f" (E{record.code})" if record.code else ""
        return Health(False, f"{record.state}{code}")
    if mark_of(record.pid) != record.mark:
        return Health(False, f"process {record.pid} is gone; it was {record.state}")
    silent = (now or _now()) - (record.contact or record.since)
    if record.state is not SiteState.PAUSED and silent > timedelta(seconds=CONTACT_SECONDS):
        return Health(False, f"nothing heard from the coordinator for {_duration(silent)}")
    if record.unsettled is not None:
        return Health(False, f"its latest answer was a refusal that waits for somebody here, E{record.unsettled}")
    return Health(True, str(record.state))


def status_lines(site: str, record: Record | None, now: datetime | None = None) -> list[str]:
    """Return a site's status as lines for a person; the stage only while the site is well."""
    now = now or _now()
    judged = health(record, now)
    if record is None:
        return [f"{site}: {judged.text}"]
    lines = [f"{site}: {'well' if judged.well else 'NOT WELL'}, {judged.text}"]
    if record.text:
        lines.append(f"  {record.state} for {_duration(now - record.since)}: {record.text}")
    if judged.well and record.stage_since is not None:
        lines.append(f"  {record.stage} since {record.stage_since.astimezone():%H:%M:%S}")
    if record.run is not None:
        lines.append(f"  run {record.run}" + ("" if record.round is None else f", round {record.round}"))
    heard = "never" if record.contact is None else f"{_duration(now - record.contact)} ago"
    lines.append(f"  coordinator last heard {heard}; {record.messages:,} messages, {record.bytes:,} bytes sent in all")
    lines.append(f"  process {record.pid}, the one that computes started {record.loads} times")
    return lines


def _duration(length: timedelta) -> str:
    seconds = max(int(length.total_seconds()), 0)
    size, unit = next(((s, u) for s, u in ((86400, "d"), (3600, "h"), (60, "min")) if seconds >= 2 * s), (1, "s"))
    return f"{seconds // size} {unit}"


def _now() -> datetime:
    return datetime.now(UTC)
