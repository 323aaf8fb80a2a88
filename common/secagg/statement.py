"""What the survivors sign: one document, the same for all, of everything that a sum and its privacy depend on.

Each site writes it from what it saw itself. Where two saw something else they sign something else, and neither counts
the other's signature.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.identity.keys import canonical, signature, signature_holds
from common.identity.roster import Roster
from common.secagg.keys import agreeable
from common.secagg.messages import Advertisement
from common.secagg.terms import Terms, fewest_survivors, threshold

_ADVERTISEMENT = "secagg-advertisement"
_STATEMENT = "secagg-survivors"


@dataclass(frozen=True)
class Statement:
    """Cohort, U1, U2 with the hash of each masked sum, and the terms.

    Attributes
    ----------
    cohort
        Hash of each site's advertisement.
    sharers
        U1: those who shared keys, sorted.
    inputs
        Hash of each survivor's masked sum; the survivors are U2.
    """

    session: bytes
    terms: Terms
    cohort: Mapping[str, bytes]
    sharers: tuple[str, ...]
    inputs: Mapping[str, bytes]

    @property
    def fewest(self) -> int:
        """How many must sign, and survive at least."""
        return fewest_survivors(self.terms, cohort=len(self.cohort), sharers=len(self.sharers))

    @cached_property
    def document(self) -> dict[str, Any]:
        """Return what is signed."""
        noise = self.terms.noise
        shared = None
        if noise is not None:
            shared = {
                "sigma_units": noise.sigma_units,
                "share_units": noise.share(len(self.sharers)),
                "colluders": noise.colluders,
                "dropouts": noise.dropouts,
            }
        return {
            "session": self.session.hex(),
            "size": self.terms.size,
            "bits": self.terms.bits,
            "noise": shared,
            "floor": self.terms.floor,
            "threshold": threshold(len(self.cohort)),
            "cohort": {site: digest.hex() for site, digest in self.cohort.items()},
            "sharers": list(self.sharers),
            "survivors": {site: digest.hex() for site, digest in self.inputs.items()},
        }

    @property
    def sha256(self) -> str:
        """Hash of the document."""
        return hashlib.sha256(canonical(self.document)).hexdigest()

    def signed(self, key: Ed25519PrivateKey) -> str:
        """Return a site's signature."""
        return signature(self.document, key, kind=_STATEMENT)

    def holds(self, site: str, signed: str, roster: Roster) -> bool:
        """Whether this is the signature of a survivor, by its key in the roster, on this statement."""
        return site in self.inputs and _holds(self.document, site, signed, roster, _STATEMENT)


def sign_advertisement(
    session: bytes, site: str, mask_key: bytes, envelope_key: bytes, seed: bytes, key: Ed25519PrivateKey
) -> Advertisement:
    """Return a site's keys for a session, with its signature."""
    signed = signature(_advertised(session, site, mask_key, envelope_key, seed), key, kind=_ADVERTISEMENT)
    return Advertisement(session, site, mask_key, envelope_key, seed, signed)


def advertisement_holds(told: Advertisement, session: bytes, roster: Roster) -> bool:
    """Whether these are keys to agree with, signed for this session by the key that the roster has for the site."""
    signed = told.session == session and _holds(_document(told), told.site, told.signature, roster, _ADVERTISEMENT)
    return signed and agreeable(told.mask_key) and agreeable(told.envelope_key)


def advertisement_digest(told: Advertisement) -> bytes:
    """Return the hash of what was signed."""
    return hashlib.sha256(canonical(_document(told))).digest()


def _document(told: Advertisement) -> dict[str, str]:
    return _advertised(told.session, told.site, told.mask_key, told.envelope_key, told.seed)


def _advertised(session: bytes, site: str, mask_key: bytes, envelope_key: bytes, seed: bytes) -> dict[str, str]:
    values = {"session": session, "mask_key": mask_key, "envelope_key": envelope_key, "seed": seed}
    return {"site": site, **{name: value.hex() for name, value in values.items()}}


def _holds(document: dict[str, Any], site: str, signed: str, roster: Roster, kind: str) -> bool:
    member = roster.member(site)
    return member is not None and signature_holds(document, signed, kind=kind, signer=member.signing_key)
