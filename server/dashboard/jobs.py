"""What somebody had done from the pages: the coordinator's own commands, each a process that outlives the dashboard.

A question before a run is taken back where the dashboard ends in order; a run that was started or aborted stays so.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from common.errors import Code, FedReasonError

COMMAND = (sys.executable, "-m", "server")
_KEPT, _AT_ONCE = 20, 4
_MOST_LINES, _MOST_CHARACTERS, _LONGEST_LINE = 200, 1_000_000, 2_000
_END_SECONDS, _LAST_WORDS_SECONDS = 30.0, 5.0


@dataclass
class Job:
    """One command: what it is for, who asked, what it said to people (`lines`) and answered (`answer`)."""

    number: int
    kind: str
    about: str
    user: str
    began: datetime
    process: subprocess.Popen[str]
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_MOST_LINES))
    answer: str = ""
    ended: datetime | None = None
    taken_back: bool = False

    @property
    def title(self) -> str:
        """What it does, in words."""
        return f"{self.kind} {self.about}".strip()

    @property
    def outcome(self) -> str:
        """How it ended; that it has not, where it has not."""
        status = self.process.returncode
        if self.ended is None:
            return "under way"
        if self.taken_back:
            return "taken back"
        return "done" if status == 0 else f"exit status {status}" if status >= 0 else f"ended by signal {-status}"


class Jobs:
    """The latest commands.

    Parameters
    ----------
    federation
        Folder of the federation that they are for.
    tell
        Takes one line for each that begins or ends: who asked for what.
    """

    def __init__(self, federation: Path, tell: Callable[[str], None]) -> None:
        self._federation, self._tell = federation, tell
        self._all: list[Job] = []
        self._made = 0
        self._lock = threading.Lock()

    @property
    def all(self) -> list[Job]:
        """Return them, the latest first."""
        with self._lock:
            return self._all[::-1]

    def find(self, number: str) -> Job:
        """Return one by its number; RUN_UNKNOWN where it is not kept."""
        for job in self.all:
            if str(job.number) == number:
                return job
        raise FedReasonError(Code.RUN_UNKNOWN, "No such action is kept.", "See those of the first page.")

    def begin(self, kind: str, about: str, user: str, words: Sequence[str]) -> Job:
        """Start `python -m server WORDS`.

        Raises
        ------
        FedReasonError
            RUN_LOCKED where the same, or too much, is under way.
        """
        with self._lock:
            going = [job for job in self._all if job.ended is None]
            if any((job.kind, job.about) == (kind, about) for job in going) or len(going) >= _AT_ONCE:
                raise FedReasonError(
                    Code.RUN_LOCKED,
                    f"{', '.join(job.title for job in going)}: this is under way.",
                    "Wait for its end, which the first page shows.",
                )
            command = [*COMMAND, words[0], "--federation", str(self._federation), *words[1:]]
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            self._made += 1
            job = Job(self._made, kind, about, user, datetime.now(UTC), process)
            kept = [one for one in self._all if one.ended is None or one in self._all[1 - _KEPT :]]
            self._all = [*kept, job]
        threading.Thread(target=self._follow, args=(job,), daemon=True).start()
        self._tell(f"{user}: {job.title}")
        return job

    def _follow(self, job: Job) -> None:
        assert job.process.stdout is not None and job.process.stderr is not None
        answer: list[str] = []
        listening = [
            threading.Thread(target=_keep, args=(job.process.stderr, job.lines), daemon=True),
            threading.Thread(target=_take, args=(job.process.stdout, answer), daemon=True),
        ]
        for each in listening:
            each.start()
        job.process.wait()
        for each in listening:
            each.join(_LAST_WORDS_SECONDS)
        job.answer = "".join(answer)
        job.ended = datetime.now(UTC)
        self._tell(f"{job.title}: {job.outcome}")

    def take_back(self, number: str) -> Job:
        """End a question that is under way, kindly: it is then taken back from the sites."""
        job = self.find(number)
        if job.kind == "ask" and job.ended is None:
            job.taken_back = True
            with contextlib.suppress(ProcessLookupError):
                job.process.terminate()
        return job

    def end(self) -> None:
        """Take back what would have nobody to be told to, and wait for that."""
        asking = [job for job in self.all if job.kind == "ask" and job.ended is None]
        for job in asking:
            self.take_back(str(job.number))
        until = time.monotonic() + _END_SECONDS
        for job in asking:
            with contextlib.suppress(subprocess.TimeoutExpired):
                job.process.wait(max(0.0, until - time.monotonic()))


def _take(stream: IO[str], into: list[str]) -> None:
    into.append(stream.read(_MOST_CHARACTERS))
    while stream.read(_MOST_CHARACTERS):
        pass


def _keep(stream: IO[str], lines: deque[str]) -> None:
    while line := stream.readline(_LONGEST_LINE):
        if line.strip():
            lines.append(line.rstrip())
