"""The secrets of one site in one session, and the keys that come from them. They are never written to a disk."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from common.identity.keys import canonical
from common.secagg.masks import Mask

SEED_BYTES = 32
_PRIME = 2**255 - 19


@dataclass(frozen=True, repr=False)
class Secrets:
    """Two ephemeral X25519 keys and the seed of the site's own mask.

    `mask` makes the masks shared with each peer; where the site is lost the others give its private half away.
    `envelope` opens the boxes with their shares, and never leaves.
    """

    mask: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate)
    envelope: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate)
    seed: bytes = field(default_factory=lambda: secrets.token_bytes(SEED_BYTES))


def labelled(purpose: str, session: bytes, *names: str) -> bytes:
    """Return a label as bytes; different ones never have equal bytes."""
    return canonical({"fedreason/secagg/1": purpose, "session": session.hex(), "names": names})


def derived(secret: bytes, label: bytes, size: int = 32) -> bytes:
    """Return a key for one purpose (HKDF-SHA256, RFC 5869)."""
    return HKDF(hashes.SHA256(), size, None, label).derive(secret)


def agreed(own: X25519PrivateKey, other: bytes) -> bytes:
    """Return the secret that two keys agree on (RFC 7748); ValueError where `other` is a point that has none."""
    return own.exchange(X25519PublicKey.from_public_bytes(other))


def agreeable(public: bytes) -> bool:
    """Whether an X25519 public key is one that anybody can agree with, spelled as it has to be.

    RFC 7748 takes several spellings for one point: in another one a site's key would count as a second key.
    """
    if int.from_bytes(public, "little") >= _PRIME:
        return False
    try:
        agreed(X25519PrivateKey.generate(), public)
    except ValueError:
        return False
    return True


def seed_commitment(seed: bytes, session: bytes, site: str) -> bytes:
    """Return what binds a site to the seed of its own mask."""
    return hashlib.sha256(labelled("seed", session, site) + seed).digest()


def own_mask(seed: bytes, session: bytes, site: str) -> Mask:
    """Return the mask that a site adds for itself."""
    return Mask(derived(seed, labelled("own mask", session, site)), add=True)


def pair_mask(own: X25519PrivateKey, other: bytes, session: bytes, *, site: str, peer: str) -> Mask:
    """Return the mask that `site` adds for `peer`: what one of the two adds the other subtracts."""
    key = derived(agreed(own, other), labelled("pair mask", session, *sorted((site, peer))))
    return Mask(key, add=site < peer)
