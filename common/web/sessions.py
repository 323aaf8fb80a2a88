"""Who is in: sessions in memory, gone with the process, and how often somebody may try to come in."""

from __future__ import annotations

import hmac
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass, field

STARTER = "you"
"""What a session by the link is called."""
_SECONDS = 12 * 3600.0
_MOST = 500


@dataclass
class Session:
    """One person's stay. `form_token` is what their forms bear (no other site knows it); `notice` is shown once.

    `account` is the account's password hash as they came in: another one ends the stay.
    """

    user: str
    until: float
    account: str | None = None
    form_token: str = field(default_factory=secrets.token_urlsafe)
    notice: str = ""

    def allows(self, token: str) -> bool:
        """Whether a form was made for this session."""
        return hmac.compare_digest(token.encode(), self.form_token.encode())


class Sessions:
    """Sessions by the secret of their cookie, `_MOST` at a time: the oldest goes first."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, Session] = OrderedDict()

    def begin(self, user: str, account: str | None = None) -> str:
        """Open a session and return its secret."""
        secret = secrets.token_urlsafe(32)
        self._open[secret] = Session(user, time.monotonic() + _SECONDS, account)
        while len(self._open) > _MOST:
            self._open.popitem(last=False)
        return secret

    def find(self, secret: str) -> Session | None:
        """Return the session of a secret, None where there is none or its time is over."""
        found = self._open.get(secret)
        if found is not None and found.until < time.monotonic():
            del self._open[secret]
            return None
        return found

    def end(self, secret: str) -> None:
        """Close a session."""
        self._open.pop(secret, None)


class Throttle:
    """How often somebody at one address may try in vain within a minute."""

    ATTEMPTS, SECONDS, _KEPT = 5, 60.0, 1000

    def __init__(self) -> None:
        self._tried: OrderedDict[str, list[float]] = OrderedDict()

    def wait(self, address: str) -> float:
        """Return for how many seconds nobody at this address is heard; 0 where they are."""
        recent = [at for at in self._tried.get(address, []) if at > time.monotonic() - self.SECONDS]
        return 0.0 if len(recent) < self.ATTEMPTS else recent[0] + self.SECONDS - time.monotonic()

    def attempt(self, address: str) -> None:
        """Count an attempt, before it is looked at: many at once are no way around."""
        self._tried[address] = [*self._tried.pop(address, []), time.monotonic()][-self.ATTEMPTS :]
        while len(self._tried) > self._KEPT:
            self._tried.popitem(last=False)

    def forgive(self, address: str) -> None:
        """Take back the attempt by which somebody came in; those in vain may have been at another's account."""
        self._tried.get(address, [])[-1:] = []
