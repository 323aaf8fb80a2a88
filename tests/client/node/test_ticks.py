"""An answer of a private run leaves at a public time, whoever's records it is of and however long they took."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.waiting import PATIENCE
from client.node import node as nodes
from client.node import ticks
from client.node.computing import Stopped
from client.node.node import Node
from client.node.running import Running
from client.node.ticks import Ticks, next_tick
from client.node.worker import Lost, RunEnded
from client.training.states import Silent
from common.config import RunConfig
from common.messages.kinds import Contribution, Evaluation, Refusal, Reply
from common.messages.records import task_record
from tests.clock import Clock
from tests.whole_site import run_of, task_of

EVERY = 30.0


@given(st.floats(0, 1e6), st.floats(1e-3, 1e5))
def test_a_tick_is_the_first_multiple_that_is_not_past(elapsed: float, every: float) -> None:
    tick = next_tick(elapsed, every)
    assert tick >= max(every, elapsed) * (1 - 1e-9) and tick - elapsed <= every * (1 + 1e-9)
    assert tick / every == pytest.approx(round(tick / every))
    assert next_tick(elapsed, 0.0) == elapsed
    for tiny in (5e-324, 1e-310, 1e-300):
        assert elapsed * (1 - 1e-9) <= next_tick(elapsed, tiny) <= elapsed * (1 + 1e-9) + 1e-3


def never(run: int) -> None:
    raise Lost


def handled(
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    reply: Reply | Exception,
    config: RunConfig,
    ask: Callable[[int], None] = never,
    waited: Callable[[float], None] = lambda now: None,
) -> Any:
    """Have a node answer a message over which its resident process works so long; return when what was sent.

    `ask` asks whether the run goes on, `waited` is told the time since the message came whenever the node has waited.
    """
    clock, sent = Clock(1000.0), []
    monkeypatch.setattr(ticks, "time", clock)

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            clock.now += timeout or 0.0
            waited(clock.now - 1000.0)
            return self.is_set()

    def answer(*_: Any) -> Reply:
        clock.now += seconds
        if isinstance(reply, Exception):
            raise reply
        return reply

    def recorded(kind: str, *_: Any) -> Any:
        return SimpleNamespace(kind=kind)

    node = object.__new__(Node)
    message = SimpleNamespace(metadata=SimpleNamespace(message_type="train"), content=task_record(task_of(config)))
    parcel = SimpleNamespace(message=message, run=1)
    stop, running = Stop(), Running(ask, lambda: None, every=0.001)
    status = SimpleNamespace(
        announce=lambda *a, **k: None, answered=lambda code: None, sent=lambda *a: None, stage=lambda stage: None
    )
    computing = SimpleNamespace(
        answer=answer, end=lambda: STOPPED.append(clock.now - 1000.0), held=lambda: None, hides=True
    )
    vars(node).update(
        _stop=stop,
        _status=status,
        _computing=computing,
        _running=running,
        _ticks=Ticks(stop, status, running, computing),  # type: ignore[arg-type]
        _outbox=SimpleNamespace(record=recorded, sent=lambda entry: None, messages=0, bytes=0),
        _config=SimpleNamespace(name="north"),
        _taken=clock.now,
        _begun=lambda: None,
        _send=lambda answer, give_up: sent.append(clock.now - 1000.0),
    )
    monkeypatch.setattr(nodes, "reply_parcel", lambda *_: SimpleNamespace(to_bytes=lambda: b""))
    node._handle(parcel)  # type: ignore[arg-type]
    return sent, clock.now - 1000.0


STOPPED: list[float] = []
SUM = Contribution("north", 1, 0, np.zeros(3, dtype=np.int64), None)
COUNTS = Evaluation("north", 1, {"all": {"asked": 3, "free": 2, "forced": 1}})


@pytest.mark.parametrize("reply", [SUM, COUNTS])
def test_slow_patients_and_fast_ones_are_answered_for_in_the_same_tick(
    monkeypatch: pytest.MonkeyPatch, reply: Reply
) -> None:
    config = run_of(privacy={"answer_every": EVERY})
    for seconds in (0.0, 0.01, 12.0, 29.9):
        assert handled(monkeypatch, seconds, reply, config)[0] == [EVERY]
    assert handled(monkeypatch, 30.1, reply, config)[0] == [2 * EVERY]


def test_a_disk_that_has_no_room_for_the_answer_does_not_tell_when_it_was_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What asks the coordinator whether the run goes on must not stop at that moment."""
    config, clocks, clock = run_of(privacy={"answer_every": EVERY}), list[Clock](), Clock
    monkeypatch.setitem(globals(), "Clock", lambda now: clocks.append(clock(now)) or clocks[-1])
    for seconds in (0.01, 12.0, 29.9):
        with pytest.raises(OSError, match="no room"):
            handled(monkeypatch, seconds, OSError(errno.ENOSPC, "no room"), config)
        assert clocks[-1].now - 1000.0 == EVERY
    with pytest.raises(OSError, match="no room"):
        handled(monkeypatch, 12.0, OSError(errno.ENOSPC, "no room"), run_of())
    assert clocks[-1].now - 1000.0 == 12.0


