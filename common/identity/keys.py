"""Keys and signatures: Ed25519 signs, P-384 is a site's key at the SuperLink; both in the form of OpenSSH.

A private key is written once, for its owner alone, and read only while nobody else can. A signature is over the kind of
document and its canonical JSON, so that no document passes for one of another kind.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP384R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from common.errors import Code, FedReasonError

PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey
PublicKey = Ed25519PublicKey | EllipticCurvePublicKey

BYTE_ORDER_MARK = "\ufeff"
"""What editors of Windows put before a text: it is no part of what was signed."""
_OTHERS = 0o077
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def new_signing_key() -> Ed25519PrivateKey:
    """Make an Ed25519 key."""
    return Ed25519PrivateKey.generate()


def new_node_key() -> EllipticCurvePrivateKey:
    """Make a key on NIST P-384, the curve that Flower's node authentication wants."""
    return generate_private_key(SECP384R1())


def public_text(key: PrivateKey | PublicKey) -> str:
    """Return the public half on one OpenSSH line without a comment."""
    public = key.public_key() if isinstance(key, PrivateKey) else key
    return public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def fingerprint(text: str) -> str:
    """Return the fingerprint of an OpenSSH public key as `ssh-keygen -lf` prints it."""
    digest = hashlib.sha256(base64.b64decode(text.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def signing_public_key(text: str) -> Ed25519PublicKey:
    """Read an OpenSSH line as an Ed25519 key; ValueError where it is none."""
    key = _public_key(text)
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("not an Ed25519 public key in OpenSSH form")
    return key


def node_public_key(text: str) -> EllipticCurvePublicKey:
    """Read an OpenSSH line as a P-384 key; ValueError where it is none."""
    key = _public_key(text)
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP384R1):
        raise ValueError("not a P-384 public key in OpenSSH form")
    return key


def _public_key(text: str) -> object:
    try:
        return serialization.load_ssh_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        return None


def save_key(path: Path, key: PrivateKey, comment: str = "") -> None:
    """Write a private key to `path` (mode 0600) and its public half to `path`.pub.

    Raises
    ------
    FedReasonError
        Where either file exists: a key is never overwritten.
    """
    public = path.with_name(path.name + ".pub")
    for existing in (path, public):
        if existing.exists():
            raise _never_overwritten(existing)
    private_folder(path.parent)
    content = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    for file, written in ((path, content), (public, f"{public_text(key)} {comment}".strip().encode() + b"\n")):
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise _never_overwritten(file) from None
        _write(descriptor, written)
    sync_folder(path.parent)


def _never_overwritten(path: Path) -> FedReasonError:
    return FedReasonError(
        Code.KIT_EXISTS, f"{path} exists; a key is never overwritten.", "Keep it, or move it away if you must."
    )


def load_signing_key(path: Path) -> Ed25519PrivateKey:
    """Read an Ed25519 private key.

    Raises
    ------
    FedReasonError
        Where there is none, or others than the owner can read it.
    """
    key = _load(path)
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key(path, "is not an Ed25519 private key in OpenSSH form")
    return key


def load_node_key(path: Path) -> EllipticCurvePrivateKey:
    """Read a P-384 private key.

    Raises
    ------
    FedReasonError
        Where there is none, or others than the owner can read it.
    """
    key = _load(path)
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP384R1):
        raise _no_key(path, "is not a P-384 private key in OpenSSH form")
    return key


def require_private(path: Path) -> None:
    """Refuse a private key that is missing, or that others than its owner can read."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise _no_key(path, f"cannot be found ({type(error).__name__})") from None
    if mode & _OTHERS:
        raise FedReasonError(
            Code.KEY_PERMISSIONS,
            f"{path} is a private key that other users can reach (mode {mode & 0o777:04o}).",
            f"chmod 600 {path}; if others had access, make new keys.",
        )


def _load(path: Path) -> object:
    require_private(path)
    try:
        return serialization.load_ssh_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise _no_key(path, f"cannot be read ({type(error).__name__})") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None


def _no_key(path: Path, why: str) -> FedReasonError:
    return FedReasonError(
        Code.KEY_MISSING,
        f"{path} {why}.",
        "Put the key back from your backup; a site can make new ones (`python -m client rotate --lost`) and have them "
        "admitted.",
    )


def read_public(path: Path) -> str:
    """Return the public key in a .pub file, without its comment; KEY_MISSING where there is none."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise _no_key(path, f"cannot be read ({type(error).__name__})") from None
    key = _public_key(text)
    if not isinstance(key, PublicKey):
        raise _no_key(path, "is not a public key in OpenSSH form")
    return public_text(key)


