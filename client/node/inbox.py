"""The message in hand and the last answers, on disk: after a crash a site goes on, and computes nothing twice."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from common.identity.keys import private_folder, sync_folder, write_private
from common.messages.frames import read_reply_frame, reply_frame, task_frame
from common.messages.kinds import Reply, Task

_DIGEST = 32


class Inbox:
    """Folder `state/inbox` of a site."""

    def __init__(self, folder: Path) -> None:
        private_folder(folder)
        self._folder = folder
        self._message, self._upload = folder / "message", folder / "upload"
        self._unwritten: dict[str, bytes] = {}
        for left in folder.glob(".*"):  # of a write that a kill cut short; as large as a message
            left.unlink(missing_ok=True)

    def keep(self, message: bytes) -> None:
        """Keep the message in hand."""
        write_private(self._message, message)

    def kept(self) -> bytes | None:
        """Return the message in hand, None where there is none."""
        return self._message.read_bytes() if self._message.exists() else None

    def clear(self) -> None:
        """Forget the message in hand: it is answered, or its run is over."""
        self._upload.unlink(missing_ok=True)
        self._message.unlink(missing_ok=True)

    def keep_upload(self, upload: bytes) -> None:
        """Keep an answer before it is sent: the SuperLink that has its header takes no other."""
        write_private(self._upload, upload)

    def kept_upload(self) -> bytes | None:
        """Return what of the answer to the message in hand was being sent."""
        return self._upload.read_bytes() if self._upload.exists() else None

    def remember(self, kind: str, task: Task, reply: Reply) -> None:
        """Keep the answer to a task, in place of the last one of its kind.

        Where the disk has no space for it it is kept in memory, until it is asked for again.
        """
        self._unwritten[kind] = _digest(kind, task) + reply_frame(reply)
        self._write(kind)

    def remembered(self, kind: str, task: Task) -> Reply | None:
        """Return the answer, where this very task was the last one of its kind that was answered."""
        self._write(kind)
        path = self._answer(kind)
        content = path.read_bytes() if path.exists() else b""
        return read_reply_frame(content[_DIGEST:]) if content[:_DIGEST] == _digest(kind, task) else None

    def forget(self, kind: str) -> None:
        """Keep no answer of a kind; none comes back when this has returned."""
        self._unwritten.pop(kind, None)
        self._answer(kind).unlink(missing_ok=True)
        sync_folder(self._folder)

    def _write(self, kind: str) -> None:
        if kind in self._unwritten:
            write_private(self._answer(kind), self._unwritten[kind])
            del self._unwritten[kind]

    def _answer(self, kind: str) -> Path:
        return self._folder / f"answer-{kind}"


def _digest(kind: str, task: Task) -> bytes:
    """Name a task by all that its answer depends on; asked again, it may come with other heads of ledgers."""
    return hashlib.sha256(kind.encode() + b"\0" + task_frame(replace(task, ledgers={}))).digest()
