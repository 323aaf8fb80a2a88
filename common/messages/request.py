"""A site's request to be on the roster: its public keys, signed by the key it asks for.

That proves only that the sender holds the key. Whether the sender is the site, two people find out by comparing
fingerprints; when a site changes its keys, its old key signs the request too, and says so.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from common.errors import Code, FedReasonError
from common.identity.keys import fingerprint, public_text, sign, signature, signature_holds, unverified, verified
from common.identity.roster import Fingerprints, Name, NodeKey, SigningKey
from common.toml import Strict

KIND = "request"
_HANDOVER = "handover"


class Handover(Strict):
    """The old key's word for the new keys."""

    by: SigningKey
    signature: str


class Request(Strict):
    """Content of request.json."""

    federation: Name
    site: Name
    signing_key: SigningKey
    node_key: NodeKey
    made: datetime
    handover: Handover | None = None

    @property
    def fingerprints(self) -> Fingerprints:
        """Fingerprints of both keys."""
        return Fingerprints(fingerprint(self.signing_key), fingerprint(self.node_key))

    def handed_over(self, old: Ed25519PrivateKey) -> Request:
        """Return the request with the old key's signature."""
        said = Handover(by=public_text(old), signature=signature(self._handed(), old, kind=_HANDOVER))
        return self.model_copy(update={"handover": said})

    def is_handed_over_by(self, old: str) -> bool:
        """Whether the public key `old` signed these new keys."""
        return self.handover is not None and signature_holds(
            self._handed(), self.handover.signature, kind=_HANDOVER, signer=old
        )

    def _handed(self) -> dict[str, object]:
        return self.model_dump(mode="json", exclude={"handover"})


def sign_request(request: Request, key: Ed25519PrivateKey) -> str:
    """Return the text of `request.json`."""
    return sign(request.model_dump(mode="json"), key, kind=KIND)


def read_request(path: Path) -> Request:
    """Read a request and check its signature by the key it asks for.

    Raises
    ------
    FedReasonError
        Where it cannot be read, lacks or misstates something, or was changed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise bad_request(path, f"cannot be read ({type(error).__name__})") from None
    document = unverified(text, kind=KIND, where=str(path), code=Code.REQUEST_BAD)
    try:
        request = Request.model_validate_json(json.dumps(document))
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, p['loc'])) or 'the whole'}: {p['msg']}" for p in error.errors())
        raise bad_request(path, f"is not a request of this version of fedreason: {told}") from None
    verified(text, kind=KIND, signer=request.signing_key, where=str(path), code=Code.REQUEST_BAD)
    return request


def bad_request(path: Path, what: str, fix: str = "Ask the site for its request.json once more.") -> FedReasonError:
    """Return the refusal of a request."""
    return FedReasonError(Code.REQUEST_BAD, f"{path} {what}.", fix)
