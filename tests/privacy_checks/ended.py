"""Work that somebody ends: whoever knows when it was ended does not see whether it had come to its end by itself.

Node, handle on the resident process, inbox and attempts of a site are the real ones; the process is a clock, and time
passes where somebody waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np

from bench.waiting import PATIENCE
from client.node import node as nodes
from client.node import ticks
from client.node.computing import Computing, Stopped
from client.node.hours import pause, resume
from client.node.inbox import Inbox
from client.node.node import Node
from client.node.resident import Died
from client.node.running import Running
from client.node.ticks import Ticks
from client.node.worker import Lost, RunEnded
from client.site.config import load_site
from client.training.states import Attempt, Attempts, Silent, State, read_attempts
from common.errors import Code, FedReasonError
from common.messages.kinds import Contribution, Refusal, Reply, Task
from common.messages.records import task_record
from tests.clock import Clock
from tests.privacy_checks import Check, on_broken
from tests.whole_site import made, run_of, task_of

EVERY, ENDS = 30.0, 10.0
SHORT, LONG = 3.0, 20.0
"""Seconds: when answers leave, when the work is ended, and how long it takes: less than that, and more."""

CONFIG = run_of(privacy={"answer_every": EVERY})
TASK = task_of(CONFIG)
ATTEMPT = Attempt(CONFIG.name, 1, 0, "fedsgd-local")
SUM = Contribution("north", 1, 0, np.zeros(3, dtype=np.int64), None)
UNKNOWN = FedReasonError(Code.KEY_UNKNOWN, "It does not know this site's key.", "Ask the coordinator.")


@dataclass
class Process:
    """The resident process: it charges an attempt, works as long as it is told, and is silent when asked once more."""

    folder: Path
    passes: Callable[[float], float]
    seconds: float
    again: Reply | None = None
    """What it answers in place of silence where it was begun before: what the gate refuses."""
    dies: bool = False
    until: float = field(default=0.0, init=False)
    starts, pid = 1, 1

    def start(self) -> None:
        pass

    stop = start

    def ready(self, _: float) -> bool:
        return True

    def give(self, kind: str, task: Task) -> None:
        self.known = Attempts(self.folder).state(ATTEMPT)
        self.until = self.passes(0.0) + self.seconds
        if self.known is None:
            for state in (State.ALLOWED, State.CHARGED, State.COMPUTING):
                Attempts(self.folder).enter(ATTEMPT, state)

    def take(self, seconds: float) -> Reply | None:
        if self.known is not None:
            if self.again is None:
                raise Silent
            return self.again
        if self.passes(seconds) < self.until:
            return None
        if self.dies:
            raise Died
        Attempts(self.folder).enter(ATTEMPT, State.SENT)
        return SUM


class Scene:
    """A site whose work takes so long, or whose process is dead by then."""

    def __init__(self, folder: Path, seconds: float, *, dies: bool = False) -> None:
        self.folder, self.seconds, self.dies, self.how = made(folder, CONFIG), seconds, dies, ""
        self.inbox = Inbox(self.folder / "state" / "inbox")
        self.clock, self.began = Clock(1000.0), 1000.0
        self.stop, self._asks, self._heard = threading.Event(), False, threading.Event()

    def handled(self, how: str, again: Reply | None = None, *, paused: bool = False) -> tuple[str, float]:
        """Have a node that was just started answer the task; return what it sent, if anything, and when it had done.

        Parameters
        ----------
        how
            What happens after `ENDS` seconds: "run", "pause", "stop", "unknown", or nothing.
        """
        self.how, self.began = how, self.clock.now
        self._asks, sent = False, [""]
        self._heard.clear()
        self.stop.clear()
        if paused:
            pause(self.folder, "trial")
        nothing: Callable[..., None] = lambda *_, **__: None  # noqa: E731
        stop: Any = SimpleNamespace(is_set=self.stop.is_set, wait=self.passes)
        status: Any = SimpleNamespace(
            announce=nothing, answered=nothing, tell=nothing, loads=nothing, stage=nothing, sent=nothing
        )
        outbox = SimpleNamespace(record=lambda *_: SimpleNamespace(kind=""), sent=nothing, messages=0, bytes=0)
        node = object.__new__(Node)
        running = Running(self.ask, nothing, every=0.001)
        computing = Computing(self.folder, load_site(self.folder), status, self.inbox, node._go_on, running.require)
        computing._resident = Process(self.folder, self.passes, self.seconds, again, self.dies)  # type: ignore[assignment]
        vars(node).update(
            _stop=stop,
            _status=status,
            _running=running,
            _computing=computing,
            _ticks=Ticks(stop, status, running, computing),
            _inbox=self.inbox,
            _in_hand=None,
            _outbox=outbox,
            _config=SimpleNamespace(name="north"),
            _taken=self.began,
            _send=lambda answer, give_up: sent.append(answer.kind),
        )
        message = SimpleNamespace(metadata=SimpleNamespace(message_type="train"), content=task_record(TASK))
        packed = lambda _, content: SimpleNamespace(kind=str(content), to_bytes=lambda: b"")  # noqa: E731
        with ExitStack() as stack:
            stack.enter_context(patch.object(ticks, "time", self.clock))
            stack.enter_context(patch.object(nodes, "reply_parcel", packed))
            stack.enter_context(patch.object(nodes, "reply_record", lambda reply: type(reply).__name__))
            stack.enter_context(suppress(RunEnded, Stopped))
            node._handle(SimpleNamespace(message=message, run=1))  # type: ignore[arg-type]
        node._put_away()
        resume(self.folder)
        return sent[-1], self.clock.now - self.began

    def passes(self, seconds: float | None) -> float:
        """Let time pass, and return it; what ends the work happens at its time, and is noticed."""
        self.clock.sleep(seconds or 0.0)
        if self.clock.now - self.began >= ENDS and not self._asks and self.how:
            self._asks = True
            if self.how == "stop":
                self.stop.set()
            elif self.how == "pause":
                pause(self.folder, "trial")
            else:
                assert self._heard.wait(PATIENCE)
        if self.how == "pause" and self.clock.now - self.began >= 2 * ENDS:
            resume(self.folder)
        return self.clock.now

    def ask(self, run: int) -> None:
        """Ask whether the run goes on."""
        if not self._asks or self.how not in ("run", "unknown"):
            raise Lost
        if self.how == "run":
            self._heard.set()
            raise RunEnded
        if not self._heard.is_set():
            threading.Timer(0.01, self._heard.set).start()
            raise UNKNOWN


def seen(seconds: float, how: str) -> list[tuple[str, float]]:
    """Return what leaves a site whose work takes so long and is ended, and what when it is asked for that once more."""
    refusal = Refusal("north", int(Code.POLICY_REFUSED))
    with TemporaryDirectory() as folder:
        scene = Scene(Path(folder), seconds)
        told = [scene.handled(how)]
        return [*told, scene.handled("", refusal), scene.handled("", paused=True), scene.handled("")]


def check_ended(how: str) -> bool:
    """Work that had ended and work that had not look alike, then and later, and no answer of either leaves."""
    short, long = seen(SHORT, how), seen(LONG, how)
    return short == long and not any(sent for sent, _ in short)


def check_refused() -> bool:
    """A coordinator that knows the site no more for a moment ends nothing: the answer leaves at its time."""
    return seen(SHORT, "unknown")[0] == seen(LONG, "unknown")[0] == ("Contribution", EVERY)


def check_died() -> bool:
    """A process that died counts, whoever ends the run or the work after that."""
    deaths = []
    for how in ("run", "pause", "stop"):
        with TemporaryDirectory() as folder:
            scene = Scene(Path(folder), SHORT, dies=True)
            scene.handled(how)
            deaths.append(read_attempts(scene.folder).deaths)
    return deaths == [{CONFIG.name: 1}] * 3


def _kept(inbox: Inbox, kind: str) -> None:
    pass


def _sent_stays(computing: Computing, *, wished: bool = False) -> bool:
    begun = computing._attempts.end_begun(wished=wished)
    attempt = computing._attempt
    return begun or (attempt is not None and computing._attempts.state(attempt) is State.SENT)


def _run_alone(ticks: Ticks) -> RunEnded | None:
    return RunEnded() if ticks._running.ended else None


def _kept_when_stopped(computing: Computing) -> bool:
    return computing._attempts.end_begun(wished=True)


def _ends_work(running: Running, run: int, over: threading.Event) -> None:
    while not over.wait(running._every):
        try:
            running._ask(run)
        except Lost:
            continue
        except FedReasonError:
            running._ended = True


_RUN, _PAUSE, _STOP = (partial(check_ended, how) for how in ("run", "pause", "stop"))

CHECKS = [
    Check(
        "answers: the end of a run",
        _RUN,
        {
            "the answer is kept": lambda: on_broken(_RUN, "client.node.inbox.Inbox.forget", _kept),
            "one that was computed stays sent": lambda: on_broken(
                _RUN, "client.node.computing.Computing._spent", _sent_stays
            ),
        },
    ),
    Check(
        "answers: a pause, and the hours",
        _PAUSE,
        {"looked at where something computes": lambda: on_broken(_PAUSE, "client.node.ticks.Ticks._ended", _run_alone)},
    ),
    Check(
        "answers: a site that is stopped",
        _STOP,
        {"the answer is kept": lambda: on_broken(_STOP, "client.node.computing.Computing.end", _kept_when_stopped)},
    ),
    Check(
        "answers: a site that is refused for a moment",
        check_refused,
        {"ends the work": lambda: on_broken(check_refused, "client.node.running.Running._go_on_asking", _ends_work)},
    ),
    Check(
        "silence: a process that died",
        check_died,
        {
            "is left to the next one": lambda: on_broken(
                check_died, "client.node.computing.Computing._require_not_begun", lambda _: None
            )
        },
    ),
]
