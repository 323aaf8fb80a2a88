"""What travels in the five exchanges of a secure sum, and its form on the wire: a head of JSON and one array at most.

    exchange      coordinator to each site                   site to coordinator
    1 advertise   Opening                                    Advertisement: fresh public keys, signed
    2 share       Directory: everybody's keys                Shares: a box for every site
    3 mask        Inbox: the boxes of those who shared       Masked: the site's masked sum
    4 consent     Survivors: whose masked sums are added     Consent: a signature on that set and all before it
    5 reveal      Consents: the survivors' signatures        Revealed: for every site one of its two shares

Nothing in them is secret from the coordinator, and nothing that it changes goes unnoticed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass as plain
from typing import Annotated, Any

from numpy.typing import NDArray
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from common.errors import Code, FedReasonError
from common.identity.roster import Name
from common.messages.parts import Parts
from common.secagg.masks import WORDS, Residues
from common.secagg.shamir import SHARE_BYTES

_MOST_SITES = 200
_TAG_BYTES = 16
_WORDS = "words"

Hash = Annotated[bytes, Field(min_length=32, max_length=32)]
Key = Annotated[bytes, Field(min_length=32, max_length=32)]
Box = Annotated[bytes, Field(min_length=SHARE_BYTES + _TAG_BYTES, max_length=SHARE_BYTES + _TAG_BYTES)]
Share = Annotated[bytes, Field(min_length=SHARE_BYTES, max_length=SHARE_BYTES)]
Signature = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{86}==$")]
_FEW = Field(max_length=_MOST_SITES)
_FORM = ConfigDict(extra="forbid", ser_json_bytes="hex", val_json_bytes="hex")


@dataclass(frozen=True, config=_FORM)
class Opening:
    """The coordinator asks for keys."""

    session: Hash


@dataclass(frozen=True, config=_FORM)
class Advertisement:
    """A site's two X25519 keys and a commitment to the seed of its own mask, signed for this session."""

    session: Hash
    site: Name
    mask_key: Key
    envelope_key: Key
    seed: Hash
    signature: Signature


@dataclass(frozen=True, config=_FORM)
class Directory:
    """The cohort: all who advertised."""

    session: Hash
    advertisements: Annotated[tuple[Advertisement, ...], _FEW]


@dataclass(frozen=True, config=_FORM)
class Sealed:
    """A share that one site alone can open, and a commitment to it."""

    box: Box
    commitment: Hash


@dataclass(frozen=True, config=_FORM)
class Boxes:
    """Shares of a site's two secrets for one holder."""

    seed: Sealed
    key: Sealed


@dataclass(frozen=True, config=_FORM)
class Shares:
    """A site's boxes for every site of the cohort, itself included, by holder."""

    session: Hash
    site: Name
    boxes: Annotated[dict[Name, Boxes], _FEW]


@dataclass(frozen=True, config=_FORM)
class Inbox:
    """The boxes for one site by sender; the senders are those who shared (U1)."""

    session: Hash
    boxes: Annotated[dict[Name, Boxes], _FEW]


@plain(frozen=True)
class Masked:
    """A site's masked sum [size]."""

    session: bytes
    site: str
    words: Residues


@dataclass(frozen=True, config=_FORM)
class Survivors:
    """Whose masked sums are added (U2), and the SHA-256 of each."""

    session: Hash
    inputs: Annotated[dict[Name, Hash], _FEW]


@dataclass(frozen=True, config=_FORM)
class Consent:
    """A survivor's signature on everything that the sum depends on."""

    session: Hash
    site: Name
    signature: Signature


@dataclass(frozen=True, config=_FORM)
class Consents:
    """The survivors' signatures."""

    session: Hash
    signatures: Annotated[dict[Name, Signature], _FEW]


@dataclass(frozen=True, config=_FORM)
class Revealed:
    """For each site that shared, one share that the sender held: of a survivor's seed, or of a lost site's key."""

    session: Hash
    site: Name
    shares: Annotated[dict[Name, Share], _FEW]


ToSite = Opening | Directory | Inbox | Survivors | Consents
ToServer = Advertisement | Shares | Masked | Consent | Revealed
Message = ToSite | ToServer


@dataclass(frozen=True, config=_FORM)
class _MaskedHead:
    session: Hash
    site: Name


_ADAPTERS: dict[str, TypeAdapter[Any]] = {
    kind.__name__.lower(): TypeAdapter(kind)
    for kind in (Opening, Advertisement, Directory, Shares, Inbox, Survivors, Consent, Consents, Revealed)
} | {"masked": TypeAdapter(_MaskedHead)}


def parts_of(message: Message) -> Parts:
    """Take a message apart."""
    kind = type(message).__name__.lower()
    content: Any = message
    arrays: dict[str, NDArray[Any]] = {}
    if isinstance(message, Masked):
        content, arrays = _MaskedHead(message.session, message.site), {_WORDS: message.words}
    return Parts({"kind": kind, "message": _ADAPTERS[kind].dump_python(content, mode="json")}, arrays)


def message_of(head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Message:
    """Put a message together.

    Raises
    ------
    FedReasonError
        RUN_REPLY where the parts are not those of a message.
    """
    try:
        kind = str(head["kind"])
        message: Any = _ADAPTERS[kind].validate_json(json.dumps(head["message"]))
        if isinstance(message, _MaskedHead):
            words = arrays[_WORDS]
            if words.ndim != 1 or words.dtype not in WORDS.values():
                raise ValueError
            message = Masked(message.session, message.site, words)
        elif arrays:
            raise ValueError
    except (KeyError, TypeError, ValueError, ValidationError):
        raise FedReasonError(
            Code.RUN_REPLY,
            "A message of secure aggregation has another form.",
            "Install the same version of fedreason everywhere.",
        ) from None
    result: Message = message
    return result
