"""The federation's own CA and the server certificate that it signs: made, renewed, and watched for their expiry.

Sites trust this CA and no other, so a renewed server certificate needs nothing done at a site.
"""

from __future__ import annotations

import ipaddress
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.errors import Code, FedReasonError
from common.identity.keys import private_folder, require_private, write_private
from server.provisioning.federation import Federation

CA_DAYS = 3650
SERVER_DAYS = 397
WARN_DAYS = {"CA": 180, "server": 30}
"""A new CA means a new kit for every site; a new server certificate, one command."""
_LOOPBACK = "127.0.0.1"
_NAMES = ("localhost", _LOOPBACK)
"""Where the reverse proxy, the CLI and the superexec find the SuperLink."""
_ANSWER_SECONDS, _SERVED_SECONDS = 1.0, 60.0
_CLOCKS_APART = timedelta(hours=1)
_COMMON_NAME = 64


@dataclass(frozen=True)
class Issued:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: EllipticCurvePrivateKey

    def save(self, certificate: Path, key: Path) -> None:
        """Write both as PEM, for their owner alone."""
        content = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_private(key, content)
        write_private(certificate, self.certificate.public_bytes(serialization.Encoding.PEM))


def new_ca(federation: str, *, now: datetime | None = None) -> Issued:
    """Make a self-signed CA on P-384 for ten years."""
    key = generate_private_key(SECP384R1())
    name = _named(f"FedReason {federation} CA")
    builder = _builder(name, name, key, now or datetime.now(UTC), timedelta(days=CA_DAYS))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
    return Issued(builder.sign(key, hashes.SHA384()), key)


def new_server_certificate(ca: Issued, hosts: Sequence[str], *, now: datetime | None = None) -> Issued:
    """Make a server certificate for these hosts and loopback, for 397 days or as long as the CA lasts."""
    key = generate_private_key(SECP384R1())
    start = now or datetime.now(UTC)
    lasts = min(timedelta(days=SERVER_DAYS), ca.certificate.not_valid_after_utc - start)
    builder = _builder(_named(hosts[0]), ca.certificate.subject, key, start, lasts)
    names = [_general(host) for host in dict.fromkeys([*hosts, *_NAMES])]
    signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(digital_signature=True), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(signer, critical=False)
    return Issued(builder.sign(ca.key, hashes.SHA384()), key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, start: datetime, lasts: timedelta
) -> x509.CertificateBuilder:
    """Begin a certificate; it is valid from an hour ago, since clocks differ."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - _CLOCKS_APART)
        .not_valid_after(start + lasts)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:_COMMON_NAME])])


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def certificate_fingerprint(certificate: x509.Certificate) -> str:
    """Return the SHA-256 fingerprint as `openssl x509 -fingerprint -sha256` prints it."""
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def load_certificate(path: Path) -> x509.Certificate:
    """Read a PEM certificate; KEY_MISSING where there is none."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise FedReasonError(
            Code.KEY_MISSING, f"{path} holds no certificate ({type(error).__name__}).", "Put it back from a backup."
        ) from None


def _load_key(path: Path) -> EllipticCurvePrivateKey:
    require_private(path)
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError):
        key = None
    if not isinstance(key, EllipticCurvePrivateKey):
        raise FedReasonError(Code.KEY_MISSING, f"{path} holds no private key.", "Put it back from a backup.")
    return key


def renew_server_certificate(federation: Federation, *, now: datetime | None = None) -> Path:
    """Make a new server certificate and key from the same CA; return the folder that the old ones were copied to.

    Raises
    ------
    FedReasonError
        Where the CA or its key is missing or expired.
    """
    moment = now or datetime.now(UTC)
    with federation.locked():
        ca = Issued(load_certificate(federation.ca_certificate), _load_key(federation.ca_key))
        _require(federation.ca_certificate, ca.certificate, moment)
        new = new_server_certificate(ca, federation.config.hosts, now=moment)
        aside = federation.certificates / f"old-{moment:%Y%m%dT%H%M%S%f}"
        private_folder(aside)
        for path in (federation.server_certificate, federation.server_key):
            if path.exists():
                write_private(aside / path.name, path.read_bytes())
        new.save(federation.server_certificate, federation.server_key)
    return aside


def _each(federation: Federation) -> list[tuple[str, Path, x509.Certificate]]:
    places = (("CA", federation.ca_certificate), ("server", federation.server_certificate))
    return [(what, path, load_certificate(path)) for what, path in places]


