"""The resident process of a site: holds registry and model, and answers what the node hands it over a pipe.

It runs installed code only, loads the model once, has no connection to anywhere, and ends with the node. Killing it is
how a computation is stopped: the node starts a fresh one when it next needs it. It ends by itself where what it
computes with has failed and is found broken.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from client.node.log import log_to_file
from client.site.opened import open_registry
from client.site.stage import Stage, begin, stages_told
from client.training.states import Silent
from common.cli import unexpected
from common.errors import Code, FedReasonError
from common.logs import logger, quiet_libraries
from common.messages.frames import read_reply_frame, read_task_frame, reply_frame, task_frame
from common.messages.kinds import Refusal, Reply, Task
from common.processes import die_with_parent, loading

_log = logger("site")
_STAGE = b"stage "
"""What begins so on the pipe is a stage; an answer never does."""

_NOTHING = b""
"""What comes over the pipe where nothing may leave."""


class Died(Exception):
    """The resident process ended while it worked."""


class Resident:
    """The node's handle on the resident process.

    Parameters
    ----------
    folder
        The site.
    staged
        Takes what the process says that it does.
    """

    def __init__(self, folder: Path, staged: Callable[[Stage], None] = lambda _: None) -> None:
        self.folder = folder
        self._staged = staged
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._ready = False
        self.starts = 0

    @property
    def pid(self) -> int | None:
        """Number of the process, None where none runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        """Start the process, where none runs."""
        if self.pid is not None:
            return
        self.stop()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "client.node.resident", str(self.folder), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
            self._pipe = Connection(os.dup(ours.fileno()))
        self._ready = False
        self.starts += 1

    def ready(self, seconds: float) -> bool:
        """Whether the registry is loaded, waiting up to `seconds`.

        Raises
        ------
        FedReasonError
            Where the registry, the codebook or site.toml is at fault.
        Died
            Where the process ended.
        """
        if not self._ready and (answer := self._receive(seconds)) is not None:
            problem = json.loads(answer)
            if problem:
                self.stop()
                raise FedReasonError(Code(problem["code"]), problem["found"], problem["fix"])
            self._ready = True
        return self._ready

    def give(self, kind: str, task: Task) -> None:
        """Hand over a task of a ready process."""
        assert self._pipe is not None
        try:
            self._pipe.send_bytes(kind.encode())
            self._pipe.send_bytes(task_frame(task))
        except OSError:
            self.stop()
            raise Died from None

    def take(self, seconds: float) -> Reply | None:
        """Return the reply, None where there is none within `seconds`.

        Raises
        ------
        Died
            Where the process ended.
        Silent
            Where nothing may leave.
        """
        answer = self._receive(seconds)
        if answer == _NOTHING:
            raise Silent
        return None if answer is None else read_reply_frame(answer)

    def stop(self) -> None:
        """End the process at once, and free the GPU."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    def _receive(self, seconds: float) -> bytes | None:
        assert self._pipe is not None
        until = time.monotonic() + seconds
        try:
            while self._pipe.poll(max(0.0, until - time.monotonic())):
                answer = self._pipe.recv_bytes()
                if not answer.startswith(_STAGE):
                    return answer
                self._staged(Stage(answer.removeprefix(_STAGE).decode()))
            return None
        except (EOFError, OSError):
            self.stop()
            raise Died from None


def main(folder: Path, descriptor: int) -> None:
    """Open the site, say so, then answer until the node is gone."""
    for number in (signal.SIGINT, signal.SIGHUP):  # a terminal sends them to all: the node decides
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        log_to_file(folder, "resident.log")
    with Connection(descriptor) as pipe, stages_told(lambda stage: pipe.send_bytes(_STAGE + stage.encode())):
        problem = _open(folder)
        pipe.send_bytes(json.dumps(problem).encode())
        if not problem:
            try:
                while True:
                    _serve(folder, pipe)
            except (EOFError, OSError):
                return
            except Exception as error:
                _log.error("%s", unexpected(error))
                sys.exit(1)


def _open(folder: Path) -> dict[str, object]:
    try:
        opened = open_registry(folder)
        quiet_libraries()
        with loading():
            from client.node.handlers import resident_site

        _ = resident_site(folder, opened).patients  # refuses where who opted out is not known
    except Exception as error:
        told = error if isinstance(error, FedReasonError) else unexpected(error)
        return {"code": int(told.code), "found": told.found, "fix": told.fix}
    return {}


def _serve(folder: Path, pipe: Connection) -> None:
    from client.node.handlers import HANDLERS, answer, works

    kind = pipe.recv_bytes().decode()
    begin()
    task = read_task_frame(pipe.recv_bytes())
    try:
        reply = answer(folder, HANDLERS[kind], task)
        content, failed = reply_frame(reply), isinstance(reply, Refusal) and reply.code == Code.RUN_FAILED
    except Silent:
        content, failed = _NOTHING, True
    pipe.send_bytes(content)
    if failed and not works():
        sys.exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
