"""The roster: who belongs to a federation and with which keys, signed by the coordinator, accepted at each site.

It is the root of trust. Every change is a new version, and counts at a site only after its fingerprints were compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import date, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import AfterValidator, Field, ValidationError, model_validator

from common.errors import Code, FedReasonError
from common.identity.keys import (
    PublicKey,
    canonical,
    fingerprint,
    node_public_key,
    public_text,
    sign,
    signing_public_key,
    verified,
)
from common.toml import Strict

KIND = "roster"


def _one_text(read: Callable[[str], PublicKey]) -> Callable[[str], str]:
    """Check a key; it must be written in the one way that has no comment, so that equal keys are equal texts."""

    def check(text: str) -> str:
        if public_text(read(text)) != text:
            raise ValueError("a key is written without a comment")
        return text

    return check


SigningKey = Annotated[str, AfterValidator(_one_text(signing_public_key))]
NodeKey = Annotated[str, AfterValidator(_one_text(node_public_key))]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]


class Fingerprints(NamedTuple):
    """What two people compare: the keys of one site as `ssh-keygen -lf` prints them."""

    signing: str
    node: str


class Member(Strict):
    """A site and its public keys, in OpenSSH form."""

    site: Name
    signing_key: SigningKey
    node_key: NodeKey
    admitted: date

    @property
    def fingerprints(self) -> Fingerprints:
        """Fingerprints of both keys."""
        return Fingerprints(fingerprint(self.signing_key), fingerprint(self.node_key))


class Roster(Strict):
    """The members, by name."""

    federation: Name
    version: int = Field(ge=1)
    issued: datetime
    members: tuple[Member, ...]

    @model_validator(mode="after")
    def _each_once(self) -> Roster:
        for what in ("site", "signing_key", "node_key"):
            values = [getattr(member, what) for member in self.members]
            if len(set(values)) < len(values):
                raise ValueError(f"two members have the same {what}")
        return self

    def document(self) -> dict[str, Any]:
        """Return what is signed."""
        return self.model_dump(mode="json")

    @cached_property
    def sha256(self) -> str:
        """Hash of the document; tasks carry it, so that a site works only for the roster it accepted."""
        return hashlib.sha256(canonical(self.document())).hexdigest()

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the members."""
        return tuple(member.site for member in self.members)

    def member(self, site: str) -> Member | None:
        """Return a site's entry."""
        return next((member for member in self.members if member.site == site), None)


class Row(NamedTuple):
    """One line of a comparison of two rosters."""

    site: str
    change: Literal["same", "new", "changed", "removed"]
    fingerprints: Fingerprints
    admitted: date


def compare(old: Roster | None, new: Roster) -> list[Row]:
    """Say by site what `new` changes; None as `old` makes every site new."""
    before = {member.site: member for member in old.members} if old else {}
    rows = [Row(m.site, _change(before.get(m.site), m), m.fingerprints, m.admitted) for m in new.members]
    gone = [member for member in before.values() if member.site not in new.sites]
    rows += [Row(m.site, "removed", m.fingerprints, m.admitted) for m in gone]
    return sorted(rows, key=lambda row: row.site)


def _change(old: Member | None, new: Member) -> Literal["same", "new", "changed"]:
    if old is None:
        return "new"
    return "same" if old.fingerprints == new.fingerprints else "changed"


def sign_roster(roster: Roster, key: Ed25519PrivateKey) -> str:
    """Return the text of `roster.json`."""
    return sign(roster.document(), key, kind=KIND)


def read_roster(source: Path | str, signer: str, *, where: str = "The roster that was received") -> Roster:
    """Read a signed roster from a file or from its text.

    Parameters
    ----------
    source
        A path, or the text itself.
    signer
        The coordinator's public key.
    where
        What an error calls a text; a path names itself.

    Raises
    ------
    FedReasonError
        Where there is none, or it is not one that the coordinator signed.
    """
    where = str(source) if isinstance(source, Path) else where
    document = verified(_text(source), kind=KIND, signer=signer, where=where)
    try:
        roster = Roster.model_validate(document)
    except ValidationError as error:
        raise FedReasonError(
            Code.ROSTER_SIGNATURE,
            f"{where} is signed, but is no roster: {_problems(error)}.",
            "Install the coordinator's version of fedreason.",
        ) from None
    return roster


def _text(source: Path | str) -> str:
    if isinstance(source, str):
        return source
    try:
        return source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FedReasonError(
            Code.ROSTER_MISSING,
            f"{source} cannot be read ({type(error).__name__}).",
            "A site: accept a roster of the coordinator. The coordinator: admit a site.",
        ) from None


def _problems(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, p['loc'])) or 'the whole'}: {p['msg']}" for p in error.errors())
