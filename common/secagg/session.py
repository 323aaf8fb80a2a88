"""What one secure sum is for: its id goes into every key, box and signature, so that nothing serves in another one."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from functools import cached_property

from common.arrays import Vector, adapter_sha256
from common.config import RunConfig
from common.identity.keys import canonical
from common.identity.roster import Roster


def model_sha256(adapter: Vector, layout_sha256: str) -> str:
    """Return the hash of the adapter that a party has, and of its layout."""
    return hashlib.sha256(f"{adapter_sha256(adapter)} {layout_sha256}".encode()).hexdigest()


@dataclass(frozen=True)
class Session:
    """One attempt at one round of a run, at one model, under one configuration and one roster.

    The privacy section is part of the configuration; it has a hash of its own, for it says what the noise hides.
    """

    federation: str
    run: str
    run_sha256: str
    round: int
    attempt: int
    model_sha256: str
    privacy_sha256: str
    roster_version: int
    roster_sha256: str

    @classmethod
    def of(cls, config: RunConfig, roster: Roster, *, round: int, attempt: int, model_sha256: str) -> Session:
        """Return the session of an attempt, from what this party holds itself.

        Parameters
        ----------
        config
            The run.
        roster
            The roster that this party accepted.
        round, attempt
            Which sum.
        model_sha256
            Hash of the adapter that this party received, and of its layout.
        """
        privacy = "" if config.privacy is None else config.privacy.model_dump_json()
        return cls(
            federation=roster.federation,
            run=config.name,
            run_sha256=config.sha256,
            round=round,
            attempt=attempt,
            model_sha256=model_sha256,
            privacy_sha256=hashlib.sha256(privacy.encode()).hexdigest(),
            roster_version=roster.version,
            roster_sha256=roster.sha256,
        )

    @cached_property
    def id(self) -> bytes:
        """Hash of all of it [32 bytes]."""
        return hashlib.sha256(b"fedreason/secagg/session/1\n" + canonical(asdict(self))).digest()
