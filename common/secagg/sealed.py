"""One share in a box that only its holder opens, and a commitment by which the coordinator knows the share again.

The box's key and nonce come from both sides' ephemeral keys and serve for this box alone. The commitment tells nothing:
a share is a uniform number of 521 bits. With it a wrong share has one culprit: whoever reveals another than was
committed to, or whoever dealt shares that do not meet.
"""

from __future__ import annotations

import hashlib
from typing import Literal, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from common.secagg.keys import derived, labelled
from common.secagg.messages import Sealed
from common.secagg.shamir import PRIME, SHARE_BYTES

Kind = Literal["seed", "key"]
"""A share of the seed of a site's own mask, or of the key of the masks that it has with each peer."""
_KEY_BYTES, _NONCE_BYTES = 32, 12


class Place(NamedTuple):
    """Whose secret a share is of, who holds it, and of which of the two secrets; within a session."""

    session: bytes
    sender: str
    receiver: str
    kind: Kind

    def label(self, purpose: str) -> bytes:
        """Return all of it as bytes, for one purpose."""
        return labelled(purpose, self.session, self.sender, self.receiver, self.kind)


def seal(share: int, agreed: bytes, place: Place) -> Sealed:
    """Close a share; `agreed` is the secret of the two sites' envelope keys."""
    key, nonce = _key(agreed, place)
    committed = commitment(share, place)
    box = ChaCha20Poly1305(key).encrypt(nonce, share.to_bytes(SHARE_BYTES, "big"), place.label("box") + committed)
    return Sealed(box, committed)


def unseal(sealed: Sealed, agreed: bytes, place: Place) -> int:
    """Open a box.

    Raises
    ------
    ValueError
        Where it was not closed for this place, or holds another share than its sender committed to.
    """
    key, nonce = _key(agreed, place)
    try:
        opened = ChaCha20Poly1305(key).decrypt(nonce, sealed.box, place.label("box") + sealed.commitment)
    except InvalidTag:
        raise ValueError("the box does not open") from None
    share = int.from_bytes(opened, "big")
    if share >= PRIME or commitment(share, place) != sealed.commitment:
        raise ValueError("the box holds another share")
    return share


def commitment(share: int, place: Place) -> bytes:
    """Return what binds a site to a share."""
    return hashlib.sha256(place.label("commitment") + share.to_bytes(SHARE_BYTES, "big")).digest()


def _key(agreed: bytes, place: Place) -> tuple[bytes, bytes]:
    both = derived(agreed, place.label("box key"), _KEY_BYTES + _NONCE_BYTES)
    return both[:_KEY_BYTES], both[_KEY_BYTES:]
