"""What may follow what at a site, for each attempt at something charged: a run, a round, an attempt, a kind of release.

seen -> allowed -> charged -> computing -> sent | silent. That a task was *seen* is the message in hand
(`client.node.inbox`); all else is a line of `state/attempts.jsonl`, on the disk before what it allows begins. Coins are
tossed only after `computing`, and after it nothing leaves but the one answer: whoever finds an attempt that was begun,
and has not its answer, stays silent for it. `sent` becomes `silent` where the answer was lost or taken back before it
left. A run without [privacy] charges nothing and is not written down.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from common.cli import unexpected
from common.errors import Code, FedReasonError
from common.identity.keys import private_folder
from common.identity.lines import append_private
from common.logs import logger

FILE = "attempts.jsonl"

MOST_SILENT = 2
"""Attempts of a run that ended in silence, through no one's wish, after which a person has to look."""

_PATIENCE = 60.0
_log = logger("site")


class State(StrEnum):
    """How far an attempt has come."""

    ALLOWED = "allowed"
    CHARGED = "charged"
    COMPUTING = "computing"
    SENT = "sent"
    SILENT = "silent"


FOLLOWS: Mapping[State | None, frozenset[State]] = {
    None: frozenset({State.ALLOWED, State.SILENT}),
    State.ALLOWED: frozenset({State.ALLOWED, State.CHARGED, State.SILENT}),
    State.CHARGED: frozenset({State.COMPUTING, State.SILENT}),
    State.COMPUTING: frozenset({State.SENT, State.SILENT}),
    State.SENT: frozenset({State.SILENT}),
    State.SILENT: frozenset(),
}
"""What may follow what; None is an attempt of which nothing is written.

An allowed one may be allowed once more: nothing was charged. Of one that was `sent` the answer, which the node keeps,
may go out again byte for byte, and no other; where the node has it no more, before it left, the attempt is silent.
"""


class Attempt(NamedTuple):
    """One try of a site at something that is charged; `kind` is the mechanism of the ledger's line."""

    run: str
    round: int
    attempt: int
    kind: str

    def __str__(self) -> str:
        """Name it for the site's log."""
        return f"run {self.run}, round {self.round}, attempt {self.attempt} ({self.kind})"


class Silent(Exception):
    """Nothing may leave for this attempt: no sum, and no refusal either."""


def require_follows(attempt: Attempt, before: State | None, state: State) -> None:
    """Raise ValueError where a state does not follow another: a mistake here, or a file that was not written here."""
    if state not in FOLLOWS[before]:
        raise ValueError(f"{attempt}: {state} does not follow {before}")


@dataclass
class Told:
    """What the file says: how far each attempt came, and how many of a run ended in silence since a person looked."""

    states: dict[Attempt, State] = field(default_factory=dict)
    deaths: dict[str, int] = field(default_factory=dict)

    def take(self, record: dict[str, object]) -> None:
        """Take a line in; ValueError, TypeError or KeyError where it does not follow."""
        if "resumed" in record:
            self.deaths = {}
            return
        wished = bool(record.pop("wished", False))
        state = State(str(record.pop("state")))
        attempt = Attempt(**record)  # type: ignore[arg-type]
        require_follows(attempt, self.states.get(attempt), state)
        self.states[attempt] = state
        if state is State.SILENT and not wished:
            self.deaths[attempt.run] = self.deaths.get(attempt.run, 0) + 1


