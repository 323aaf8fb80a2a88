"""What a kit holds, and the coordinator's signature over all of it.

Comparing one fingerprint, the coordinator's, therefore settles that the CA and the codebook are the coordinator's too,
and which of the files that a site may edit are not as the coordinator made them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from common.errors import Code, FedReasonError
from common.identity.keys import read_public, sign, verified
from common.identity.roster import Name
from common.toml import Strict

KIND = "kit"
MANIFEST = "kit.json"
COORDINATOR_KEY = "coordinator.pub"
CA = "ca.crt"
CODEBOOK = "codebook.toml"
EDITABLE = ("site.toml", "policy.toml", "README.txt")
SEALED = (CA, CODEBOOK)


class Kit(Strict):
    """Content of kit.json: whose kit it is, and SHA-256 of its files; an earlier version signed the sealed alone."""

    federation: Name
    site: Name
    sha256: dict[str, str]


def sign_kit(federation: str, site: str, files: Mapping[str, bytes], key: Ed25519PrivateKey) -> str:
    """Return the text of `kit.json` for these files."""
    kit = Kit(federation=federation, site=site, sha256={name: _sha256(files[name]) for name in (*SEALED, *EDITABLE)})
    return sign(kit.model_dump(mode="json"), key, kind=KIND)


def read_kit(folder: Path) -> Kit:
    """Read a kit and check it against the coordinator's key that it brings; whose key that is, people must compare.

    Raises
    ------
    FedReasonError
        CONFIG_MISSING or KEY_MISSING where a file is missing, ROSTER_SIGNATURE where one is not the coordinator's.
    """
    missing = [
        name
        for name in (MANIFEST, COORDINATOR_KEY, *SEALED, "site.toml", "policy.toml")
        if not (folder / name).is_file()
    ]
    if missing:
        raise FedReasonError(
            Code.CONFIG_MISSING,
            f"{folder} is not a whole kit: {', '.join(missing)} is missing.",
            "Copy the kit from the coordinator once more.",
        )
    path = folder / MANIFEST
    text = path.read_text(encoding="utf-8", errors="replace")
    document = verified(text, kind=KIND, signer=read_public(folder / COORDINATOR_KEY), where=str(path))
    try:
        kit = Kit.model_validate(document)
    except ValidationError:
        raise FedReasonError(
            Code.ROSTER_SIGNATURE, f"{path} is of another version.", "Install the coordinator's version of fedreason."
        ) from None
    changed = [name for name in SEALED if kit.sha256.get(name) != _sha256((folder / name).read_bytes())]
    if changed:
        raise FedReasonError(
            Code.ROSTER_SIGNATURE,
            f"{', '.join(str(folder / name) for name in changed)} is not the file that the coordinator put in the kit.",
            "Copy the kit from the coordinator once more; it may have been changed on its way.",
        )
    return kit


def to_be_read(folder: Path) -> list[str]:
    """Say which files of a kit, or of a site made of it, somebody has to read: they are not as they were signed.

    Raises
    ------
    FedReasonError
        As `read_kit` does.
    """
    signed, told = read_kit(folder).sha256, []
    for path in (folder / name for name in EDITABLE):
        if path.name not in signed:
            told.append(f"{path} may have been changed, for the kit is of a version that did not sign it")
        elif path.is_file() and _sha256(path.read_bytes()) != signed[path.name]:
            told.append(f"{path} was changed since the coordinator made it")
    return [f"{one}: read it before you go on." for one in told]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
