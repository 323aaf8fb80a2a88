"""The node of a site: receives messages, has them answered (`client.node.computing`), sends the answers.

It holds no record and no model. It goes on for ever: when the coordinator is away it tries again, and after a crash of
its own it goes on with the message it had in hand.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from client.node.computing import Computing, Stopped
from client.node.inbox import Inbox
from client.node.outbox import Outbox
from client.node.preflight import look_at_coordinator, preflight
from client.node.reach import Reach
from client.node.route import read_address, use_proxy
from client.node.running import Running
from client.node.status import Status
from client.node.ticks import Ticks
from client.node.told import number_of
from client.node.worker import Fleet, Lost, Parcel, RunEnded, kept_number, reply_parcel
from client.policy.change import keep
from client.policy.policy import read_policy
from client.site.config import SiteConfig
from client.site.stage import Stage
from client.training.states import Silent
from common.cli import disk_full, is_disk_full
from common.errors import Code, FedReasonError
from common.identity.keys import load_node_key, private_folder, write_private
from common.logs import logger, place_of
from common.messages.kinds import Refusal, Reply, Step
from common.messages.records import read_reply, read_task, reply_record

_log = logger("site")

ACTIVE_POLL = 0.3
IDLE_POLL = 2.0
_POLL_SHARE = 0.1
"""Seconds between two questions for messages, right after one and long after; between, this share of the time since."""

_LONGEST_WAIT = 60.0
_ADMITTED_SECONDS, _KNOWN_SECONDS = 300.0, 60.0
_LONGEST_LOOK = 10.0
"""For how long a site that the SuperLink does not know waits to be registered, at first and later; how often it looks.

