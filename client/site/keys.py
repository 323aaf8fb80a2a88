"""A site's private keys: made here, kept here, and put in place of the ones before once a roster lists them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.identity.keys import (
    load_node_key,
    load_signing_key,
    new_node_key,
    new_signing_key,
    private_folder,
    public_text,
    save_key,
    write_private,
)
from common.messages.request import Request, sign_request

REQUEST = "request.json"
SIGNING, NODE = "signing", "node"


class Keys(NamedTuple):
    """A site's public keys, in OpenSSH form."""

    signing: str
    node: str


def make_request(
    folder: Path, keys: Path, federation: str, site: str, *, replaces: Ed25519PrivateKey | None = None
) -> Request:
    """Make keys and write request.json for them."""
    signing, node = new_signing_key(), new_node_key()
    save_key(keys / SIGNING, signing, f"{site}@{federation}")
    save_key(keys / NODE, node, f"{site}@{federation}")
    request = Request(
        federation=federation,
        site=site,
        signing_key=public_text(signing),
        node_key=public_text(node),
        made=datetime.now(UTC).replace(microsecond=0),
    )
    if replaces is not None:
        request = request.handed_over(replaces)
    write_private(folder / REQUEST, sign_request(request, signing).encode())
    return request


def own_keys(folder: Path) -> Keys:
    """Return the public halves of the keys that the site uses.

    Raises
    ------
    FedReasonError
        KEY_MISSING or KEY_PERMISSIONS.
    """
    keys = folder / "keys"
    return Keys(public_text(load_signing_key(keys / SIGNING)), public_text(load_node_key(keys / NODE)))


def next_keys(folder: Path) -> Keys | None:
    """Return the keys that `rotate` made; where putting them to use was interrupted, some are in place already."""
    keys, waiting = folder / "keys", folder / "keys" / "next"
    if not waiting.exists():
        return None
    signing, node = (waiting / name if (waiting / name).exists() else keys / name for name in (SIGNING, NODE))
    return Keys(public_text(load_signing_key(signing)), public_text(load_node_key(node)))


def use_next_keys(folder: Path) -> None:
    """Put the keys of keys/next in place and the old ones aside; done again, it finishes what was interrupted."""
    keys, waiting = folder / "keys", folder / "keys" / "next"
    former = max((path.name for path in keys.glob("old-*")), default="")
    now = f"old-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
    aside = keys / (now if now > former else f"{former}-")  # in order, also where the clock was set back
    private_folder(aside)
    for name in (SIGNING, NODE, f"{SIGNING}.pub", f"{NODE}.pub"):
        if (waiting / name).exists():
            if (keys / name).exists():
                (keys / name).rename(aside / name)
            (waiting / name).rename(keys / name)
    waiting.rmdir()
