"""Certificates: OpenSSL accepts them, sites trust no other, and their expiry is told in time."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.errors import Code
from common.identity.keys import (
    write_private,
)
from server.provisioning.certificates import (
    certificate_fingerprint,
    certificate_lines,
    expiry_warnings,
    load_certificate,
    new_ca,
    new_server_certificate,
    renew_server_certificate,
    require_valid_certificates,
)
from server.provisioning.federation import Federation
from tests.federations import (
    command,
    made,
    needs_openssl,
    refused,
    require_private,
)


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return made(tmp_path).federation


@needs_openssl
@pytest.mark.parametrize(
    "host",
    [["-verify_hostname", "coordinator.example"], ["-verify_hostname", "localhost"], ["-verify_ip", "127.0.0.1"]],
)
def test_openssl_verifies_the_chain_strictly_for_every_host(federation: Federation, host: list[str]) -> None:
    def verify(*words: object) -> int:
        fixed = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", federation.ca_certificate]
        return subprocess.run([*fixed, *words, federation.server_certificate], capture_output=True).returncode

    assert verify(*host) == 0
    assert verify("-verify_hostname", "evil.example") != 0
    assert verify("-verify_ip", "10.0.0.7") == 0


@needs_openssl
def test_openssl_agrees_on_the_fingerprint_and_the_uses(federation: Federation) -> None:
    def shown(path: Path, *words: str) -> str:
        return subprocess.run(
            ["openssl", "x509", "-in", path, "-noout", *words], capture_output=True, text=True, check=True
        ).stdout

    printed = certificate_fingerprint(load_certificate(federation.server_certificate))
    assert printed in shown(federation.server_certificate, "-fingerprint", "-sha256")
    authority = shown(federation.ca_certificate, "-text")
    assert "X509v3 Basic Constraints: critical" in authority and "CA:TRUE, pathlen:0" in authority
    assert "X509v3 Key Usage: critical" in authority and "Certificate Sign, CRL Sign" in authority
    server = shown(federation.server_certificate, "-text")
    assert "CA:FALSE" in server and "TLS Web Server Authentication" in server and "Client Authentication" not in server


def handshake(federation: Federation, ca: Path, host: str) -> None:
    """Shake hands over a real socket as `host`, trusting `ca` alone."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(federation.server_certificate, federation.server_key)
    asking = ssl.create_default_context(cafile=str(ca))
    asking.verify_flags |= ssl.VERIFY_X509_STRICT
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            try:
                with listener.accept()[0] as accepted, serving.wrap_socket(accepted, server_side=True):
                    pass
            except OSError:
                pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with (
                socket.create_connection(listener.getsockname()) as plain,
                asking.wrap_socket(plain, server_hostname=host),
            ):
                pass
        finally:
            thread.join()


def test_a_site_trusts_the_server_of_its_kits_ca_and_no_other(tmp_path: Path, federation: Federation) -> None:
    ca = federation.folder.parent / "amc" / "ca.crt"
    for host in ("coordinator.example", "localhost", "127.0.0.1"):
        handshake(federation, ca, host)
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(federation, ca, "evil.example")
    other = made(tmp_path / "other").federation
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(other, ca, "localhost")


def test_the_ca_lasts_ten_years_and_the_server_certificate_397_days_at_most(federation: Federation) -> None:
    now = datetime.now(UTC)
    ca, server = load_certificate(federation.ca_certificate), load_certificate(federation.server_certificate)
    assert timedelta(days=3649) < ca.not_valid_after_utc - now <= timedelta(days=3650)
    assert timedelta(days=396) < server.not_valid_after_utc - now <= timedelta(days=397)
    assert now - timedelta(hours=2) < server.not_valid_before_utc < now
    late = new_server_certificate(new_ca("f", now=now - timedelta(days=3640)), ["h"]).certificate
    assert late.not_valid_after_utc - now <= timedelta(days=10)


def dated(federation: Federation, *, days: int) -> None:
    """Replace the server certificate by one that was made `days` ago."""
    then = datetime.now(UTC) - timedelta(days=days)
    ca = new_ca(federation.name, now=then)
    ca.save(federation.ca_certificate, federation.ca_key)
    issued = new_server_certificate(ca, federation.config.hosts, now=then)
    issued.save(federation.server_certificate, federation.server_key)


@pytest.mark.parametrize(("days", "warned"), [(0, False), (366, False), (368, True), (396, True)])
def test_a_certificate_is_warned_of_from_30_days_before_it_expires(
    federation: Federation, days: int, warned: bool
) -> None:
    dated(federation, days=days)
    assert bool(expiry_warnings(federation)) == warned
    require_valid_certificates(federation)


def test_an_expired_certificate_is_refused_and_renewed(federation: Federation) -> None:
    dated(federation, days=398)
    assert "expired on" in expiry_warnings(federation)[0]
    refused(Code.CERTIFICATE_EXPIRED, lambda: require_valid_certificates(federation))
    shown = command("server", "certificates", "--federation", federation.folder)
    assert shown.returncode == 1 and "E731" in shown.stderr and "(-2 days)" in shown.stdout
    old = federation.server_certificate.read_bytes(), federation.server_key.read_bytes()
    renewed = command("server", "certificates", "--renew", "--federation", federation.folder)
    assert renewed.returncode == 0, renewed.stderr
    assert "(396 days)" in renewed.stdout
    require_valid_certificates(federation)
    assert expiry_warnings(federation) == []
    (aside,) = federation.certificates.glob("old-*")
    assert ((aside / "server.crt").read_bytes(), (aside / "server.key").read_bytes()) == old
    require_private(federation.folder)
    handshake(federation, federation.ca_certificate, "coordinator.example")


def test_a_renewed_certificate_is_trusted_by_kits_that_were_sent_before(federation: Federation) -> None:
    renew_server_certificate(federation)
    renew_server_certificate(federation)
    handshake(federation, federation.folder.parent / "amc" / "ca.crt", "coordinator.example")
    assert len(list(federation.certificates.glob("old-*"))) == 2
    assert any("10.0.0.7" in line for line in certificate_lines(federation))


def test_an_expired_ca_cannot_renew(federation: Federation) -> None:
    dated(federation, days=3651)
    refused(Code.CERTIFICATE_EXPIRED, lambda: renew_server_certificate(federation))


def test_a_certificate_that_is_not_valid_yet_or_has_another_key_is_refused(federation: Federation) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    refused(Code.CERTIFICATE_EXPIRED, lambda: require_valid_certificates(federation, now=yesterday))
    write_private(federation.server_key, federation.ca_key.read_bytes())
    refused(Code.KEY_MISSING, lambda: require_valid_certificates(federation))
    federation.server_key.chmod(0o644)
    refused(Code.KEY_PERMISSIONS, lambda: require_valid_certificates(federation))


def test_a_host_that_the_certificate_lacks_is_warned_of(federation: Federation) -> None:
    moved = Federation(federation.folder, federation.config.model_copy(update={"host": "new.example"}))
    assert "new.example" in expiry_warnings(moved)[0]
    renew_server_certificate(moved)
    assert expiry_warnings(moved) == []