`python -m server up` registers who is on the roster when it starts, and anew where it lost its state.
"""


class Node:
    """One site, connected."""

    def __init__(self, folder: Path, config: SiteConfig, stop: threading.Event, status: Status) -> None:
        assert config.coordinator is not None
        self._folder, self._config, self._stop, self._status = folder, config, stop, status
        state = folder / "state"
        self._number = state / "node.json"
        self._inbox = Inbox(state / "inbox")
        self._reach = Reach(lambda: look_at_coordinator(folder, config))
        self._outbox = Outbox(state / "outbox", config.keep_contents)
        use_proxy(config.proxy)
        address = str(read_address(config.coordinator))
        self._fleet = Fleet(address, folder / "ca.crt", load_node_key(folder / "keys" / "node"))
        self._running = Running(self._fleet.require_running, status.contact)
        self._computing = Computing(folder, config, status, self._inbox, self._go_on, self._running.require)
        self._ticks = Ticks(stop, status, self._running, self._computing)
        self._in_hand: Parcel | None = None
        self._active = self._taken = 0.0
        self._patience = _KNOWN_SECONDS if self._number.exists() else _ADMITTED_SECONDS
        self._unknown_since: float | None = None

    def run(self) -> None:
        """Serve until told to stop.

        Raises
        ------
        FedReasonError
            Where the registry is at fault or the coordinator refuses this site.
        """
        try:
            with contextlib.suppress(Stopped):
                self._status.announce("starting", "opening the registry")
                if self._computing.held() is None:
                    self._computing.start()
                self._serve()
        finally:
            self._computing.stop()
            self._fleet.close()

    def _serve(self) -> None:
        waits = _waits()
        connected = False
        while True:
            self._go_on()
            try:
                if not connected:
                    self._computing.end_begun()
                    number = self._connect()
                    self._computing.open_registry()
                    self._status.announce("connected", f"to {self._config.coordinator} as node {number}")
                    connected, self._unknown_since = True, None
                parcel = self._next()
                waits = _waits()
                if parcel is not None:
                    self._handle(parcel)
                    self._put_away()
                    self._active = time.monotonic()
            except Lost as lost:
                seconds = next(waits)
                self._say_lost("no answer", lost, seconds)
                self._rest(seconds)
            except RunEnded:
                self._status.announce("connected", "the run was ended; its message is dropped")
                self._put_away()
            except OSError as error:
                if not is_disk_full(error):
                    raise
                self._wait_for_space(disk_full(error), next(waits))
            except FedReasonError as error:
                if error.code is Code.KEY_UNKNOWN:
                    connected = False
                    self._wait_for_registration(error, next(waits))
                elif error.code is Code.DISK_FULL:
                    self._wait_for_space(error, next(waits))
                else:
                    raise

    def _say_lost(self, what: str, lost: Lost, seconds: float) -> None:
        """Say that nobody answers; after a while also what is there in place of the coordinator."""
        why = self._reach.why(seconds)
        text = f"{what} ({lost}); again in {seconds:.0f} s" + (f". {why}" if why else "")
        self._status.announce("reconnecting", text, code=int(why.code) if why else None)

    def _wait_for_space(self, error: FedReasonError, seconds: float) -> None:
        """Keep the message in hand, and try again later: nothing leaves that could not be written down."""
        self._status.announce("reconnecting", f"{error} Again in {seconds:.0f} s", code=int(error.code))
        self._stop.wait(seconds)

    def _wait_for_registration(self, error: FedReasonError, seconds: float) -> None:
        """Wait a little where the roster accepted here lists this site and the SuperLink does not know it yet.

        Raises
        ------
        FedReasonError
            `error` once the site has waited for long enough.
        """
        self._unknown_since = self._unknown_since or time.monotonic()
        left = self._unknown_since + self._patience - time.monotonic()
        if left <= 0:
            raise error
        self._status.contact()
        self._computing.open_registry()
        seconds = min(seconds, _LONGEST_LOOK, left)
        text = "the coordinator does not know this site's key: not registered yet (python -m server up) or revoked"
        text += f"; again in {seconds:.0f} s, E{error.code.value} after {left:.0f} s"
        self._status.announce("reconnecting", text, code=int(error.code))
        self._stop.wait(seconds)

    def _put_away(self) -> None:
        self._in_hand = None
        self._inbox.clear()

    def _connect(self) -> int:
        number = self._fleet.connect(kept_number(self._number), afresh=self._inbox.kept() is None)
        write_private(self._number, str(number).encode())
        self._patience = _KNOWN_SECONDS
        return number

    def _next(self) -> Parcel | None:
        """Return the message in hand or the next one; None after a wait where there is none."""
        if self._in_hand is not None:
            return self._in_hand
        self._taken = time.monotonic()
        if (kept := self._inbox.kept()) is not None:
            with contextlib.suppress(ValueError):
                self._in_hand = Parcel.of(kept)
                _log.info("going on with the message that was in hand")
                return self._in_hand
        parcel = self._fleet.receive()
        self._status.contact()
        self._reach.answered()
        held = self._computing.held()
        if held is not None:
            self._computing.stop()
        state = "connected" if held is None else "paused"
        if self._status.state != state:
            self._status.announce(state, "ready" if held is None else str(held))
        if parcel is None:
            since = time.monotonic() - self._active
            self._stop.wait(min(max(ACTIVE_POLL, _POLL_SHARE * since), IDLE_POLL))
            return None
        self._in_hand, self._taken = parcel, time.monotonic()
        self._inbox.keep(parcel.to_bytes())
        self._fleet.confirm(parcel)
        return parcel

    def _handle(self, parcel: Parcel) -> None:
        """Answer a message. Told to stop, the site refuses it, so that the round need not wait."""
        try:
            message = parcel.message
            kind, content = message.metadata.message_type, message.content
        except Exception as error:
            _log.error("a message of run %d cannot be read and is dropped: %s", parcel.run, place_of(error))
            return
        number, run, stopped, answer = 0, "", False, None
        with self._running.watched(parcel.run):
            try:
                task = read_task(content)
                number, run = task.round, task.config.name
                every = task.config.privacy.answer_every if task.config.privacy else 0.0
                if (begun := self._begun()) is not None:
                    answer, reply = begun
                else:
                    compute = partial(self._computing.answer, kind, task)
                    reply = self._ticks.held(self._taken, every, compute)
            except Silent:
                self._status.announce("connected", f"run {run}, round {number}: nothing may leave for this attempt")
                return
            except FedReasonError as error:
                _log.error("%s", error)
                reply = Refusal(self._config.name, number_of(error))
            except Stopped as stop:
                if stop.silent:
                    self._put_away()
                    raise
                reply, stopped = Refusal(self._config.name, int(Code.SITE_PAUSED)), True
        if answer is None:
            answer = reply_parcel(message, reply_record(reply))
        code = reply.code if isinstance(reply, Refusal) else None
        what = str(reply.message.get("kind")) if isinstance(reply, Step) else type(reply).__name__.lower()
        entry = self._outbox.record(what, run, number, answer.to_bytes(), code)
        self._status.stage(Stage.SENDING)
        self._send(answer, give_up=stopped)
        self._status.stage(Stage.WAITING)
        self._outbox.sent(entry)
        self._status.sent(self._outbox.messages, self._outbox.bytes)
        what = f"run {run}, round {number}: {entry.kind} sent" + (f" (E{code})" if code else "")
        self._status.answered(code)
        self._status.announce("connected", what, run=run, round=number, code=code)
        if stopped:
            self._put_away()
            raise Stopped

    def _begun(self) -> tuple[Parcel, Reply] | None:
        """Return the answer to the message in hand where this site died while sending it: its time had come.

        One that is damaged is none: what the message asks for is answered as if nothing had been sent, which is
        silence where it was charged for.
        """
        kept = self._inbox.kept_upload()
        if kept is None:
            return None
        try:
            answer = Parcel.of(kept)
            return answer, read_reply(answer.message.content)
        except Exception as error:  # whatever damaged bytes make Flower raise
            _log.error("the answer that was being sent cannot be read and is dropped: %s", place_of(error))
            return None

    def _send(self, parcel: Parcel, *, give_up: bool) -> None:
        waits = _waits()
        self._inbox.keep_upload(parcel.to_bytes())
        while True:
            try:
                self._fleet.send(parcel)
                self._status.contact()
                return
            except Lost as lost:
                if give_up:
                    raise Stopped from None
                seconds = next(waits)
                self._say_lost("an answer is ready and cannot be sent", lost, seconds)
                self._rest(seconds)
                self._go_on()

    def _rest(self, seconds: float) -> None:
        """Wait so long, or until a heartbeat was answered: then the coordinator is back, and takes this site for it."""
        end, before = time.monotonic() + seconds, self._fleet.contact
        while self._fleet.contact == before and (left := end - time.monotonic()) > 0:
            if self._stop.wait(min(left, 1.0)):
                return

    def _go_on(self) -> None:
        if self._stop.is_set():
            raise Stopped


def serve(folder: Path, config: SiteConfig, stop: threading.Event) -> None:
    """Check everything, then run the node of a site until told to stop.

    Raises
    ------
    FedReasonError
        Where a check fails, the same site runs already on this machine, or the coordinator refuses it.
    """
    private_folder(folder / "state")
    lock = FileLock(folder / "state" / "lock")
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        raise FedReasonError(
            Code.SITE_RUNNING,
            f"{config.name} runs already on this machine.",
            "Stop it first; `python -m client status` says which process it is.",
        ) from None
    with held:
        status = Status(folder)
        try:
            check(folder, config)
            keep(folder, read_policy(folder))
            Node(folder, config, stop, status).run()
            status.tell("stopped", "")
        except FedReasonError as error:
            status.tell("refused", str(error), code=int(error.code))
            raise


def check(folder: Path, config: SiteConfig) -> None:
    """Check all that can be checked before; a site that was once connected waits for a coordinator that is away."""
    try:
        preflight(folder, config)
    except FedReasonError as error:
        if error.code is not Code.SERVER_UNREACHABLE or not (folder / "state" / "node.json").exists():
            raise
        _log.warning("%s", error)


def _waits() -> Iterator[float]:
    """Yield seconds to wait: doubled each time, up to a minute."""
    seconds = 1.0
    while True:
        yield seconds
        seconds = min(2 * seconds, _LONGEST_WAIT)
