"""Secure aggregation with one guard taken out at a time."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from common.identity.keys import canonical
from common.secagg import keys, masks
from common.secagg.journal import Entry, Journal, Tally
from common.secagg.masks import Mask, Residues
from common.secagg.messages import Consents, Survivors
from common.secagg.sealed import Place
from common.secagg.server import Server
from common.secagg.session import Session
from common.secagg.site import Site
from common.secagg.terms import Terms, threshold

_left, _label, _labelled, _pair_mask = Server._left, Place.label, keys.labelled, keys.pair_mask
_apply, _take = masks.apply, Site.take


def one_mask_fewer(self: Server) -> list[Mask]:
    return _left(self)[:-1]


def lost_forgotten(self: Server) -> list[Mask]:
    """Take off the survivors' own masks alone."""
    return _left(self)[: len(self.survivors)] if len(self._boxes) == len(self.survivors) else []


def both_add(*given: Any, **names: Any) -> Mask:
    return _pair_mask(*given, **names)._replace(add=True)


def half(added: list[Mask], vector: Residues, *, threads: int = 1) -> None:
    """Mask the lower half of every word."""
    whole = vector.copy()
    _apply(added, whole, threads=threads)
    vector[:] = vector & np.uint32(0xFFFF0000) | whole & np.uint32(0xFFFF)


def short(added: list[Mask], vector: Residues, *, threads: int = 1) -> None:
    """Add masks of 24 bits."""
    whole = np.zeros_like(vector)
    _apply(added, whole, threads=threads)
    vector += whole & np.uint32(0xFFFFFF)


def all_but_the_last(added: list[Mask], vector: Residues, *, threads: int = 1) -> None:
    """Mask whole blocks of 4 KiB, and leave what is over."""
    _apply(added, vector[: len(vector) - len(vector) % 1024], threads=threads)


def none(added: list[Mask], vector: Residues, *, threads: int = 1) -> None:
    """Mask nothing."""


def same_for_all(seed: bytes, session: bytes, site: str) -> Mask:
    return Mask(bytes(32), add=True)


def of_no_session(purpose: str, session: bytes, *names: str) -> bytes:
    return _labelled(purpose, b"", *names)


class Kept(keys.Secrets):
    """Secrets that three sites keep from session to session."""

    _made = tuple(keys.Secrets() for _ in range(3))
    _given = 0

    def __init__(self) -> None:
        one = self._made[Kept._given % 3]
        Kept._given += 1
        super().__init__(one.mask, one.envelope, one.seed)


def without_kind(self: Place, purpose: str) -> bytes:
    return _label(self._replace(kind="seed"), purpose)


def in_any_turn(self: Site, message: Any) -> Any:
    self._awaits = type(message)
    return _take(self, message)


def for_every_set(self: Site, message: Any) -> Any:
    """Forget, after shares were revealed for one set of survivors, that they were."""
    held, secrets = self._held, self._secrets
    answer = _take(self, message)
    if isinstance(message, Consents):
        self._awaits, self._held, self._secrets = Survivors, held, secrets
    return answer


def of_no_model(self: Session) -> bytes:
    return hashlib.sha256(canonical(asdict(replace(self, model_sha256="")))).digest()


def forgetful(self: Journal, most: int) -> None:
    session = self._session
    rounds = {session.round: Tally(session.attempt)}
    self._write({}, Entry(session.id.hex(), session.round, session.attempt, rounds=rounds))


def of_the_last(self: Entry) -> dict[int, Tally]:
    return {self.round: Tally(self.attempt)}


def t_alone(terms: Terms, *, cohort: int, sharers: int) -> int:
    return threshold(cohort)


class Anything(bytes):
    """A commitment that every share meets."""

    def __ne__(self, other: object) -> bool:
        return False


def yes(*given: object) -> bool:
    return True


def two(cohort: int) -> int:
    return 2


UNSIGNED = {"statement__Statement__holds": yes}
UNCOUNTED = {"statement__Statement__fewest": property(lambda statement: 1)}
NO_SESSION = {"keys__labelled": of_no_session, "sealed__labelled": of_no_session}
