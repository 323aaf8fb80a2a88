"""Once an attempt was charged a site says nothing about its failure, however often its process dies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from client.node.computing import Computing, Stopped
from client.node.hours import pause
from client.node.inbox import Inbox
from client.node.node import Node
from client.node.resident import Died
from client.node.worker import RunEnded
from client.site.config import load_site
from client.training.releases import attempt_of
from client.training.states import Attempt, Attempts, Silent, State, read_attempts
from common.errors import Code, FedReasonError
from common.messages.kinds import Refusal, Reply, Task
from tests.whole_site import made, run_of, task_of

CONFIG = run_of()


def computing_at(folder: Path) -> Computing:
    nothing = lambda *_, **__: None  # noqa: E731
    status = SimpleNamespace(announce=nothing, tell=nothing, loads=nothing, contact=nothing, stage=nothing)
    inbox = Inbox(folder / "state" / "inbox")
    return Computing(folder, load_site(folder), status, inbox, nothing, nothing)  # type: ignore[arg-type]


def died_over(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *then: Any,
    charged: bool = True,
    further: tuple[State, ...] = (),
) -> Any:
    """Have a resident process die over a task, charged or not, and what is started in its place end as said."""
    computing = computing_at(folder)
    ends = iter((Died(), *then))

    def computed(*_: Any) -> Any:
        end = next(ends)
        if charged and Attempts(folder).state(ATTEMPT) is None:
            for state in (State.ALLOWED, State.CHARGED, State.COMPUTING, *further):
                Attempts(folder).enter(ATTEMPT, state)
        if isinstance(end, Exception):
            raise end
        return end

    monkeypatch.setattr(computing, "_computed", computed)
    return computing.answer("train", task_of(CONFIG))


ATTEMPT = Attempt(CONFIG.name, 1, 0, "fedsgd-local")


@pytest.mark.parametrize("then", [Died(), Refusal("north", int(Code.RUN_FAILED)), Refusal("north", 816)])
def test_a_process_that_dies_after_the_charge_and_cannot_start_again_is_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: Any
) -> None:
    folder = made(tmp_path)
    with pytest.raises(Silent):
        died_over(folder, monkeypatch, then)
    attempts = Attempts(folder)
    assert attempts.state(ATTEMPT) is State.SILENT and attempts._told.deaths == {CONFIG.name: 1}


def test_a_process_that_dies_once_its_sum_is_computed_and_cannot_start_again_is_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made(tmp_path)
    with pytest.raises(Silent):
        died_over(folder, monkeypatch, Refusal("north", 816), further=(State.SENT,))
    assert Attempts(folder).state(ATTEMPT) is State.SILENT and read_attempts(folder).deaths == {CONFIG.name: 1}


@pytest.mark.parametrize("further", [(), (State.SENT,)])
@pytest.mark.parametrize("how", ["run", "pause"])
def test_a_death_counts_also_where_somebody_ends_the_work_before_the_next_process_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, further: tuple[State, ...]
) -> None:
    """Else whoever makes it die need only end the run then, as often as they like."""
    folder = made(tmp_path)
    computing, deaths = computing_at(folder), iter((Died(),))

    def ended() -> None:
        raise RunEnded

    def computed(kind: str, task: Task) -> Reply:
        for death in deaths:
            for state in (State.ALLOWED, State.CHARGED, State.COMPUTING, *further):
                Attempts(folder).enter(ATTEMPT, state)
            if how == "pause":
                pause(folder, "maintenance")
            else:
                computing._require_running = ended
            raise death
        with computing._watched() as watch:
            watch()
        raise AssertionError

    monkeypatch.setattr(computing, "_computed", computed)
    with pytest.raises((Silent, RunEnded)):
        computing.answer("train", task_of(CONFIG))
    assert read_attempts(folder).deaths == {CONFIG.name: 1}


def test_what_died_with_its_node_counts_before_the_coordinator_is_there(tmp_path: Path) -> None:
    folder = made(tmp_path)
    for state in WAY[:3]:
        Attempts(folder).enter(ATTEMPT, state)

    def connect() -> int:
        assert read_attempts(folder).deaths == {CONFIG.name: 1}
        raise Stopped

    node = object.__new__(Node)
    vars(node).update(_computing=computing_at(folder), _go_on=lambda: None, _connect=connect)
    with pytest.raises(Stopped):
        node._serve()


def test_before_the_charge_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made(tmp_path)
    assert died_over(folder, monkeypatch, Refusal("north", 816), charged=False) == Refusal("north", 816)
    with pytest.raises(FedReasonError) as refusal:
        died_over(folder, monkeypatch, Died(), charged=False)
    assert refusal.value.code is Code.SITE_WORKER


WAY = (State.ALLOWED, State.CHARGED, State.COMPUTING, State.SENT)


@pytest.mark.parametrize("far", range(5))
def test_a_pause_after_the_charge_is_silence_also_where_the_sum_is_computed_and_not_taken(
    tmp_path: Path, far: int
) -> None:
    """Told apart, the two would say how long the patients' completions were."""
    folder = made(tmp_path)
    for state in WAY[:far]:
        Attempts(folder).enter(ATTEMPT, state)
    computing = computing_at(folder)
    computing._attempt = attempt_of("train", task_of(CONFIG))
    with pytest.raises((Silent, FedReasonError)) as ended, computing._watched() as watch:
        pause(folder, "maintenance")
        watch()
    code = ended.value.code if isinstance(ended.value, FedReasonError) else None
    assert code is (None if far > 1 else Code.SITE_PAUSED)
    assert read_attempts(folder).deaths == {}


