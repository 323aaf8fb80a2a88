"""`python -m server up`: starts the SuperLink and the superexec, keeps them running, and stops them together.

A service that dies is started again, a little later each time; one that keeps dying ends the coordinator with its last
words. Meanwhile the SuperLink is told who is on the roster, and runs whose ServerApp vanished go on.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from common.errors import Code, FedReasonError
from common.identity.keys import private_folder, write_private
from common.processes import held, mark_of
from server.amounts import size_text
from server.provisioning.certificates import require_valid_certificates
from server.provisioning.deploy import proxy_command, render
from server.provisioning.federation import Federation
from server.services import flower
from server.services.chores import Chores, Tell
from server.services.supervision import Service, database, prepare, superexec_command, superlink_command

_START_SECONDS = 60.0
_STOP_SECONDS = 60.0
_POLL_SECONDS = 0.2
_CHORE_SECONDS = 2.0
_COMPACT_BYTES = 64_000_000


def up(federation: Federation, tell: Tell, revive: Callable[[], None]) -> None:
    """Run the coordinator until it is told to stop, by Ctrl-C, SIGTERM or `stop`.

    Parameters
    ----------
    federation
        The federation, opened.
    tell
        Takes one line for each change.
    revive
        Looks after runs whose ServerApp vanished; called every few seconds.

    Raises
    ------
    FedReasonError
        CERTIFICATE_EXPIRED, KEY_MISSING, KEY_PERMISSIONS, PORT_IN_USE; SERVICE_FAILED where a coordinator runs already,
        or a service cannot run.
    """
    require_valid_certificates(federation)
    with _alone(federation):
        _require_free_port(federation)
        prepare(federation)
        render(federation)
        compact(database(federation), tell)
        _Coordinator(federation, tell, revive).run()


class _Coordinator:
    """The services of one federation, and what has to be done beside them."""

    def __init__(self, federation: Federation, tell: Tell, revive: Callable[[], None]) -> None:
        environment = flower.environment(federation)
        self._federation, self._tell, self._revive = federation, tell, revive
        self._superlink = Service(
            "The SuperLink", superlink_command(federation), environment, federation.superlink / "superlink.log"
        )
        self._superexec = Service(
            "The superexec", superexec_command(federation), environment, federation.superlink / "superexec.log"
        )
        self._starts: dict[Service, float] = {}
        self._ready = False
        self._stopping = False
        self._over = threading.Event()

    def run(self) -> None:
        """Start everything, watch it, and stop everything."""
        chores = threading.Thread(target=self._do_chores, daemon=True)
        with self._signals():
            try:
                self._start()
                if not self._stopping:
                    chores.start()
                while not self._stopping:
                    for service in (self._superlink, self._superexec):
                        self._keep(service)
                    time.sleep(_POLL_SECONDS)
                self._tell("Stopping.")
            finally:
                self._over.set()
                self._superexec.stop()
                self._superlink.stop()
        self._tell("Stopped.")

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Take the signals that ask for an end, but for those that were ignored before."""

        def ask(*_: object) -> None:
            self._stopping = True

        old = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        taken = {one: handler for one, handler in old.items() if handler != signal.SIG_IGN}
        for one in taken:
            signal.signal(one, ask)
        try:
            yield
        finally:
            for one, handler in taken.items():
                signal.signal(one, handler)

    def _start(self) -> None:
        """Start the SuperLink, wait until it answers, and start the superexec.

        Raises
        ------
        FedReasonError
            SERVICE_FAILED where the SuperLink ends or does not answer.
        """
        self._superlink.start(self._federation.folder)
        until = time.monotonic() + _START_SECONDS
        while not flower.superlink_answers(self._federation):
            if not self._superlink.alive:
                raise self._superlink.failure("cannot start")
            if time.monotonic() > until:
                raise self._superlink.failure(f"does not answer after {_START_SECONDS:.0f} s")
            if self._stopping:
                return
            time.sleep(_POLL_SECONDS)
        self._superexec.start(self._federation.folder)
        self._tell(f"The SuperLink answers on {flower.LOOPBACK}:{self._federation.config.superlink_port}.")
        self._tell(f"Hospitals need nginx in front of it: {shlex.join(proxy_command(self._federation))}")

    def _keep(self, service: Service) -> None:
        """Start a service again that died, after a pause."""
        if service.alive:
            return
        now = time.monotonic()
        if service not in self._starts:
            pause = service.died(now)
            self._starts[service] = now + pause
            self._tell(f"{service.name} ended ({service.last_words()}); it is started again in {pause:g} s.")
        elif now >= self._starts[service]:
            del self._starts[service]
            service.start(self._federation.folder)

    def _do_chores(self) -> None:
        """Sites and runs are looked after in a thread, so that a dead service never waits for them."""
        chores = Chores(self._federation, self._tell, self._revive)
        while not self._over.wait(_CHORE_SECONDS):
            chores.do()


