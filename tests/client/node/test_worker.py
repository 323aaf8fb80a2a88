"""Flower's own parts that the site uses are there, and the resident process behaves."""

from __future__ import annotations

import ast
import importlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from client.node.inbox import Inbox
from client.node.resident import Died, Resident
from client.node.worker import Parcel
from client.site.stage import Stage
from common import synthetic
from common.errors import Code, FedReasonError
from common.messages.frames import read_reply_frame, read_task_frame, reply_frame, task_frame
from common.messages.kinds import Contribution, Evaluation, Layout, Refusal, Reply, Request, Task
from simulation.prepare import prepare
from tests.paths import ROOT
from tests.small import small_config


def flower_imports(path: Path) -> list[tuple[str, str]]:
    """Return what a file takes from Flower, as (module, name)."""
    return [
        (node.module, name.name)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "flwr"
        for name in node.names
    ]


@pytest.mark.parametrize(("module", "name"), flower_imports(ROOT / "client" / "node" / "worker.py"))
def test_flower_still_has(module: str, name: str) -> None:
    """Where this fails, the pin of flwr moved: client/node/worker.py is the one file to mend."""
    assert hasattr(importlib.import_module(module), name), f"flwr no longer has {module}.{name}"


def test_the_node_asks_for_no_bundle() -> None:
    assert "GetFab" not in {node.attr for node in ast.walk(tree_of("worker")) if isinstance(node, ast.Attribute)}
    assert not {"install_from_fab", "zipfile", "importlib"} & set(
        (ROOT / "client" / "node" / "worker.py").read_text().split()
    )


def tree_of(module: str) -> ast.Module:
    return ast.parse((ROOT / "client" / "node" / f"{module}.py").read_text())


def test_kinds_are_those_that_have_a_handler() -> None:
    from client.node.handlers import HANDLERS

    assert set(Request) == set(HANDLERS)


def test_a_torn_parcel_is_noticed() -> None:
    parcel = Parcel(b"\x0a\x00", b"tree", (b"one", b""))  # a header that says nothing
    assert Parcel.of(parcel.to_bytes()) == parcel
    for end in (0, 5, 20, len(parcel.to_bytes()) - 9):
        with pytest.raises(ValueError, match="torn"):
            Parcel.of(parcel.to_bytes()[:end])


@pytest.mark.parametrize(
    "reply",
    [
        Layout("amc", 7, "0" * 64),
        Contribution("amc", 3, 1, np.array([-(2**62), 0, 2**62], dtype=np.int64), {"reward": 2.5}),
        Evaluation("amc", 3, None),
        Refusal("amc", 832),
    ],
)
def test_a_reply_survives_the_pipe(reply: Reply) -> None:
    again = read_reply_frame(reply_frame(reply))
    assert type(again) is type(reply)
    for name, value in vars(reply).items():
        assert np.array_equal(getattr(again, name), value)


def test_equal_tasks_are_equal_bytes_and_a_torn_frame_is_refused(small_model: Path) -> None:
    task = Task(small_config(small_model), 1, 0, np.zeros(9, dtype=np.float32), "ab" * 32, "{}")
    frame = task_frame(task)
    again = read_task_frame(frame)
    assert (again.roster_sha256, again.roster) == (task.roster_sha256, task.roster)
    assert task_frame(again) == frame
    with pytest.raises(FedReasonError) as refusal:
        read_task_frame(frame[:-5])
    assert refusal.value.code is Code.RUN_REPLY


def test_an_answer_is_remembered_for_its_task_alone(small_model: Path, tmp_path: Path) -> None:
    inbox = Inbox(tmp_path / "inbox")
    task = Task(small_config(small_model), 1, 0, np.zeros(3, dtype=np.float32))
    reply = Contribution("amc", 1, 0, np.arange(3), None)
    assert inbox.remembered("train", task) is None
    inbox.remember("train", task, reply)
    kept = Inbox(tmp_path / "inbox").remembered("train", task)
    assert isinstance(kept, Contribution) and np.array_equal(kept.total, reply.total)
    assert inbox.remembered("evaluate", task) is None
    assert inbox.remembered("train", Task(task.config, 1, 0, np.ones(3, dtype=np.float32))) is None


def test_the_message_in_hand_outlives_the_process(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path / "inbox")
    assert inbox.kept() is None
    inbox.keep(b"message")
    assert Inbox(tmp_path / "inbox").kept() == b"message"
    assert (tmp_path / "inbox" / "message").stat().st_mode & 0o777 == 0o600
    inbox.keep_upload(b"answer")
    assert Inbox(tmp_path / "inbox").kept_upload() == b"answer"
    inbox.clear()
    assert inbox.kept() is None and inbox.kept_upload() is None


STAGES: list[Stage] = []


@pytest.fixture
def resident(small_model: Path, tmp_path: Path) -> Iterator[Resident]:
    folder = next(iter(prepare(small_config(small_model), synthetic.codebook(), tmp_path).values()))
    resident = Resident(folder, STAGES.append)
    STAGES.clear()
    yield resident
    resident.stop()


def layout(resident: Resident, model: Path) -> Reply | None:
    while not resident.ready(1.0):
        pass
    resident.give("query", Task(small_config(model), 0, 0, None))
    while (reply := resident.take(1.0)) is None:
        pass
    return reply


@pytest.mark.federation
def test_the_node_hears_what_its_resident_process_does(resident: Resident, small_model: Path) -> None:
    resident.start()
    assert layout(resident, small_model) is not None
    assert STAGES == [Stage.LOADING]


@pytest.mark.federation
def test_the_resident_process_answers_and_after_a_kill_a_fresh_one_answers_alike(
    resident: Resident, small_model: Path
) -> None:
    resident.start()
    first = layout(resident, small_model)
    assert isinstance(first, Layout) and first.size > 0
    assert layout(resident, small_model) == first
    assert resident.starts == 1 and resident.pid is not None
    os.kill(resident.pid, signal.SIGKILL)
    with pytest.raises(Died):
        layout(resident, small_model)
    resident.start()
    assert layout(resident, small_model) == first
    assert resident.starts == 2


@pytest.mark.federation
def test_a_stopped_resident_process_leaves_nothing(resident: Resident) -> None:
    resident.start()
    number = resident.pid
    assert number is not None
    resident.stop()
    assert not Path(f"/proc/{number}").exists()
    assert resident.pid is None


@pytest.mark.federation
def test_a_registry_at_fault_is_told_within_seconds(resident: Resident, small_model: Path) -> None:
    (resident.folder / "registry.csv").write_text("patient_id\n")
    resident.start()
    with pytest.raises(FedReasonError) as refusal:
        layout(resident, small_model)
    assert 300 < refusal.value.code < 400
