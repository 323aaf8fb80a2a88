"""Where a ledger begins and how far it went, kept outside `state`: without it a removed ledger would be an empty one.

`client init` writes the first one, signed by the site's key; every charge writes it anew. A site made before there were
any gets one when its ledger is next opened, at the head that the ledger then has.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import AwareDatetime, Field, TypeAdapter, ValidationError

from common.errors import Code, FedReasonError
from common.identity.keys import sign, unverified, verified, write_private
from common.messages.heads import START, Head

ANCHOR = "ledger.json"
KIND = "anchor"


@dataclass(frozen=True)
class Anchor:
    """What stands outside `state` of a ledger.

    Parameters
    ----------
    ledger
        Its name, drawn when it was begun: by it a second ledger for the same records is told from this one.
    begun
        When, by the clock of the machine.
    first
        The head that it had then: 0 lines, or more where the site was made before there were anchors.
    head
        The head after the last charge.
    """

    ledger: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    begun: AwareDatetime
    first: Head
    head: Head


_ANCHOR: TypeAdapter[Anchor] = TypeAdapter(Anchor)


def new_anchor(head: Head = START) -> Anchor:
    """Return the anchor of a ledger that begins, or that had these lines before it had one."""
    return Anchor(secrets.token_hex(16), datetime.now(UTC).replace(microsecond=0), head, head)


def write_anchor(path: Path, anchor: Anchor, key: Ed25519PrivateKey) -> None:
    """Write an anchor, signed; it is on the disk when this returns."""
    document = asdict(anchor) | {"begun": anchor.begun.isoformat()}
    write_private(path, sign(document | {"first": [*anchor.first], "head": [*anchor.head]}, key, kind=KIND).encode())


def read_anchor(path: Path, keys: Sequence[str]) -> Anchor | None:
    """Return an anchor, None where there is none.

    Parameters
    ----------
    keys
        Public keys of the site, of which one has signed it.

    Raises
    ------
    FedReasonError
        LEDGER_DAMAGED where it cannot be read, or none of these keys signed it.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _damaged(path, f"cannot be read ({type(error).__name__})") from None
    unverified(text, kind=KIND, where=str(path), code=Code.LEDGER_DAMAGED)
    for key in keys:
        try:
            document = verified(text, kind=KIND, signer=key, where=str(path), code=Code.LEDGER_DAMAGED)
        except FedReasonError:
            continue
        try:
            return _ANCHOR.validate_python(document)
        except ValidationError:
            raise _damaged(path, "is of another version") from None
    raise _damaged(path, "is signed by none of the keys of this site")


def require_reaches(heads: Sequence[Head], known: Head, ledger: Path, seen_by: str) -> None:
    """Refuse a ledger that is gone, shorter or another than what is known of it.

    Parameters
    ----------
    heads
        Of the ledger as it is, from START.
    known
        How far it is known to have gone.
    ledger, seen_by
        Where it is, and who knows, for the message.

    Raises
    ------
    FedReasonError
        LEDGER_ROLLED_BACK.
    """
    last = heads[-1].sequence
    if known.sequence < len(heads) and heads[known.sequence] == known:
        return
    if not last:
        found = f"{ledger} is gone or empty; {seen_by} saw {known.sequence:,} lines"
    elif last < known.sequence:
        found = f"{ledger} ends at line {last:,}; {seen_by} saw {known.sequence:,}"
    else:
        found = f"{ledger} has another line {known.sequence:,} than the one that {seen_by} saw"
    raise FedReasonError(
        Code.LEDGER_ROLLED_BACK,
        f"{found}.",
        "Nothing is released until the latest ledger is back: without it the same budget would be spent twice. "
        "Tell the privacy officer.",
    )


def _damaged(path: Path, what: str) -> FedReasonError:
    return FedReasonError(
        Code.LEDGER_DAMAGED,
        f"{path} {what}.",
        "Nothing is released until it is put right. Keep it and state/ledger as they are and tell the privacy officer.",
    )