def running(federation: Federation) -> int | None:
    """Return the process number of this federation's coordinator, None where none runs."""
    process, _ = _told(federation)
    return process


def _told(federation: Federation) -> tuple[int | None, str | None]:
    """Return number and mark of this federation's coordinator, as it wrote them where it runs."""
    if not held(federation.superlink / "up.lock"):
        return None, None
    with suppress(OSError, ValueError, LookupError, TypeError):  # one that starts has yet to write it
        told = json.loads((federation.superlink / "up.json").read_text(encoding="utf-8"))
        return int(told["pid"]), told.get("mark")
    return None, None


def stop(federation: Federation) -> bool:
    """Stop the coordinator and wait for its end; whether there was one.

    Raises
    ------
    FedReasonError
        SERVICE_FAILED where it does not end, or is none of this machine's processes: their numbers are others'.
    """
    process, mark = _told(federation)
    if process is None:
        return False
    if mark is None or mark_of(process) != mark:
        raise FedReasonError(
            Code.SERVICE_FAILED,
            f"The coordinator of {federation.name} runs in a container, on another machine or in an earlier version: "
            f"process {process} of this machine is not known to be it.",
            "Nothing was stopped. Stop it where it was started: a container by `docker compose stop`, or, once "
            f"`ps -p {process}` shows that it is the coordinator, one of an earlier version by `kill {process}`.",
        )
    try:
        os.kill(process, signal.SIGTERM)
    except ProcessLookupError:
        return True
    except PermissionError:
        raise FedReasonError(
            Code.SERVICE_FAILED,
            f"The coordinator (process {process}) is another user's and cannot be stopped by this one.",
            "Stop it as the user who started it.",
        ) from None
    until = time.monotonic() + _STOP_SECONDS
    while running(federation) == process:
        if time.monotonic() > until:
            raise FedReasonError(
                Code.SERVICE_FAILED,
                f"The coordinator (process {process}) does not end.",
                f"Say: kill -9 {process}. Its services end with it, and runs go on from their last round.",
            )
        time.sleep(_POLL_SECONDS)
    return True


@contextmanager
def _alone(federation: Federation) -> Iterator[None]:
    """Be the only coordinator of this federation."""
    private_folder(federation.superlink)
    try:
        with FileLock(federation.superlink / "up.lock", timeout=1, mode=0o600):
            started = datetime.now(UTC).isoformat(timespec="seconds")
            content = json.dumps({"pid": os.getpid(), "mark": mark_of(os.getpid()), "since": started})
            write_private(federation.superlink / "up.json", content.encode())
            yield
    except Timeout:
        raise FedReasonError(
            Code.SERVICE_FAILED,
            f"The coordinator of {federation.name} runs already (process {running(federation)}).",
            "See `python -m server status`; `python -m server stop` ends it.",
        ) from None


def _require_free_port(federation: Federation) -> None:
    port = federation.config.superlink_port
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((flower.LOOPBACK, port))
        except OSError as error:
            raise FedReasonError(
                Code.PORT_IN_USE,
                f"Port {port} on {flower.LOOPBACK} cannot be had ({error.strerror}).",
                f"`ss -ltnp 'sport = :{port}'` shows who has it; or set another superlink_port in federation.toml and "
                "start nginx again with the new deploy/nginx.conf.",
            ) from None


def compact(path: Path, tell: Tell) -> None:
    """Give back what deleted rows hold of a large database, while nobody uses it.

    Raises
    ------
    FedReasonError
        SERVICE_FAILED where the file is no database.
    """
    files = [path, path.with_name(path.name + "-wal")]
    before = sum(file.stat().st_size for file in files if file.exists())
    if not before:
        return
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA schema_version")
            if before > _COMPACT_BYTES:
                connection.execute("VACUUM")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                tell(f"{path.name} compacted: {size_text(before)} before, {size_text(path.stat().st_size)} now.")
    except sqlite3.OperationalError as error:
        tell(f"{path} could not be compacted ({error}); it has {size_text(before)}.")
    except sqlite3.DatabaseError as error:
        raise FedReasonError(
            Code.SERVICE_FAILED,
            f"{path} cannot be read ({error}).",
            "Move it away: every site is registered anew, and runs go on from their last round.",
        ) from None
