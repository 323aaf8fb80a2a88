"""What one site was asked in one exchange, what came of it, and whether it is worth waiting for."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from common.errors import Code
from common.messages.kinds import Request
from server.rounds.attendance import Presence

_AGAIN_SECONDS = 5.0
_LONGEST_AGAIN = 60.0
SILENT_SECONDS = 30.0


@dataclass
class Asked:
    """One site in one exchange.

    A site works on one message at a time, so it is asked one thing at a time. A message is presumed lost where the site
    started anew after it was sent, has answered a later one, or has been silent for a whole deadline (two, where the
    message is of an earlier exchange): then the site is asked again. It answers the same task with the same bits, so
    that either answer is used, once.

    Attributes
    ----------
    messages
        Messages without an answer, in the order they were sent, and what each asks for; "" for those of an earlier
        exchange, whose answers are of no use, but which the site must be done with first.
    code
        Why the site cannot take part for now.
    making
        After how many steps of how many the model is that the site makes first.
    done
        Whether the site has answered, or refused for good.
    start
        Which start of the site the last message was sent to.
    sent, took
        When it was first asked in this exchange, and after how many seconds it answered.
    """

    messages: dict[str, str] = field(default_factory=dict)
    code: int | None = None
    making: tuple[int, int] | None = None
    done: bool = False
    start: str = ""
    sent: datetime | None = None
    took: float | None = None
    _at: float = 0.0
    _probed: float = 0.0
    _not_before: float = 0.0
    _tries: int = 0
    _unanswered: int = 0

    @classmethod
    def after(cls, earlier: Asked | None) -> Asked:
        """Return the site at the start of the next exchange: messages that it still owes an answer to are stale."""
        if earlier is None or not earlier.messages:
            return cls()
        return cls(messages=dict.fromkeys(earlier.messages, ""), start=earlier.start, _at=earlier._at)

    @property
    def attempt(self) -> int:
        """Which attempt of a private run to ask for next.

        A message may be lost, or its answer: the same is asked for twice. Then the site is taken to have died over it,
        for which it stays silent: it is asked for the next attempt, which it draws and charges anew.
        """
        return max(0, self._unanswered - 1)

    def due(self, presence: Presence, now: float, deadline: float) -> bool:
        """Whether the site, being online, is to be asked now."""
        if self.done or now < self._not_before:
            return False
        patience = deadline if self.busy() else 2 * deadline
        return not self.messages or self.start != presence.start or now - self._at > patience

    def silent(self, now: float) -> bool:
        """Whether no answer has come for so long that nothing may have arrived: after each probe twice as long."""
        return self.busy() and now - self._probed > SILENT_SECONDS * 2 ** (len(self.messages) - 1)

    def busy(self) -> bool:
        """Whether an answer of this exchange is under way."""
        return any(self.messages.values())

    def ask(self, message: str, kind: Request, presence: Presence, now: float) -> None:
        """Note that a message was sent."""
        if not (kind == Request.LAYOUT and self.busy()):  # a probe puts off no deadline
            self._at = now
        self.messages[message] = kind
        self.sent = self.sent or datetime.now(UTC)
        self._unanswered += kind != Request.LAYOUT
        self.start, self._probed = presence.start, now

    def heard(self, message: str) -> str:
        """Note an answer and return what it was asked for; messages before it the site must have lost."""
        order = list(self.messages)
        for earlier in order[: order.index(message)]:
            del self.messages[earlier]
        return self.messages.pop(message)

    def makes(self, progress: tuple[int, int]) -> None:
        """Note that the site makes its model first. It has waited a while before it said so: it is asked on at once."""
        self.code, self.making = int(Code.MODEL_MAKING), progress
        self._unanswered = max(0, self._unanswered - 1)

    def finish(self, code: int | None) -> None:
        """Note that the site has answered, or refused for good."""
        self.done, self.code, self.making = True, code, None
        if code is None and self.sent is not None:
            self.took = round((datetime.now(UTC) - self.sent).total_seconds(), 1)

    def put_off(self, code: int, now: float) -> None:
        """Note that the site cannot for now; each time it is asked again a little later."""
        if code != Code.SITE_SILENT:
            self._unanswered = max(0, self._unanswered - 1)
        self.code, self.making = code, None
        self._not_before = now + min(_AGAIN_SECONDS * 2**self._tries, _LONGEST_AGAIN)
        self._tries += 1
