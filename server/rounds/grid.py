"""The exchange over Flower's Grid: who is asked when, and when a round stops waiting.

Replies are pulled one at a time, so that memory does not grow with the sites. A site that is away is not asked for its
answer either: Flower would throw away the message and with it the work of a site that has only lost the network.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from common.config import RunConfig
from common.errors import TRANSIENT, Code, FedReasonError
from common.identity.roster import Roster
from common.logs import logger
from common.messages.kinds import Layout, Refusal, Reply, Request, Task
from common.messages.records import task_record
from common.model.making import making_text
from server.provisioning.federation import Federation
from server.rounds.asking import Asked
from server.rounds.attendance import Attendance, Presence
from server.rounds.contents import for_each, one_for_all, salting
from server.rounds.refusals import told
from server.rounds.sending import Answers, drain, read, send
from server.rounds.standing import ExchangeName, StandingFile, State
from server.rounds.steady import steady

_log = logger("server")
_POLL_SECONDS = 0.4
_LONGEST_POLL = 1.0
_POLL_SHARE = 0.1
"""Of the time that an exchange has taken, so long until the next look at it, between these two."""
_BACK_SECONDS = 60.0  # in which the heartbeats of a site that is there reach a coordinator that is back
_PATIENCE_SECONDS = 30.0
_PROGRAM_FAILED = frozenset({1, 2, 6, 7})
"""Flower's numbers for a ClientApp that cannot be loaded or raised: asking again would not help."""

_NAMES: dict[str, ExchangeName] = {
    Request.LAYOUT: "layout",
    Request.ESTIMATE: "ask",
    Request.CONTRIBUTION: "train",
    Request.SECURE: "train",
    Request.EVALUATION: "evaluate",
}


