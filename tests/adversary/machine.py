"""Whatever is asked of a site, and whenever it is killed: bytes that depend on a record have a ledger line before.

A machine of hypothesis drives tasks, kills, retries, replays, full disks and steps of the clock against a site as its
two processes have it, the engine alone being made up.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

import client.privacy.ledger
from client.node.computing import is_of_records
from client.node.inbox import Inbox
from client.privacy.chain import LEDGER, MARK, ledger_folder
from client.site.opened import open_registry
from client.training.states import Attempts
from common.messages.frames import reply_frame
from common.messages.kinds import Refusal, Task
from tests.whole_site import SIZE, FakeSite, made, pointing, recorded, run_of, task_of

FOLDERS = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
"""Where sites are made: synced thousands of times."""


class Killed(BaseException):
    """The process ends here, and runs nothing any more."""


class Clock(datetime):
    """The site's clock, which may be set."""

    off = timedelta()

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return datetime.now(UTC) + cls.off


class Faults:
    """Ends the process, or fills the disk, at one of the next times that something is written or synced."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.full = False
        self._sync, self._replace = os.fsync, os.replace

    def _met(self) -> None:
        if self.left is None:
            return
        self.left -= 1
        if self.left < 0:
            if not self.full:
                self.left = None
                raise Killed
            raise OSError(errno.ENOSPC, "No space left on device")

    def fsync(self, descriptor: int) -> None:
        self._met()
        self._sync(descriptor)

    def replace(self, *arguments: Any) -> None:
        self._met()
        self._replace(*arguments)

    def once(self) -> None:
        """Meet a fault between two writes, as in the middle of a gradient."""
        self._met()


class SiteMachine(RuleBasedStateMachine):
    """A site, and a coordinator that asks for whatever it likes."""

    steps = 0
    met: ClassVar[Counter[str]] = Counter()
    """What happened, so that a machine in which nothing does is noticed."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(mkdtemp(dir=FOLDERS))
        self.stack = contextlib.ExitStack()
        self.faults = Faults()
        self.stack.enter_context(patch.object(os, "fsync", self.faults.fsync))
        self.stack.enter_context(patch.object(os, "replace", self.faults.replace))
        self.stack.enter_context(patch.object(client.privacy.ledger, "datetime", Clock))
        self.folder = made(self.root)
        self.seen = self.stack.enter_context(recorded(self.folder, self._gradient))
        self.fails: Callable[[], object] = lambda: None
        self.answers: dict[tuple[str, str, int, int], set[bytes]] = {}
        self.charged: set[tuple[str, str, int, int]] = set()
        self.whole = b""
        self.config = run_of()
        self.opened = open_registry(self.folder)
        self._start()

    def _gradient(self, patient: str) -> Any:
        self.faults.once()
        self.fails()
        return pointing(patient)

    def _start(self) -> None:
        """Start both processes anew; the registry, which nothing here changes, is not read again."""
        self.site, self.inbox = FakeSite(self.folder, self.opened), Inbox(self.folder / "state" / "inbox")

    def teardown(self) -> None:
        self.faults.left = None
        self.stack.close()
        shutil.rmtree(self.root, ignore_errors=True)

    @initialize(run=st.sampled_from(["one", "two"]))
    def begins(self, run: str) -> None:
        self.config = run_of(run)

    @rule(
        kind=st.sampled_from(["train", "train", "evaluate", "query"]),
        number=st.integers(0, 30),
        attempt=st.integers(0, 2),
        value=st.sampled_from([0.0] * 12 + [0.5, float("nan"), 3e38]),
        temperature=st.sampled_from([1.0] * 9 + [1e-38]),
        fails=st.sampled_from([None, None, None, ValueError, MemoryError]),
        broken=st.sampled_from([False] * 5 + [True]),
        left=st.one_of(st.none(), st.none(), st.integers(0, 30)),
        full=st.booleans(),
    )
    def asks(
        self,
        kind: str,
        number: int,
        attempt: int,
        value: float,
        temperature: float,
        fails: type[Exception] | None,
        broken: bool,
        left: int | None,
        full: bool,
    ) -> None:
        """Ask for something, which a failure or the end of a process may meet."""
        type(self).steps += 1
        grpo = self.config.grpo.model_copy(update={"temperature": temperature})
        config = self.config if temperature == 1.0 else self.config.model_copy(update={"grpo": grpo})
        task = task_of(config, number, attempt, np.full(SIZE, value, dtype=np.float32))
        self.site.fake.broken = broken

        def fail() -> None:
            if fails:
                raise fails

        self.fails = fail
        self.faults.left, self.faults.full = left, full
        before, touched, lines = len(self.seen.sent), len(self.seen.touched), self.seen.lines()
        try:
            content = self._as_a_node(kind, task)
        except Killed:
            content = None
            self.met["killed after coins" if self.seen.touched[touched:] else "killed"] += 1
            self.faults.left = None
            self._start()
        except OSError as error:
            assert error.errno == errno.ENOSPC, "the node waits for space"
            content = None
            self.met["disk full"] += 1
        finally:
            self.faults.left = None
        self._judge(kind, task, content, self.seen.touched[touched:], lines)
        del self.seen.sent[before:]

    def _as_a_node(self, kind: str, task: Task) -> bytes | None:
        """Do what the node does with a message, and return the bytes that it sends; None where it sends none."""
        if (kept := self.inbox.remembered(kind, task)) is not None:
            return reply_frame(kept)
        reply = self.seen.ask(self.site, kind, task)
        if reply is None:
            return None
        if is_of_records(reply):
            self.inbox.remember(kind, task, reply)
        return b"refused" if isinstance(reply, Refusal) else reply_frame(reply)

    def _judge(self, kind: str, task: Task, content: bytes | None, touched: list[tuple[str, int]], lines: int) -> None:
        """Hold what was seen against the invariant."""
        self.met["silent" if content is None else "refused" if content == b"refused" else f"answered {kind}"] += 1
        assert all(count > lines for _, count in touched), "a record was used before the ledger had a line for it"
        if touched:
            assert content != b"refused", "a refusal left after a record was used"
        if content not in (None, b"refused") and kind != "query":
            sent = self.answers.setdefault((kind, task.config.name, task.round, task.attempt), set())
            sent.add(content)  # type: ignore[arg-type]
            assert len(sent) == 1, "two answers to one attempt"

    @rule(
        what=st.sampled_from(["killed", "clock", "person", "person", "run"]),
        days=st.integers(-3000, 3000),
        run=st.sampled_from(["one", "two"]),
    )
    def between(self, what: str, days: int, run: str) -> None:
        """End both processes, set the clock, have a person resume, or go on with another run."""
        type(self).steps += 1
        match what:
            case "killed":
                self._start()
            case "clock":
                Clock.off = timedelta(days=days)
            case "person":
                Attempts(self.folder).go_on()
            case "run":
                self.config = run_of(run)

    @invariant()
    def no_more_answers_than_lines(self) -> None:
        """Every answer that ever left has a line of its own, and the ledger is whole."""
        files = (ledger_folder(self.folder) / name for name in (LEDGER, MARK))
        content = b"".join(path.read_bytes() for path in files if path.exists())
        if content != self.whole:  # every line of it is checked where it is another than after the last step
            self.charged = {
                ("evaluate" if entry.release.mechanism == "metrics" else "train", *entry.release.attempted[:3])
                for entry in self.site.ledger.entries()
            }
            self.whole = content
        assert self.answers.keys() <= self.charged


def stepping(steps: int, length: int, meeting: Collection[str] = ()) -> None:
    """Run machines of `length` steps, some of which hypothesis ends early, until `steps` were taken.

    Hypothesis leaves rules out of a machine, at times of all of a few: so many more are taken until all was met that is
    to be, but no more than 20 times as many.
    """
    SiteMachine.steps = 0
    SiteMachine.met.clear()
    while (left := steps - SiteMachine.steps) > 0 or (set(meeting) - SiteMachine.met.keys() and left > -19 * steps):
        run_state_machine_as_test(
            SiteMachine,
            settings=settings(
                max_examples=max(1, -(-left // length)),
                stateful_step_count=length,
                phases=[Phase.generate],
                database=None,
                derandomize=False,
            ),
        )


@contextlib.contextmanager
def changed(changes: dict[tuple[Any, str], Any]) -> Iterator[None]:
    """Put a mutation in place."""
    with contextlib.ExitStack() as stack:
        for (place, what), value in changes.items():
            stack.enter_context(patch.object(place, what, value))
        yield