class Attempts:
    """The attempts of a site folder, on disk; read anew at every look, since node and resident process both write."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "state"
        self._path = self._folder / FILE
        self._lock = FileLock(self._folder / f".{FILE}.lock", timeout=_PATIENCE)
        private_folder(self._folder)
        self._seen: tuple[int, int, int] | None = None
        self._told = Told()

    def state(self, attempt: Attempt) -> State | None:
        """Return how far an attempt has come; None where nothing is written of it."""
        with self._lock:
            self._read()
            return self._told.states.get(attempt)

    def enter(self, attempt: Attempt, state: State, *, wished: bool = False) -> None:
        """Write down that an attempt goes on to a state; it is on the disk when this returns.

        Parameters
        ----------
        wished
            Of silence: a person or the hours of site.toml ended the work, so that it is not counted by
            `require_person`.
        """
        with self._lock:
            self._read()
            require_follows(attempt, self._told.states.get(attempt), state)
            self._append(_record(attempt, state, wished))

    def require_person(self, run: str) -> None:
        """Refuse a run of which too many attempts ended in silence, until a person says `resume`.

        Raises
        ------
        FedReasonError
            SITE_SILENCED.
        """
        with self._lock:
            self._read()
            count = self._told.deaths.get(run, 0)
        if count >= MOST_SILENT:
            raise FedReasonError(
                Code.SITE_SILENCED,
                f"{count} attempts of run '{run}' were charged, and ended without an answer.",
                "See the log for the cause, then say: python -m client resume. What a crash tells is not bounded.",
            )

    def end_begun(self, *, wished: bool = False) -> bool:
        """End in silence what a process began that is no more, and say whether there was any.

        A site computes one thing at a time. `wished` as of `enter`.
        """
        with self._lock:
            self._read()
            begun = [each for each, state in self._told.states.items() if state in (State.CHARGED, State.COMPUTING)]
            for attempt in begun:
                self._append(_record(attempt, State.SILENT, wished))
        return bool(begun)

    def go_on(self) -> None:
        """Note that a person has looked: silent attempts up to now count no more."""
        with self._lock:
            self._read()
            if self._told.deaths:
                self._append({"resumed": True})

    def _read(self) -> None:
        """Read the file where it is not as it was last read; what a crash left of a last line is cut off."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            self._told, self._seen = Told(), None
            return
        if self._seen == (found.st_ino, found.st_size, found.st_mtime_ns):
            return
        content = self._path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with self._path.open("r+b") as file:
                file.truncate(whole)
                os.fsync(file.fileno())
        self._seen = None
        self._told = _parsed(self._path, content[:whole])
        self._seen = self._stat()

    def _append(self, record: dict[str, object]) -> None:
        """Append a line, whole or not at all; one that cannot be written leaves all as it was."""
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        try:
            append_private(self._path, line)
        except OSError:
            self._seen = None
            raise
        self._told.take(dict(record))
        self._seen = self._stat()

    def _stat(self) -> tuple[int, int, int]:
        found = self._path.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns


def read_attempts(folder: Path) -> Told:
    """Return what is written of a site's attempts, which may be in use: without its lock, and nothing is written.

    Raises
    ------
    FedReasonError
        LEDGER_DAMAGED where a line is not as a site writes it.
    """
    path = folder / "state" / FILE
    try:
        found = path.stat()
        return _read_as(path, found.st_ino, found.st_size, found.st_mtime_ns)
    except FileNotFoundError:
        return Told()


@lru_cache(maxsize=4)
def _read_as(path: Path, *state: int) -> Told:
    """Read the file in this state; who watches it need not read it anew at every look."""
    content = path.read_bytes()
    return _parsed(path, content[: content.rfind(b"\n") + 1])


def _parsed(path: Path, content: bytes) -> Told:
    told = Told()
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            told.take(json.loads(line))
        except (ValueError, TypeError, KeyError):
            raise FedReasonError(
                Code.LEDGER_DAMAGED,
                f"{path}, line {number}: it is not as a site writes it.",
                "Nothing is released until it is put right. Keep the file as it is and tell the privacy officer.",
            ) from None
    return told


@contextlib.contextmanager
def answering(attempts: Attempts, attempt: Attempt) -> Iterator[None]:
    """Surround the computation of a charged attempt: it ends in `sent`, or in silence whatever went wrong.

    Raises
    ------
    Silent
        In place of whatever was raised inside.
    """
    attempts.enter(attempt, State.CHARGED)
    attempts.enter(attempt, State.COMPUTING)
    try:
        yield
        attempts.enter(attempt, State.SENT)
    except KeyboardInterrupt:
        silence(attempts, attempt, wished=True)
        raise
    except Exception as error:
        told = error if isinstance(error, FedReasonError) else unexpected(error)
        _log.error("%s failed, and nothing is sent: %s", attempt, told)
        silence(attempts, attempt)
        raise Silent from None


def silence(attempts: Attempts, attempt: Attempt, *, wished: bool = False, lost: bool = False) -> None:
    """Have an attempt end in silence where it has no end yet; a disk without space does not stop that.

    `wished` as of `Attempts.enter`; `lost` says that what was computed cannot leave, so that `sent` is no end.
    """
    with contextlib.suppress(OSError):
        if attempts.state(attempt) not in ((State.SILENT,) if lost else (State.SENT, State.SILENT)):
            attempts.enter(attempt, State.SILENT, wished=wished)


def _record(attempt: Attempt, state: State, wished: bool) -> dict[str, object]:
    return {**attempt._asdict(), "state": state, **({"wished": True} if wished else {})}