def test_what_was_sent_of_another_message_silences_no_pause(tmp_path: Path) -> None:
    folder = made(tmp_path)
    for state in WAY:
        Attempts(folder).enter(ATTEMPT, state)
    computing = computing_at(folder)
    for kind in ("evaluate", "query", "train.secure"):
        computing._attempt = attempt_of(kind, task_of(CONFIG))
        with pytest.raises(FedReasonError) as told, computing._watched() as watch:
            pause(folder, "maintenance")
            watch()
        assert told.value.code is Code.SITE_PAUSED


def test_a_task_that_is_refused_after_its_attempt_was_answered_is_no_death(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as under a newer roster: nothing was begun for it, and whoever asks is told why."""
    folder = made(tmp_path)
    for state in WAY:
        Attempts(folder).enter(ATTEMPT, state)
    computing, refusal = computing_at(folder), Refusal("north", int(Code.ROSTER_CHANGED))
    monkeypatch.setattr(computing, "_computed", lambda *_: refusal)
    assert computing.answer("train", task_of(CONFIG)) == refusal
    assert Attempts(folder).state(ATTEMPT) is State.SENT and read_attempts(folder).deaths == {}
    Attempts(folder).enter(ATTEMPT, State.SILENT, wished=True)
    with pytest.raises(Silent):
        computing.answer("train", task_of(CONFIG))


def test_public_questions_are_charged_as_nothing_also_beside_counts_of_the_same_round() -> None:
    task = task_of(CONFIG)
    assert attempt_of("evaluate", task) is not None and attempt_of("evaluate", replace(task, public=True)) is None


@pytest.mark.parametrize("kind", ["train", "train.secure"])
def test_a_task_that_is_charged_cannot_be_called_public(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Else a pause after the charge would be told, and whether the sum was there before it."""
    task = replace(task_of(CONFIG), public=True, step={"kind": "inbox"})
    assert attempt_of(kind, task) == attempt_of(kind, replace(task, public=False)) is not None
    computing = computing_at(made(tmp_path))
    monkeypatch.setattr(computing, "_computed", None)
    with pytest.raises(FedReasonError) as told:
        computing.answer(kind, task)
    assert told.value.code is Code.RUN_REPLY


def test_what_nobody_foresaw_ends_no_program_and_is_silent_after_the_charge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that ended it would be in hand again whenever it is started."""
    folder = made(tmp_path)
    with pytest.raises(FedReasonError) as told:
        died_over(folder, monkeypatch, RecursionError("of a message"), charged=False)
    assert told.value.code is Code.RUN_FAILED and "of a message" not in str(told.value)
    with pytest.raises(Silent):
        died_over(folder, monkeypatch, RecursionError("of a message"))
    with pytest.raises(OSError):
        died_over(made(tmp_path / "full"), monkeypatch, OSError(28, "No space"), charged=False)


@pytest.mark.parametrize(("message", "silent"), [("inbox", True), ("opening", False), ("survivors", False)])
def test_of_a_secure_sum_the_message_whose_answer_is_masked_is_silenced_and_no_other(
    tmp_path: Path, message: str, silent: bool
) -> None:
    """Also by a node that died with it in hand: what was computed then is on the disk alone."""
    folder = made(tmp_path)
    for state in WAY:
        Attempts(folder).enter(ATTEMPT, state)
    computing = computing_at(folder)
    computing._attempt = attempt_of("train.secure", replace(task_of(CONFIG), step={"kind": message}))
    with pytest.raises((Silent, FedReasonError)) as ended, computing._watched() as watch:
        pause(folder, "maintenance")
        watch()
    assert isinstance(ended.value, Silent) is silent