class GridExchange:
    """Carries tasks to the sites of a federation, or to every node of a simulation.

    Every exchange takes the task and `enough`, which says whether the quorum is reached. A site that comes online, or
    back, is asked then; one that refuses for a passing reason is asked again. It ends when every site has answered or
    refused for good; with enough answers also when nothing is to be expected of the others, or at the deadline. Short
    of enough at the deadline it pauses: it goes on asking, and ends as soon as it has enough.

    Parameters
    ----------
    grid
        Flower's way to the nodes.
    config
        The run.
    federation
        Where nodes have names and tasks carry the roster; None in a simulation.
    standing
        Where to tell how the exchange stands.
    roster
        Of a simulation, whose sites have one for secure sums; a federation has its own.
    resumed
        Whether rounds were done: then who is away is waited for a minute at most, and the quorum as long as it takes.
    """

    def __init__(
        self,
        grid: Grid,
        config: RunConfig,
        federation: Federation | None = None,
        standing: StandingFile | None = None,
        roster: Roster | None = None,
        resumed: bool = False,
    ) -> None:
        self._grid, self._config, self._resumed = steady(grid), config, resumed
        self._deadline = config.federation.deadline
        self._standing = standing or StandingFile(None)
        self._named, self._answers = federation is not None, Answers(self._grid, federation)
        self._roster, self.roster = federation.roster_of(config) if federation else (None, roster)
        self._roster_sha256 = self.roster.sha256 if self.roster and self._named else None
        self._attendance = Attendance(
            self._grid,
            config.federation.sites,
            federation.nodes_file if federation else None,
            self.roster.sites if self.roster else (),
        )
        self._sites: dict[str, Asked] = {}
        self._layout: Layout | None = None
        self._met: dict[str, str] = {}
        self._called: dict[str, str] = {}
        self._patience = _PATIENCE_SECONDS
        self.asked: Counter[str] = Counter()
        """How many times the last task was sent to each site."""

    @property
    def expected(self) -> int:
        """Sites that can take part."""
        return self._attendance.count

    @property
    def absent(self) -> list[str]:
        """Sites that can take part and are offline."""
        return [name for name in self._attendance.expected if self._attendance.reachable(name) is None]

    def layouts(self, task: Task, enough: Callable[[], bool]) -> Iterator[Reply]:
        """Wait for the sites, then ask which parameters each would train.

        Raises
        ------
        FedReasonError
            Where fewer than the quorum are online at the deadline.
        """
        self._wait_for_sites()
        yield from self._exchange(Request.LAYOUT, task, enough)

    def contributions(self, task: Task, enough: Callable[[], bool]) -> Iterator[Reply]:
        """Ask for each site's part of a round."""
        return self._exchange(Request.CONTRIBUTION, task, enough)

    def steps(self, tasks: Mapping[str, Task], enough: Callable[[], bool], *, pause: bool) -> Iterator[Reply]:
        """Send each of these sites its message of a secure sum; ends at the deadline, unless it is to pause."""
        return self._exchange(Request.SECURE, next(iter(tasks.values())), enough, tasks, pause=pause)

    def evaluations(self, task: Task, enough: Callable[[], bool]) -> Iterator[Reply]:
        """Ask for each site's held-out counts."""
        return self._exchange(Request.EVALUATION, task, enough)

    def estimates(self, task: Task, enough: Callable[[], bool]) -> Iterator[Reply]:
        """Ask whether each site would take part in a run, and how long it would take there."""
        return self._exchange(Request.ESTIMATE, task, enough)

    def _wait_for_sites(self) -> None:
        """Wait for all sites, at last for the quorum."""
        until = time.monotonic() + (min(self._deadline, _BACK_SECONDS) if self._resumed else self._deadline)
        attendance, quorum = self._attendance, self._config.quorum
        told: list[str] | None = None
        while True:
            attendance.look()
            if attendance.complete and attendance.count >= quorum:
                break
            late = time.monotonic() > until
            if late and len(attendance.online) >= quorum:
                _log.info("starting without %s", ", ".join(attendance.missing))
                break
            if (late and not self._resumed) or attendance.count < quorum:
                known = "" if attendance.count >= quorum else f", {attendance.count} registered"
                missing = f"; missing: {', '.join(attendance.missing)}" if attendance.missing else ""
                raise FedReasonError(
                    Code.RUN_QUORUM,
                    f"{len(attendance.online)} of {self._config.federation.sites} sites are online{known}; "
                    f"the quorum is {quorum}{missing}.",
                    "Start the sites (`python -m server status` shows who is online), then start the run again.",
                )
            if attendance.missing != told:
                told = attendance.missing
                _log.info("waiting for %s", ", ".join(told) or f"{attendance.count - len(attendance.online)} nodes")
            self._standing.tell(state="waiting", waiting_for=tuple(told), contact=attendance.contact)
            time.sleep(_POLL_SECONDS)
        self._standing.tell(state="running", waiting_for=(), contact=attendance.contact)

    def _exchange(
        self,
        kind: Request,
        task: Task,
        enough: Callable[[], bool],
        each: Mapping[str, Task] | None = None,
        *,
        pause: bool = True,
    ) -> Iterator[Reply]:
        task = replace(task, roster_sha256=self._roster_sha256)
        roster = self._roster if kind in (Request.LAYOUT, Request.ESTIMATE) else None
        layout = task_record(Task(task.config, 0, 0, None, self._roster_sha256, self._roster))
        content_of = (
            one_for_all(layout if kind == Request.LAYOUT else None, replace(task, roster=roster))
            if each is None
            else for_each(each, self._site, self._roster_sha256)
        )
        self._sites = {name: Asked.after(before) for name, before in self._sites.items()}
        self.asked = Counter()
        self._standing.tell(state="running", exchange=_NAMES[kind], round=task.round, refused={}, asked={}, answered={})
        self._patience = _PATIENCE_SECONDS
        started, short = time.monotonic(), False
        while True:
            self._attendance.look()
            for name in self._attendance.expected:
                self._sites.setdefault(name, Asked())
                self._sites[name].done |= each is not None and self._site(name) not in each
            for reply in self._replies(kind):
                self._tell(short, task)
                yield reply
            late = time.monotonic() - started > self._deadline
            if self._over(enough, late, pause):
                break
            short = late and not enough()
            self._ask(kind, layout, content_of)
            self._tell(short, task)
            self._complain(kind, task, time.monotonic() - started)
            time.sleep(min(max(_POLL_SECONDS, _POLL_SHARE * (time.monotonic() - started)), _LONGEST_POLL))
        self._tell(False, task)
        for name in self._open():
            absent = self._attendance.reachable(name) is None
            yield Refusal(
                self._site(name), int(Code.RUN_ABSENT) if absent else self._sites[name].code or int(Code.SITE_SILENT)
            )

    def _open(self) -> list[str]:
        """Return expected sites that have neither answered nor refused for good."""
        return [name for name in self._attendance.expected if not self._sites[name].done]

    def _over(self, enough: Callable[[], bool], late: bool, pause: bool) -> bool:
        waited_for = self._open()
        if not waited_for or not enough():
            return not waited_for or (late and not pause)
        return late or not any(self._promising(name) for name in waited_for)

    def _promising(self, name: str) -> bool:
        """Whether an answer of a site is under way, or it is about to be asked."""
        presence, asked = self._attendance.reachable(name), self._sites[name]
        return presence is not None and (asked.busy() or asked.due(presence, time.monotonic(), self._deadline))

    def _site(self, name: str) -> str:
        """Return the site that a node is: of its own name in a federation, as it called itself in a simulation."""
        return self._called.get(name, name)

    def _ask(self, kind: Request, layout: RecordDict, content_of: Callable[[str, int], RecordDict]) -> None:
        """Send the task to whoever is due; a site that started anew is first asked for its layout, once.

        A site that is silent for long is asked for its layout too: it answers in order, so that this answer without the
        other shows that the task never reached it, as happens where the SuperLink dies.
        """
        now = time.monotonic()
        messages: dict[str, tuple[Request, Presence, Message]] = {}
        fresh = salting()
        for name in self._open():
            presence, asked = self._attendance.reachable(name), self._sites[name]
            if presence is None or (not (due := asked.due(presence, now, self._deadline)) and not asked.silent(now)):
                continue
            known = kind == Request.ESTIMATE or self._met.get(name) == presence.start
            asks = kind if known and due else Request.LAYOUT
            content = fresh(layout if asks == Request.LAYOUT else content_of(name, asked.attempt))
            secret = secrets.token_hex(16)  # whoever guessed a message's number, which is its hash, could answer it
            message = Message(content=content, dst_node_id=presence.node, message_type=asks, group_id=secret)
            messages[name] = (asks, presence, message)
        if not messages:
            return
        accepted = send(self._grid, [message for _, _, message in messages.values()])
        for name, (asks, presence, message) in messages.items():
            asked, number = self._sites[name], message.metadata.message_id
            if number not in accepted:
                asked.put_off(int(Code.SITE_SILENT), now)
                continue
            if asked.code is not None and asked.making is None:
                _log.info("asking %s again (E%d)", name, asked.code)
            asked.ask(number, asks, presence, now)
            self.asked[self._site(name)] += asks == kind

    def _replies(self, kind: Request) -> Iterator[Reply]:
        """Yield what has arrived, one reply at a time."""
        waiting = self._answers.waiting([number for asked in self._sites.values() for number in asked.messages])
        if self._named and waiting:
            drain(self._grid)
        for name, asked in self._sites.items():
            for number in list(asked.messages):
                if number not in asked.messages or self._attendance.reachable(name) is None:
                    continue
                message = self._answers.fetch(number) if number in waiting else None
                if self._answers.under_way(number):
                    break  # the answers of a site come in the order in which it was asked
                reply = None if message is None else self._heard(name, asked, number, message, kind)
                if reply is not None:
                    asked.finish(reply.code if isinstance(reply, Refusal) else None)
                    yield reply

    def _heard(self, name: str, asked: Asked, number: str, message: Message, kind: Request) -> Reply | None:
        """Return a reply that ends the exchange with this site, None where it is of no use or the site is asked on."""
        now = time.monotonic()
        if message.has_error() and message.error.code not in _PROGRAM_FAILED:
            if asked.messages.pop(number) and not asked.done:
                asked.put_off(int(Code.SITE_SILENT), now)
            return None
        asks = asked.heard(number)
        if not asks or asked.done:
            return None
        reply = Refusal(name, int(Code.RUN_FAILED)) if message.has_error() else read(message, name, named=self._named)
        if isinstance(reply, Refusal) and reply.code == Code.MODEL_MAKING:
            asked.makes(reply.progress or (0, 0))
            _log.info("%s is %s", name, making_text(*asked.making or (0, 0)))
            return None
        if isinstance(reply, Refusal) and reply.code in TRANSIENT:
            _log.warning("%s", told(name, reply.code))
            asked.put_off(reply.code, now)
            return None
        if isinstance(reply, Layout) and asks == Request.LAYOUT:
            return self._meet(name, asked, reply, kind)
        return reply

    def _meet(self, name: str, asked: Asked, layout: Layout, kind: Request) -> Reply | None:
        """Compare the layout of a site that came later with that of the others; it is asked on where they agree."""
        if kind == Request.LAYOUT:
            self._layout = self._layout or layout
        elif self._layout is not None and (layout.size, layout.sha256) != (self._layout.size, self._layout.sha256):
            return Refusal(layout.site, int(Code.MODEL_ADAPTER))
        self._met[name] = asked.start
        self._called[name] = layout.site
        return layout if kind == Request.LAYOUT else None

    def _tell(self, short: bool, task: Task) -> None:
        """Tell how the exchange stands; a pause and its end are lines in the log."""
        waiting_for = tuple(self._open())
        state: State = "paused" if short else "running"
        if state != self._standing.current.state:
            _log.warning(
                "round %d %s", task.round, f"is paused: waiting for {', '.join(waiting_for)}" if short else "goes on"
            )
        sites = self._sites.items()
        self._standing.tell(
            state=state,
            waiting_for=waiting_for,
            refused={name: asked.code for name, asked in sites if asked.code is not None and not asked.making},
            stages={name: making_text(*asked.making) for name, asked in sites if asked.making},
            contact=dict(self._attendance.contact),
            asked={name: asked.sent for name, asked in sites if asked.sent is not None},
            answered={name: asked.took for name, asked in sites if asked.took is not None},
        )

    def _complain(self, kind: Request, task: Task, waited: float) -> None:
        """Log whom the exchange waits for, each time it has waited twice as long."""
        if waited < self._patience:
            return
        self._patience *= 2
        now = datetime.now(UTC)
        for name in self._open():
            heard = self._attendance.contact.get(name)
            silent = "never heard of" if heard is None else f"last heard {(now - heard).total_seconds():.0f} s ago"
            where = "online" if self._attendance.reachable(name) else "offline"
            _log.info(
                "round %d, %s: for %.0f s waiting for %s, %s, %s", task.round, _NAMES[kind], waited, name, where, silent
            )
