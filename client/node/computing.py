"""How the node comes to an answer: the resident process computes it, watched for a pause, a stop, and the run's end.

Where it dies another is started; an answer that was computed is kept, and the same task gets the same one.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from client.node.hours import hold
from client.node.inbox import Inbox
from client.node.resident import Died, Resident
from client.node.status import Status
from client.node.worker import RunEnded
from client.site.config import SiteConfig
from client.site.stage import Stage
from client.training.maker import embedded_model
from client.training.releases import attempt_of
from client.training.states import Attempt, Attempts, Silent, State
from common.cli import unexpected
from common.errors import Code, FedReasonError
from common.logs import logger
from common.messages.kinds import Contribution, Evaluation, Refusal, Reply, Request, Step, Task
from common.model.making import STAGE, lines
from common.tiny import Embedded

_log = logger("site")

_SAY_SECONDS = 5.0
_DEATHS = 2
"""Deaths of the resident process over one message after which it is refused."""


class Stopped(Exception):
    """The site is being stopped; `silent` where nothing may leave any more for the message in hand."""

    def __init__(self, *, silent: bool = False) -> None:
        super().__init__()
        self.silent = silent


class Computing:
    """The node's handle on what computes.

    Parameters
    ----------
    go_on
        Raises `Stopped` where the site is being stopped.
    require_running
        Raises `RunEnded` where a run of Flower's is known to be over.
    """

    def __init__(
        self,
        folder: Path,
        config: SiteConfig,
        status: Status,
        inbox: Inbox,
        go_on: Callable[[], None],
        require_running: Callable[[], None],
    ) -> None:
        self._folder, self._config, self._status, self._inbox = folder, config, status, inbox
        self._go_on, self._require_running = go_on, require_running
        self._resident = Resident(folder, status.stage)
        self._attempts = Attempts(folder)
        self._model: Embedded | None = None
        self._kind = ""
        self._attempt: Attempt | None = None
        self._making = lines(lambda line: _log.info("%s: %s", STAGE, line))

    def start(self) -> None:
        """Start the resident process, where none runs."""
        self._resident.start()

    def stop(self) -> None:
        """End it at once, and free the GPU."""
        self._resident.stop()

    def held(self) -> FedReasonError | None:
        """Return why nothing may be computed now, None where it may."""
        return hold(self._folder, self._config.hours)

    @property
    def hides(self) -> bool:
        """Whether nobody may see when the work on the task in hand ended: charged, and not answered before."""
        return self._attempt is not None

    def end_begun(self) -> None:
        """End in silence what a process began that died with its node; nobody wished it."""
        self._attempts.end_begun()

    def open_registry(self) -> None:
        """Wait until the registry is open, so that what is wrong with it is told before the first message."""
        started = told = time.monotonic()
        with contextlib.suppress(Died):
            while self._resident.pid is not None and not self._resident.ready(0.5):
                self._go_on()
                if (now := time.monotonic()) - told > _SAY_SECONDS:
                    told = now
                    _log.info("opening the registry and loading the libraries, for %.0f s now", now - started)

    def answer(self, kind: str, task: Task) -> Reply:
        """Return the answer to a task: the same as before where it is asked again.

        Raises
        ------
        FedReasonError
            SITE_PAUSED, SITE_WORKER where the process keeps dying, RUN_REPLY for what no site answers.
        Stopped, RunEnded
            Where nobody waits for the answer any more.
        Silent
            Where this attempt was charged and begun, and nothing may leave for it.
        """
        if kind not in set(Request) or (task.public and kind != Request.EVALUATION):
            what = f"'{kind[:40]}'{' of public questions' if task.public else ''}"
            raise FedReasonError(
                Code.RUN_REPLY, f"The coordinator asks for {what}.", "Install the same version everywhere."
            )
        self._kind, self._attempt = kind, attempt_of(kind, task)
        try:
            return self._answer(kind, task)
        except (FedReasonError, Stopped, RunEnded, Silent, OSError):
            raise
        except Exception as error:  # nothing that a message holds may end the program: it would be taken up again
            self._resident.stop()
            self._require_not_begun()
            raise unexpected(error) from None

    def _answer(self, kind: str, task: Task) -> Reply:
        if (reply := self._inbox.remembered(kind, task)) is not None:
            _log.info("run %s, round %d: asked again; the same answer is sent", task.config.name, task.round)
            self._attempt = None
            return reply
        name, number = task.config.name, task.round
        self._status.announce("working", f"run {name}, round {number}: {kind}", run=name, round=number)
        self._model = embedded_model(task.config, self._config.codebook)
        before = None if self._attempt is None else self._attempts.state(self._attempt)
        for _ in range(_DEATHS):
            try:
                reply = self._computed(kind, task)
            except Died:
                _log.warning("the resident process ended (killed, or out of memory); it is started again")
                self._require_not_begun()  # at once, so that nobody's wish that comes now is taken for the cause
                continue
            if (is_of_records(reply) and not task.public) or isinstance(reply, Step):
                self._inbox.remember(kind, task, reply)
            elif isinstance(reply, Refusal) and before is not State.SENT:  # what was sent is not begun again
                self._require_not_begun()
            return reply
        self._require_not_begun()
        raise FedReasonError(
            Code.SITE_WORKER,
            f"The resident process ended {_DEATHS} times over one message.",
            "See the log for the cause; most often the GPU or the machine has too little memory.",
        )

    def end(self) -> bool:
        """End the work on the task in hand by somebody's wish, and say whether it ends in silence: it was charged.

        Whether there is an answer by then depends on records. So what this leaves is the same: no process, no answer
        that could be sent again, an attempt that is silent. It is not held against the run.
        """
        self._resident.stop()
        if self._attempt is None:
            return False
        self._inbox.forget(self._kind)
        return self._spent(wished=True)

    def _spent(self, *, wished: bool = False) -> bool:
        """Whether the task in hand was charged and has no answer; what was begun or computed for it ends in silence."""
        begun = self._attempts.end_begun(wished=wished)
        state = None if self._attempt is None else self._attempts.state(self._attempt)
        if self._attempt is not None and state is State.SENT:
            self._attempts.enter(self._attempt, State.SILENT, wished=wished)
        return begun or state in (State.SENT, State.SILENT)

    def _require_not_begun(self) -> None:
        """Raise `Silent` in place of a refusal where a process died over this attempt after it was charged."""
        if self._attempt is not None and self._spent():
            raise Silent

    def _computed(self, kind: str, task: Task) -> Reply:
        """Let the resident process answer, watching for a pause, a stop and the end of the run."""
        with self._watched() as watch:
            self._resident.start()
            while not self._resident.ready(0.5):
                watch()
            self._status.loads(self._resident.starts)
            self._resident.give(kind, task)
            while (reply := self._resident.take(0.5)) is None:
                watch()
                self._tell_making(task)
            return reply

    def _tell_making(self, task: Task) -> None:
        """Say how far the run's model is, while it is being made."""
        if self._model is not None and (progress := self._model.progress) is not None:
            self._status.stage(Stage.MAKING_MODEL)
            doing = f"run {task.config.name}, round {task.round}: {STAGE}"
            self._status.tell("working", f"{doing}, {progress}", run=task.config.name, round=task.round)
            self._making(progress)

    @contextlib.contextmanager
    def _watched(self) -> Iterator[Callable[[], None]]:
        """Give what must be called now and then; where it raises, the computation is ended.

        Where the attempt was charged already, its end is silence and no refusal, also where the answer was computed and
        not taken yet: which of the two it was depends on records.
        """

        def watch() -> None:
            self._go_on()
            if (held := self.held()) is not None:
                raise held
            self._require_running()

        try:
            watch()
            yield watch
        except (Stopped, RunEnded, FedReasonError) as ended:
            begun = self.end()
            if begun and isinstance(ended, FedReasonError):
                raise Silent from None
            if begun and isinstance(ended, Stopped):
                raise Stopped(silent=True) from None
            raise


def is_of_records(reply: Reply) -> bool:
    """Whether an answer was computed from records; a refusal was not, nor is what is kept here anyway."""
    if isinstance(reply, Step):
        return reply.words is not None
    return isinstance(reply, Contribution) or (isinstance(reply, Evaluation) and reply.counts is not None)