def canonical(document: dict[str, Any]) -> bytes:
    """Return the one JSON text of a document: sorted keys, no spaces, ASCII."""
    return _CANONICAL.encode(document).encode("ascii")


def signature(document: dict[str, Any], key: Ed25519PrivateKey, *, kind: str) -> str:
    """Return the signature in base64."""
    return base64.b64encode(key.sign(_signed(document, kind))).decode()


def signature_holds(document: dict[str, Any], text: str, *, kind: str, signer: str) -> bool:
    """Whether `text` is the signature of `document` by the public key `signer`."""
    try:
        signing_public_key(signer).verify(base64.b64decode(text, validate=True), _signed(document, kind))
    except (InvalidSignature, ValueError, binascii.Error):
        return False
    return True


def _signed(document: dict[str, Any], kind: str) -> bytes:
    return f"fedreason/{kind}/1\n".encode() + canonical(document)


def sign(document: dict[str, Any], key: Ed25519PrivateKey, *, kind: str) -> str:
    """Return the text of a signed file: the document, its signature and who signed."""
    whole = {"document": document, "signature": signature(document, key, kind=kind), "by": public_text(key)}
    return json.dumps(whole, indent=1, sort_keys=True) + "\n"


def verified(text: str, *, kind: str, signer: str, where: str, code: Code = Code.ROSTER_SIGNATURE) -> dict[str, Any]:
    """Return the document of a signed file.

    Raises
    ------
    FedReasonError
        With `code`, where it is no signed file, is of another kind, is signed by another key, or was changed.
    """
    document, signed, by = _parts(text, kind, where, code)
    if by != signer or not signature_holds(document, signed, kind=kind, signer=signer):
        raise FedReasonError(
            code,
            f"{where} is not a {kind} that {_named(signer)} signed: it was changed, or another key signed it.",
            "Do not use it. Ask the sender, by telephone, whether it is theirs.",
        )
    return document


def unverified(text: str, *, kind: str, where: str, code: Code = Code.ROSTER_SIGNATURE) -> dict[str, Any]:
    """Return what a signed file says before anyone knows by which key to verify it."""
    return _parts(text, kind, where, code)[0]


def _parts(text: str, kind: str, where: str, code: Code) -> tuple[dict[str, Any], str, object]:
    try:
        whole = json.loads(text.removeprefix(BYTE_ORDER_MARK))
        document, signed, by = whole["document"], whole["signature"], whole["by"]
        formed = (
            set(whole) == {"document", "signature", "by"} and isinstance(document, dict) and isinstance(signed, str)
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        formed = False
    if not formed:
        raise FedReasonError(code, f"{where} is not a signed {kind}.", "Ask the sender for the file once more.")
    return document, signed, by


def _named(signer: str) -> str:
    try:
        return fingerprint(public_text(signing_public_key(signer)))
    except ValueError:
        return "an unreadable key"


def private_folder(path: Path) -> None:
    """Make a folder, and those missing above it, that its owner alone can enter (0700); tighten one that exists."""
    if not path.exists():
        if not path.parent.exists():
            private_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
    path.chmod(0o700)


def write_private(path: Path, content: bytes) -> None:
    """Write a file for its owner alone (0600); a crash leaves the old content or the new, never part of it."""
    descriptor, fresh = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        _write(descriptor, content)
        os.replace(fresh, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(fresh)
        raise
    sync_folder(path.parent)


def _write(descriptor: int, content: bytes) -> None:
    with open(descriptor, "wb") as stream:
        os.fchmod(descriptor, 0o600)
        stream.write(content)
        stream.flush()
        os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, after a file in it was made, replaced or removed."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
