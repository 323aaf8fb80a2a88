"""Every message that leaves a site: written to the disk first, sent after; `python -m client outbox` shows them.

The log `outbox.jsonl` is only ever appended to, and synced: a line before a message leaves, one when it has arrived.
When it grows large it is set aside as `outbox-<n>.jsonl`, n being the number of its last message, which no other log
has; nothing of it is deleted, and what it is followed by begins with what left before. Beside it lie the contents of
the latest messages, byte for byte what was sent.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from common.cli import is_disk_full
from common.errors import Code, FedReasonError
from common.identity.keys import private_folder, sync_folder, write_private
from common.identity.lines import append_private, private_opener
from common.logs import logger

LOG = "outbox.jsonl"

_log = logger("site")
_ASIDE = re.compile(r"outbox-(\d+)\.jsonl")
_CONTENTS = ".message"
_LARGEST_LOG = 4 * 2**20


@dataclass(frozen=True)
class Entry:
    """One message.

    Parameters
    ----------
    number
        Counts all messages of the site, from 1.
    time
        When it was ready to leave.
    kind
        What it is: layout, contribution, evaluation, estimate, refusal, or a message of a secure sum by its name.
    run, round
        What it answers.
    bytes, sha256
        Size and hash of its content.
    code
        Number of a refusal.
    sent
        When the coordinator had it; None where that is not known, since the site was interrupted.
    """

    number: int
    time: str
    kind: str
    run: str
    round: int
    bytes: int
    sha256: str
    code: int | None = None
    sent: str | None = None


class Archived(NamedTuple):
    """Messages that left and whose logs were moved away; `bytes` leaves out those that an earlier version sent."""

    messages: int = 0
    bytes: int = 0


class Read(NamedTuple):
    """An outbox as it was read: its messages, oldest first, how many lines cannot be read, and what is not there."""

    entries: list[Entry]
    damaged: int
    archived: Archived = Archived()


class Outbox:
    """The outbox of a site, for the one process that sends.

    Parameters
    ----------
    folder
        `state/outbox` of the site.
    keep
        Of how many of the latest messages the content stays on disk.
    largest_log
        Bytes after which the log is set aside.
    """

    def __init__(self, folder: Path, keep: int, *, largest_log: int = _LARGEST_LOG) -> None:
        private_folder(folder)
        self._folder, self._keep, self._largest_log = folder, keep, largest_log
        self._log = folder / LOG
        _repair(self._log)
        found = looked_at(folder)
        self.messages = len(found.entries) + found.archived.messages
        self.bytes = sum(entry.bytes for entry in found.entries) + found.archived.bytes

    def record(
        self, kind: str, run: str, round: int, content: bytes | Iterable[bytes], code: int | None = None
    ) -> Entry:
        """Write down a message that is about to leave; when this returns, it is on the disk.

        Parameters
        ----------
        content
            The message as it will be sent, whole or in chunks.
        code
            Number of a refusal.

        Raises
        ------
        FedReasonError
            DISK_FULL where there is no space: then the message must not leave. Nothing of it stays in the log.
        """
        number = self.messages + 1
        self._forget_contents(number - max(self._keep, 1))
        try:
            self._set_aside()
            size, digest = self._write_contents(number, [content] if isinstance(content, bytes) else content)
            entry = Entry(number, _now(), kind, run, round, size, digest, code)
            self._append({"state": "sending", **asdict(entry)})
        except OSError as error:
            with contextlib.suppress(OSError):
                self._contents(number).unlink()
            if is_disk_full(error):
                raise FedReasonError(
                    Code.DISK_FULL,
                    f"There is no space left in {self._folder} to write down a message, so it does not leave.",
                    "Free some; the site sends it then.",
                ) from None
            raise
        self.messages, self.bytes = number, self.bytes + size
        return entry

    def sent(self, entry: Entry) -> Entry:
        """Write down that a message has arrived.

        A disk without space does not stop this: the message then stays marked as being sent.
        """
        done = replace(entry, sent=_now())
        try:
            self._append({"state": "sent", "number": entry.number, "time": done.sent})
        except OSError as error:
            if not is_disk_full(error):
                raise
            _log.warning("no space left to write down that message %d was sent", entry.number)
        self._forget_contents(self.messages - self._keep)
        return done

    def entries(self) -> list[Entry]:
        """Return every message, oldest first."""
        return read_entries(self._folder)

    def _contents(self, number: int) -> Path:
        return self._folder / f"{number}{_CONTENTS}"

    def _write_contents(self, number: int, chunks: Iterable[bytes]) -> tuple[int, str]:
        size, digest = 0, hashlib.sha256()
        with open(self._contents(number), "wb", opener=private_opener) as file:
            for chunk in chunks:
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(self._folder)
        return size, digest.hexdigest()

    def _append(self, record: dict[str, Any]) -> None:
        """Append one line, whole or not at all."""
        append_private(self._log, _line(record))

    def _set_aside(self) -> None:
        if self._log.exists() and self._log.stat().st_size > self._largest_log:
            fresh = self._folder / f"{LOG}.new"
            write_private(fresh, _line({"state": "before", "messages": self.messages, "bytes": self.bytes}))
            self._log.rename(self._folder / f"outbox-{self.messages}.jsonl")
            fresh.rename(self._log)
            sync_folder(self._folder)

    def _forget_contents(self, up_to: int) -> None:
        for path in self._folder.glob(f"*{_CONTENTS}"):
            if path.stem.isdecimal() and int(path.stem) <= up_to:
                path.unlink(missing_ok=True)


def read_entries(folder: Path) -> list[Entry]:
    """Return every message of an outbox, oldest first; it may be in use, nothing is written.

    A line that cannot be read is told in the log and left as it is.
    """
    return looked_at(folder).entries


def looked_at(folder: Path) -> Read:
    """Return what `read_outbox` does; a line that cannot be read is told in the log."""
    found = read_outbox(folder)
    if found.damaged:
        _log.warning("%s: %d lines cannot be read", folder / LOG, found.damaged)
    return found


def read_outbox(folder: Path) -> Read:
    """Return an outbox as it is there; it may be in use, nothing is written."""
    entries: dict[int, Entry] = {}
    before, damaged = Archived(), 0
    for record in _records(folder):
        try:
            state = record.pop("state")
            if state == "before":
                before = Archived(int(record["messages"]), int(record["bytes"]))
                continue
            number = int(record["number"])
            if state == "sending":
                entries[number] = _entry(record)
            elif number in entries:
                entries[number] = replace(entries[number], sent=str(record["time"]))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            damaged += 1
    found = [entries[number] for number in sorted(entries)]
    last = max(before.messages, found[-1].number if found else 0)
    size = sum(entry.bytes for entry in found if entry.number <= before.messages)
    return Read(found, damaged, Archived(last - len(found), before.bytes - size))


def _entry(record: dict[str, Any]) -> Entry:
    """Return the message that a line tells; ValueError or TypeError where it is not as a site writes it."""
    entry = Entry(**record)
    numbers = (entry.number, entry.round, entry.bytes, entry.code or 0)
    texts = (entry.time, entry.kind, entry.run, entry.sha256)
    if not all(type(number) is int for number in numbers) or not all(type(text) is str for text in texts):
        raise ValueError
    datetime.fromisoformat(entry.time)
    return entry


def require_whole(folder: Path, found: Read) -> None:
    """Refuse to say what left where a line says nothing of it.

    Raises
    ------
    FedReasonError
        OUTBOX_DAMAGED.
    """
    if found.damaged:
        raise FedReasonError(
            Code.OUTBOX_DAMAGED,
            f"{folder}: {found.damaged:,} lines of {LOG}, or of one set aside, are not as a site writes them.",
            "What else left stands in the lines that can be read. Keep the files as they are, compare them with a "
            "backup and with what the firewall counted, and tell the privacy officer.",
        )


def kept_contents(folder: Path) -> set[int]:
    """Return the numbers of the messages whose content is still there."""
    return {int(path.stem) for path in folder.glob(f"*{_CONTENTS}") if path.stem.isdecimal()}


def contents(folder: Path, number: int) -> bytes | None:
    """Return the content of a message, None where it is no longer kept."""
    try:
        return (folder / f"{number}{_CONTENTS}").read_bytes()
    except FileNotFoundError:
        return None


def _records(folder: Path) -> Iterator[Any]:
    """Yield the lines of all logs in order; one that is still being written is left out, a damaged one is None.

    The newest log is read first: where it is set aside meanwhile its lines come twice, and not never.
    """
    newest = _content(folder / LOG)
    for text in chain((_content(path) for _, path in sorted(_logs_aside(folder))), (newest,)):
        for line in text.splitlines(keepends=True):
            if line.endswith(b"\n"):
                try:
                    yield json.loads(line)
                except (ValueError, RecursionError):
                    yield None


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _logs_aside(folder: Path) -> list[tuple[int, Path]]:
    return [(int(match[1]), path) for path in folder.glob("outbox-*.jsonl") if (match := _ASIDE.fullmatch(path.name))]


def _repair(log: Path) -> None:
    """Cut off what a crash left of a last line: that line had not been synced, so its message had not left."""
    if not log.exists():
        return
    with log.open("r+b") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            _log.warning("%s: %d bytes of a line that a crash cut short are removed", log, len(content) - whole)
            file.truncate(whole)
            os.fsync(file.fileno())


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