def expiries(federation: Federation) -> dict[str, datetime]:
    """Return until when each certificate is valid; KEY_MISSING where there is none."""
    return {what: found.not_valid_after_utc for what, _, found in _each(federation)}


def certificate_lines(federation: Federation, *, now: datetime | None = None) -> list[str]:
    """Say of each certificate until when it is valid, for whom, and its fingerprint."""
    lines = []
    for what, _, found in _each(federation):
        days = (found.not_valid_after_utc - (now or datetime.now(UTC))).days
        until = f"until {found.not_valid_after_utc:%Y-%m-%d} ({days} days)"
        lines += [f"{what:<8}{until}", f"        SHA-256 {certificate_fingerprint(found)}"]
        if names := _names(found):
            lines.append(f"        for {', '.join(names)}")
    return lines


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in names]


def expiry_warnings(federation: Federation, *, now: datetime | None = None) -> list[str]:
    """Warn of each certificate that has expired, soon expires, or is not for the hosts of federation.toml."""
    moment = now or datetime.now(UTC)
    told = []
    for what, path, found in _each(federation):
        left = found.not_valid_after_utc - moment
        remedy = _remedy(path)
        if left <= timedelta(0):
            told.append(f"The {what} certificate expired on {found.not_valid_after_utc:%Y-%m-%d}. {remedy}")
        elif left <= timedelta(days=WARN_DAYS[what]):
            told.append(f"The {what} certificate expires in {left.days} days. {remedy}")
    missing = sorted(set(federation.config.hosts) - set(_names(load_certificate(federation.server_certificate))))
    if missing:
        told.append(f"The server certificate is not for {', '.join(missing)}. {_remedy(federation.server_certificate)}")
    return told


def stale_warnings(federation: Federation) -> list[str]:
    """Warn of each program on this machine that still serves a certificate of before, by what it serves.

    A renewed file says nothing of it: nginx and the SuperLink read theirs when they start.
    """
    own, ca = load_certificate(federation.server_certificate), load_certificate(federation.ca_certificate)
    told = []
    for program, port in (("nginx", federation.config.port), ("The SuperLink", federation.config.superlink_port)):
        found = _served(port, int(time.monotonic() / _SERVED_SECONDS))
        if found is not None and found != own and _issued(found, ca):
            until = f"{found.not_valid_after_utc:%Y-%m-%d}"
            told.append(
                f"{program} serves another certificate than {federation.server_certificate.name}, good until {until}: "
                "reload nginx (-s reload) and start `up` again; in containers restart both."
            )
    return told


def _issued(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    """Whether a certificate is of this federation; another program's says nothing of it."""
    try:
        certificate.verify_directly_issued_by(ca)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


@lru_cache(maxsize=8)
def _served(port: int, minute: int) -> x509.Certificate | None:
    """Return the certificate that is served on a port of this machine; None where none is. Looked at once a minute."""
    try:
        text = ssl.get_server_certificate((_LOOPBACK, port), timeout=_ANSWER_SECONDS)
        return x509.load_pem_x509_certificate(text.encode())
    except (OSError, ValueError):
        return None


def require_valid_certificates(federation: Federation, *, now: datetime | None = None) -> None:
    """Refuse to work with certificates that have expired or are not valid yet, or whose key is another.

    Raises
    ------
    FedReasonError
        CERTIFICATE_EXPIRED, KEY_MISSING or KEY_PERMISSIONS.
    """
    for _, path, found in _each(federation):
        _require(path, found, now or datetime.now(UTC))
    if load_certificate(federation.server_certificate).public_key() != _load_key(federation.server_key).public_key():
        raise FedReasonError(
            Code.KEY_MISSING,
            f"{federation.server_key} is not the key of {federation.server_certificate.name}.",
            _remedy(federation.server_certificate),
        )


def _require(path: Path, certificate: x509.Certificate, now: datetime) -> None:
    if now > certificate.not_valid_after_utc:
        raise FedReasonError(
            Code.CERTIFICATE_EXPIRED, f"{path} expired on {certificate.not_valid_after_utc:%Y-%m-%d}.", _remedy(path)
        )
    if now < certificate.not_valid_before_utc:
        raise FedReasonError(
            Code.CERTIFICATE_EXPIRED,
            f"{path} is valid only from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC.",
            "Set this machine's clock right.",
        )


def _remedy(path: Path) -> str:
    if path.name == "ca.crt":
        return "Provision the federation anew, in time: every site needs a new kit."
    return "Renew it by `python -m server certificates --renew`, then start nginx and the SuperLink again."
