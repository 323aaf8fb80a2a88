"""The coordinator's services, Flower's SuperLink and superexec: how each is started, watched and ended.

Each runs in a session of its own, so that Ctrl-C reaches the coordinator alone, and ends with it however that ends.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shlex
import signal
import subprocess
import threading
import time
from collections import deque
from pathlib import Path

from common.errors import Code, FedReasonError
from common.identity.keys import write_private
from common.logs import QuietFile
from common.processes import die_with_parent
from server.provisioning.federation import Federation
from server.services import flower

SUPERLINK, SUPEREXEC = "flower-superlink", "flower-superexec"
_STOP_SECONDS = 10.0
_DEATHS, _WITHIN_SECONDS = 5, 60.0
_LOG_BYTES, _LOG_FILES = 5_000_000, 3
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_ROUTINE = re.compile(r"\[uvicorn\.access\] .* [23]\d\d$")
"""A request that went well: sites and `flwr` ask every few seconds."""
_TELLING = (re.compile(r"^[\w.]*(Error|Exception): "), re.compile(r"\b(error|exit code|failed)\b", re.IGNORECASE))
"""Lines that say why a program ended: the end of a traceback, else whatever names an error."""


def superlink_command(federation: Federation) -> list[str]:
    """Command line of the SuperLink, as one would type it."""
    return [
        flower.executable(SUPERLINK),
        *("--ssl-ca-certfile", str(federation.ca_certificate)),
        *("--ssl-certfile", str(federation.server_certificate)),
        *("--ssl-keyfile", str(federation.server_key)),
        "--enable-supernode-auth",
        *("--host", flower.LOOPBACK, "--port", str(federation.config.superlink_port)),
        *("--database", str(database(federation))),
        *("--isolation", "process", "--superexec-auth-secret-file", str(_secret(federation))),
        "--disable-runtime-dependency-installation",
    ]


def superexec_command(federation: Federation) -> list[str]:
    """Command line of the superexec, which starts the ServerApp of each run."""
    return [
        flower.executable(SUPEREXEC),
        *("--runtime-api-address", f"{flower.LOOPBACK}:{federation.config.superlink_port}"),
        *("--root-certificates", str(federation.ca_certificate)),
        *("--superexec-auth-secret-file", str(_secret(federation))),
    ]


def plain_commands(federation: Federation) -> list[str]:
    """Both command lines and their environment, for a shell or an init system."""
    exports = [f"export {name}={shlex.quote(value)}" for name, value in flower.settings(federation).items()]
    return [*exports, shlex.join(superlink_command(federation)), shlex.join(superexec_command(federation))]


def database(federation: Federation) -> Path:
    """File of the SuperLink's own state."""
    return federation.superlink / "state.db"


def _secret(federation: Federation) -> Path:
    return federation.superlink / "secret.bin"


def prepare(federation: Federation) -> None:
    """Write what the services need: Flower's configuration, and the secret between SuperLink and superexec."""
    flower.prepare(federation)
    if not _secret(federation).exists():
        write_private(_secret(federation), secrets.token_bytes(32))


class Service:
    """One program that is kept running, its output in a log of limited size.

    Parameters
    ----------
    name
        What it is called.
    command
        Its command line.
    environment
        Its environment.
    log
        File for what it prints, requests that went well left out: 20 MB at most, with the older ones beside it.
    """

    def __init__(self, name: str, command: list[str], environment: dict[str, str], log: Path) -> None:
        self.name = name
        self.process: subprocess.Popen[str] | None = None
        self._command, self._environment = command, environment
        self._log = QuietFile(log, maxBytes=_LOG_BYTES, backupCount=_LOG_FILES, delay=True)
        self._log.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        self._lines: deque[str] = deque(maxlen=50)
        self._deaths: deque[float] = deque(maxlen=_DEATHS)
        self._not_before = 0.0

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None

    def start(self, folder: Path) -> None:
        """Start it. Only the main thread may: the program would end with the thread that started it."""
        self.process = subprocess.Popen(
            self._command,
            cwd=folder,
            env=self._environment | {"PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            umask=0o077,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        threading.Thread(target=self._read, args=(self.process,), daemon=True).start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            text = _COLOUR.sub("", line).rstrip()
            if not text or _ROUTINE.search(text):
                continue
            self._lines.append(text)
            self._log.emit(logging.LogRecord(self.name, logging.INFO, "", 0, text, (), None))

    def died(self, now: float) -> float:
        """Note a death and return how many seconds to wait before the next start.

        Raises
        ------
        FedReasonError
            SERVICE_FAILED where it has died too often of late.
        """
        self._deaths.append(now)
        of_late = [moment for moment in self._deaths if now - moment < _WITHIN_SECONDS]
        if len(of_late) == _DEATHS:
            raise self.failure(f"died {_DEATHS} times within a minute")
        return 0.5 * 2.0 ** (len(of_late) - 1)

    def failure(self, how: str) -> FedReasonError:
        """Return the refusal that tells its last words."""
        return FedReasonError(
            Code.SERVICE_FAILED,
            f"{self.name} {how}: {self.last_words()}.",
            "Mend that, then start the coordinator again; runs go on from their last round.",
        )

    def last_words(self) -> str:
        """Return the last line that names an error, else the last line."""
        status = self.process.poll() if self.process else None
        if status is not None and status < 0:
            return f"killed by {signal.Signals(-status).name}"
        lines = [line.strip() for line in self._lines]
        for telling in _TELLING:
            if found := [line for line in lines if telling.search(line)]:
                return found[-1].rstrip(".")
        return lines[-1].rstrip(".") if lines else "it said nothing"

    def stop(self) -> None:
        """End it and everything it started: kindly first."""
        if self.process is None:
            return
        group = self.process.pid
        if self.alive:
            self.process.terminate()
        until = time.monotonic() + _STOP_SECONDS
        while time.monotonic() < until and (self.alive or _group_lives(group)):
            time.sleep(0.05)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
        self.process.wait()


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def services_up(federation: Federation) -> dict[str, bool]:
    """Whether the SuperLink answers and a superexec of this federation runs, whoever started them."""
    return {SUPERLINK: flower.superlink_answers(federation), SUPEREXEC: bool(_superexecs(federation))}


def require_services(federation: Federation) -> None:
    """Refuse to go on without both services."""
    flower.require_superlink(federation)
    if not _superexecs(federation):
        raise FedReasonError(
            Code.COORDINATOR_DOWN,
            f"The SuperLink of {federation.name} answers, but no {SUPEREXEC} runs.",
            "Start the coordinator: python -m server up",
        )


def serverapps(federation: Federation) -> set[int]:
    """Find the processes that the superexecs of this federation started for runs."""
    superexecs, found = {str(number) for number in _superexecs(federation)}, set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            state, parent = (process / "stat").read_text().rpartition(")")[2].split()[:2]
            if parent in superexecs and state != "Z":
                found.add(int(process.name))
    return found


def _superexecs(federation: Federation) -> list[int]:
    """Find the superexecs that hold this federation's secret, among the processes of this machine."""
    found, secret = [], str(_secret(federation)).encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if secret in words and any(Path(os.fsdecode(word)).name == SUPEREXEC for word in words[:2]):
                found.append(int(process.name))
    return found
