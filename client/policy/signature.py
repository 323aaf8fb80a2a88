"""The privacy officer's signature of policy.toml: a key of their own, pinned in the site folder as officer.pub.

The private key need not be on the site's machine. The signature covers the file's bytes, so values that the file leaves
out are those of the installed version. Who can replace officer.pub needs no signature: keep the folder the site's own.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import AwareDatetime, ValidationError

from client.site.decisions import decided
from common.errors import Code, FedReasonError
from common.identity.keys import (
    fingerprint,
    new_signing_key,
    private_folder,
    public_text,
    read_public,
    save_key,
    sign,
    signing_public_key,
    verified,
    write_private,
)
from common.toml import Strict

OFFICER_KEY = "officer.pub"
KIND = "policy"
_SIGN_AGAIN = (
    "Have the privacy officer read and sign the file (`python -m client policy sign`), or put the signed one back."
)


class SignedPolicy(Strict):
    """What is signed: the hash of the policy file, and when."""

    sha256: str
    signed: AwareDatetime


@dataclass(frozen=True)
class Approval:
    """Whose signature holds, by fingerprint, and when it was made by the clock of their machine."""

    officer: str
    signed: datetime


def new_officer_key(path: Path) -> str:
    """Make an officer's key at `path` (0600), its public half at `path`.pub, and return its fingerprint.

    The folder that it is made in is left as it is; one that is missing is made for the owner alone.

    Raises
    ------
    FedReasonError
        KIT_EXISTS where either file exists.
    """
    names = (path.name, f"{path.name}.pub")
    for name in names:
        if os.path.lexists(path.with_name(name)):
            raise FedReasonError(
                Code.KIT_EXISTS,
                f"{path.with_name(name)} exists; a key is never overwritten.",
                "Keep it, or name another file.",
            )
    if not path.parent.exists():
        private_folder(path.parent)
    key = new_signing_key()
    with TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as fresh:
        save_key(Path(fresh) / path.name, key, "privacy officer")
        for name in names:
            (Path(fresh) / name).rename(path.with_name(name))
    return fingerprint(public_text(key))


def signature_file(path: Path) -> Path:
    """Return where the signature of a policy file stands: beside it, `policy.toml.sig`."""
    return path.with_name(f"{path.name}.sig")


def sign_policy(path: Path, content: bytes, key: Ed25519PrivateKey) -> Path:
    """Write the signature of a policy file with this content beside it, and return where."""
    said = SignedPolicy(sha256=hashlib.sha256(content).hexdigest(), signed=datetime.now(UTC).replace(microsecond=0))
    write_private(signature_file(path), sign(said.model_dump(mode="json"), key, kind=KIND).encode())
    return signature_file(path)


def pin_officer(folder: Path, public: Path, *, replace: bool = False) -> str:
    """Pin an officer's public key in a site folder, and return its fingerprint: from now on their signature is needed.

    Raises
    ------
    FedReasonError
        KEY_MISSING where the file holds no Ed25519 public key, KIT_EXISTS where another one is pinned already and
        `replace` is false.
    """
    text = _officer_key(public)
    pinned = folder / OFFICER_KEY
    if os.path.lexists(pinned) and not replace and pinned_officer(folder) != text:
        raise FedReasonError(
            Code.KIT_EXISTS,
            f"{pinned} holds another officer's key.",
            "Add --replace if the officer changed, and ask both of them first.",
        )
    before = _pinned_fingerprint(folder)
    if before != fingerprint(text):
        decided(folder, "officer", before=before, after=fingerprint(text))
    write_private(pinned, f"{text}\n".encode())
    return fingerprint(text)


def _pinned_fingerprint(folder: Path) -> str | None:
    """Return which key is pinned; None where there is none, or a file that holds none."""
    try:
        text = pinned_officer(folder)
    except FedReasonError:
        return None
    return None if text is None else fingerprint(text)


def pinned_officer(folder: Path) -> str | None:
    """Return the pinned officer's public key in OpenSSH form, None where there is none.

    Raises
    ------
    FedReasonError
        POLICY_SIGNATURE where there is a file that holds no such key.
    """
    pinned = folder / OFFICER_KEY
    if not os.path.lexists(pinned):
        return None
    try:
        return _officer_key(pinned)
    except FedReasonError as error:
        fix = "Pin the officer's public key again: python -m client policy trust --replace."
        raise FedReasonError(Code.POLICY_SIGNATURE, error.found, fix) from None


def approval(folder: Path, path: Path, content: bytes) -> Approval | None:
    """Return who signed a policy file with this content; None where the site folder pins no officer.

    Raises
    ------
    FedReasonError
        POLICY_SIGNATURE where an officer is pinned and did not sign exactly these bytes.
    """
    officer = pinned_officer(folder)
    if officer is None:
        return None
    sealed = signature_file(path)
    try:
        text = sealed.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        what = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({type(error).__name__})"
        raise FedReasonError(
            Code.POLICY_SIGNATURE, f"{sealed} {what}, and {folder / OFFICER_KEY} demands a signature.", _SIGN_AGAIN
        ) from None
    try:
        document = verified(text, kind=KIND, signer=officer, where=str(sealed), code=Code.POLICY_SIGNATURE)
        said = SignedPolicy.model_validate_json(json.dumps(document))
    except FedReasonError as error:
        raise FedReasonError(Code.POLICY_SIGNATURE, error.found, _SIGN_AGAIN) from None
    except ValidationError:
        raise FedReasonError(Code.POLICY_SIGNATURE, f"{sealed} is of another version.", _SIGN_AGAIN) from None
    found = hashlib.sha256(content).hexdigest()
    if said.sha256 != found:
        raise FedReasonError(
            Code.POLICY_SIGNATURE,
            f"{path} ({found[:12]}) is not the file that the officer signed on {said.signed:%Y-%m-%d} "
            f"({said.sha256[:12]}).",
            _SIGN_AGAIN,
        )
    return Approval(fingerprint(officer), said.signed.astimezone(UTC))


def _officer_key(path: Path) -> str:
    text = read_public(path)
    try:
        signing_public_key(text)
    except ValueError:
        raise FedReasonError(
            Code.KEY_MISSING,
            f"{path} holds no Ed25519 public key.",
            "Make the officer's key by `python -m client policy keygen`.",
        ) from None
    return text
