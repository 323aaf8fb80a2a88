"""A site's handlers: whatever goes wrong, a number travels and the text of the error does not."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from contextlib import nullcontext
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, RecordDict

from client import app as client_app
from client.node import handlers, resident
from client.training import engine as engines
from client.training.requests import contribute
from client.training.states import Silent
from client.training.workplace import Workplace
from common import synthetic
from common.errors import Code, FedReasonError
from common.messages.frames import task_frame
from common.messages.kinds import Refusal, Reply, Task
from common.messages.records import read_reply, task_record
from simulation.prepare import prepare
from tests.common.messages.records import parts
from tests.small import small_config

SENTINEL = "SENTINEL-4711"


@pytest.fixture
def folder(small_model: Path, tmp_path: Path) -> Path:
    return next(iter(prepare(small_config(small_model), synthetic.codebook(), tmp_path).values()))


def asked(model: Path, folder: Path, handle: Callable[[Workplace, Task], Reply] = contribute) -> RecordDict:
    """Ask the site for a contribution, as Flower does."""
    task = Task(small_config(model), 1, 0, np.zeros(3, dtype=np.float32))
    context = Context(run_id=1, node_id=1, node_config={"site-folder": str(folder)}, state=RecordDict(), run_config={})
    return client_app.answered(task_record(task), context, handle)


def sent(reply: RecordDict) -> bytes:
    return b"".join(part.deflate() for part in parts(reply))


def fail(*_: Any, **__: Any) -> Any:
    raise ValueError(f"could not convert {SENTINEL}")


def test_an_unexpected_error_travels_as_its_number_and_is_logged_without_its_text(
    small_model: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        reply = asked(small_model, folder, fail)
    assert read_reply(reply) == Refusal(folder.name, 506)
    assert SENTINEL.encode() not in sent(reply)
    assert "ValueError at" in caplog.text
    assert SENTINEL not in caplog.text


def test_the_check_above_fails_where_the_error_s_text_is_used(
    small_model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The mutation: the text in place of the place, and as the site of the refusal."""
    monkeypatch.setattr("common.cli.place_of", str)
    monkeypatch.setattr(handlers, "Refusal", lambda name, code: Refusal(f"could not convert {SENTINEL}", code))
    reply = asked(small_model, folder, fail)
    assert SENTINEL.encode() in sent(reply)
    assert SENTINEL in caplog.text


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PermissionError(errno.EACCES, "no", "/models/base"), Code.FILE_FORBIDDEN),
        (OSError(errno.ENOSPC, "no space"), Code.DISK_FULL),
        (RuntimeError("IO Error: No space left on device (os error 28)"), Code.DISK_FULL),
    ],
)
def test_what_somebody_here_can_settle_travels_as_its_own_number(
    small_model: Path, folder: Path, error: Exception, code: Code
) -> None:
    def raised(*_: Any) -> Any:
        raise error

    assert read_reply(asked(small_model, folder, raised)) == Refusal(folder.name, int(code))


def test_a_numbered_refusal_travels_as_its_number(small_model: Path, folder: Path) -> None:
    (folder / "codebook.toml").write_text((folder / "codebook.toml").read_text().replace('title = "', 'title = "x'))
    assert read_reply(asked(small_model, folder)) == Refusal(folder.name, 206)


def test_a_registry_that_vanished_is_the_number_of_any_that_cannot_be_opened(small_model: Path, folder: Path) -> None:
    (folder / "registry.csv").unlink()
    assert read_reply(asked(small_model, folder)) == Refusal(folder.name, 816)


@pytest.mark.parametrize("what", ["client.site.opened.registry_from", "client.training.workplace.without_excluded"])
def test_what_nobody_foresaw_while_records_are_read_is_that_number_too(
    small_model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    monkeypatch.setattr(what, fail)
    reply = asked(small_model, folder)
    assert read_reply(reply) == Refusal(folder.name, 816)
    assert SENTINEL.encode() not in sent(reply)
    assert "ValueError at" in caplog.text and SENTINEL not in caplog.text


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("error", [RuntimeError("CUDA error"), Silent(), FedReasonError(Code.POLICY_REFUSED, "", "")])
def test_a_process_whose_device_is_lost_answers_and_ends(
    small_model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, broken: bool
) -> None:
    """Only where something failed and nothing can be computed any more: what the process holds is lost with it."""

    def fail(*_: Any) -> Any:
        raise error

    def engine_works() -> None:
        if broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(handlers, "HANDLERS", {"train": fail})
    monkeypatch.setattr(engines, "_ENGINES", SimpleNamespace(require_working=engine_works))
    node, process = Pipe()
    node.send_bytes(b"train")
    node.send_bytes(task_frame(Task(small_config(small_model), 1, 0, np.zeros(3, dtype=np.float32))))
    ends = broken and not isinstance(error, FedReasonError)
    with pytest.raises(SystemExit) if ends else nullcontext():
        resident._serve(folder, process)
    assert node.poll(), "the answer went first"
