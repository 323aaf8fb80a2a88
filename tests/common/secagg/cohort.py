"""Sites and a coordinator of one session, in one process, for the tests of the protocol."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import cache
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.arrays import Integers
from common.errors import Code, FedReasonError
from common.identity.keys import new_node_key, new_signing_key, public_text
from common.identity.roster import Member, Roster
from common.secagg.messages import ToServer, ToSite, message_of, parts_of
from common.secagg.server import Server
from common.secagg.session import Session
from common.secagg.site import Site
from common.secagg.terms import Limits, Terms

SIZE = 257
TERMS = Terms(size=SIZE, bits=32)
LIMITS = Limits(cohort=3)


@dataclass
class Memory:
    """A journal's store, and all that it ever held."""

    content: bytes | None = None
    written: list[bytes] = field(default_factory=list)

    def read(self) -> bytes | None:
        return self.content

    def write(self, content: bytes) -> None:
        self.content = content
        self.written.append(content)

    @property
    def entries(self) -> dict[str, dict[str, object]]:
        return dict(json.loads(self.content or b"{}"))


@cache
def keys(count: int) -> dict[str, Ed25519PrivateKey]:
    return {f"site-{number:03}": new_signing_key() for number in range(count)}


@cache
def roster_of(count: int) -> Roster:
    def member(name: str, key: Ed25519PrivateKey) -> Member:
        return Member(
            site=name, signing_key=public_text(key), node_key=public_text(new_node_key()), admitted=date(2026, 1, 1)
        )

    members = tuple(member(name, key) for name, key in keys(count).items())
    return Roster(federation="sepsis", version=3, issued=datetime(2026, 1, 1, tzinfo=UTC), members=members)


def session_of(roster: Roster, **changes: object) -> Session:
    session = Session("sepsis", "trial", "d" * 64, 1, 1, "a" * 64, "b" * 64, roster.version, roster.sha256)
    return replace(session, **changes)  # type: ignore[arg-type]


class Cohort:
    """A coordinator and `count` sites, each with a random sum."""

    def __init__(
        self,
        count: int,
        *,
        terms: Terms = TERMS,
        limits: Limits = LIMITS,
        stores: Mapping[str, Memory] | None = None,
        **changes: object,
    ) -> None:
        self.roster, self.keys, self.terms, self.limits = roster_of(count), keys(count), terms, limits
        self.session = session_of(self.roster, **changes)
        generator = np.random.default_rng()
        self.vectors = {name: generator.integers(-(2**20), 2**20, terms.size) for name in self.keys}
        self.shares: dict[str, int | None] = {}
        self.stores = dict(stores) if stores else {name: Memory() for name in self.keys}
        self.sites = {name: self.site(name) for name in self.keys}
        self.server = Server(session=self.session, terms=terms, roster=self.roster, invited=self.keys)

    def site(self, name: str, **changes: object) -> Site:
        def contribute(share: int | None) -> Integers:
            self.shares[name] = share
            return self.vectors[name]

        values = {
            "name": name,
            "key": self.keys[name],
            "roster": self.roster,
            "session": self.session,
            "terms": self.terms,
            "limits": self.limits,
            "store": self.stores[name],
            "contribute": contribute,
        }
        return Site(**{**values, **changes})  # type: ignore[arg-type]

    def exchange(self, lost: Collection[str] = ()) -> dict[str, ToServer]:
        """Do one exchange; the answers of the lost do not arrive."""
        return self.deliver(self.server.proceed(), lost)

    def deliver(self, messages: Mapping[str, ToSite], lost: Collection[str] = ()) -> dict[str, ToServer]:
        answers = {name: self.sites[name].take(message) for name, message in messages.items() if name not in lost}
        for answer in answers.values():
            self.server.take(answer)
        return answers

    def until(self, exchanges: int) -> Cohort:
        """Do so many exchanges of which nobody is lost."""
        for _ in range(exchanges):
            self.exchange()
        return self

    def run(self, lost: Mapping[int, Collection[str]] | None = None) -> Integers:
        """Do all five exchanges and return the sum; `lost` by exchange, 1 to 5."""
        for number in range(1, 6):
            self.exchange((lost or {}).get(number, ()))
        return self.server.total()

    def expected(self) -> Integers:
        """Return the plain sum of the survivors."""
        return np.sum([self.vectors[name] for name in self.server.survivors], axis=0)


def sent(message: Any) -> Any:
    """Return a message as it is after it went over the wire."""
    parts = parts_of(message)
    return message_of(json.loads(json.dumps(parts.head)), parts.arrays)


def refused(code: Code, act: Callable[[], object]) -> FedReasonError:
    """Return the refusal, which has to have this number."""
    with pytest.raises(FedReasonError) as refusal:
        act()
    assert refusal.value.code is code, refusal.value
    return refusal.value