def test_silence_lasts_until_the_tick_too_and_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    config = run_of(privacy={"answer_every": EVERY})
    for seconds in (0.1, 20.0):
        assert handled(monkeypatch, seconds, Silent(), config) == ([], EVERY)


def test_what_no_record_decides_leaves_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    config = run_of(privacy={"answer_every": EVERY})
    assert handled(monkeypatch, 3.0, Refusal("north", 832), config)[0] == [3.0]
    assert handled(monkeypatch, 3.0, Evaluation("north", 1, None), config)[0] == [3.0]
    assert handled(monkeypatch, 3.0, SUM, run_of(privacy=None))[0] == [3.0]
    assert handled(monkeypatch, 3.0, SUM, run_of(privacy={"answer_every": 0.0}))[0] == [3.0]


def test_without_the_wait_the_time_tells_the_patients_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticks, "next_tick", lambda elapsed, every: elapsed)
    config = run_of(privacy={"answer_every": EVERY})
    assert handled(monkeypatch, 1.0, SUM, config)[0] != handled(monkeypatch, 20.0, SUM, config)[0]


def test_a_site_that_is_stopped_after_coins_were_tossed_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    config, put_away = run_of(privacy={"answer_every": EVERY}), []
    monkeypatch.setattr(Node, "_put_away", lambda node: put_away.append(node))
    with pytest.raises(Stopped):
        handled(monkeypatch, 1.0, Stopped(silent=True), config)
    assert len(put_away) == 1


def test_the_coordinator_is_asked_on_until_the_answer_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """It sees each question: asked only while something is computed, they would tell for how long that was."""
    asked, last = threading.Semaphore(0), []

    def waited(now: float) -> None:
        assert asked.acquire(timeout=PATIENCE)
        last.append(now)

    config = run_of(privacy={"answer_every": EVERY})
    for reply in (SUM, Silent()):
        handled(monkeypatch, 1.0, reply, config, ask=lambda run: asked.release(), waited=waited)
        assert last.pop() == EVERY


def test_who_ends_a_run_does_not_see_whether_the_work_had_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is sent, the process is ended, and the next message is asked for, all as where it had not."""
    config, over, noticed = run_of(privacy={"answer_every": EVERY}), threading.Event(), threading.Event()

    def ask(run: int) -> None:
        if over.is_set():
            noticed.set()
            raise RunEnded

    def waited(now: float) -> None:
        if now >= 10:
            over.set()
            assert noticed.wait(PATIENCE)

    seen = []
    for seconds, reply in ((3.0, SUM), (3.0, Silent()), (10.0, RunEnded())):
        for flag in (over, noticed):
            flag.clear()
        STOPPED.clear()
        with pytest.raises(RunEnded):
            handled(monkeypatch, seconds, reply, config, ask, waited)
        seen.append((ticks.time.monotonic() - 1000.0, bool(STOPPED)))
    assert seen == [(EVERY, True)] * 3


def test_no_message_keeps_a_site_waiting_for_more_than_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its answer nor its silence, for an attempt that the policy would have refused: it is not even read."""

    def waited(now: float) -> None:
        assert now <= 3600

    longest = run_of(federation={"deadline": 7200.0}, privacy={"answer_every": 3600.0})
    assert longest.privacy is not None
    assert handled(monkeypatch, 1.0, Silent(), longest, waited=waited) == ([], 3600.0)
    for every in (3601.0, 1e9):
        privacy = longest.privacy.model_copy(update={"answer_every": every})
        federation = longest.federation.model_copy(update={"deadline": 2 * every})
        hostile = longest.model_copy(update={"privacy": privacy, "federation": federation})
        assert handled(monkeypatch, 1.0, Silent(), hostile, waited=waited) == ([0.0], 0.0), "refused at once"
        with pytest.raises(ValueError, match="3600"):
            run_of(federation={"deadline": 2 * every}, privacy={"answer_every": every})


def test_a_deadline_that_ends_before_answers_may_leave_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least twice"):
        run_of(privacy={"answer_every": 2000.0})
