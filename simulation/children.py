"""Child processes that report in JSON lines and never outlive their parent."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from common.processes import die_with_parent


class Children:
    """Some Python programs side by side; leaving the block ends those that still run."""

    def __init__(self, commands: Sequence[Sequence[str]]) -> None:
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._running: list[subprocess.Popen[str]] = []
        for command in commands:
            process = subprocess.Popen(
                [sys.executable, *command],
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
                preexec_fn=die_with_parent,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )
            self._running.append(process)
            threading.Thread(target=self._read, args=(process,), daemon=True).start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict):
                    self._events.put(event)
        self._events.put({"ended": process.wait()})

    def __enter__(self) -> Children:
        """Start reading."""
        return self

    def __exit__(self, *_: object) -> None:
        """End what still runs, with everything it started."""
        for process in self._running:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        for process in self._running:
            process.wait()

    def events(self) -> Iterator[dict[str, Any]]:
        """Events until every child has ended; `{"ended": status}` is the last of each."""
        left = len(self._running)
        while left:
            event = self._events.get()
            left -= "ended" in event
            yield event


def emit(**event: object) -> None:
    """Report one event to the parent."""
    print(json.dumps(event), flush=True)
