"""Servers and proxies to connect to: real sockets and certificates, and whatever can be wrong with them."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)
Talk = Callable[[socket.socket], None]


@dataclass(frozen=True)
class Authority:
    """A CA, its certificate on disk."""

    folder: Path
    certificate: x509.Certificate
    key: EllipticCurvePrivateKey

    @property
    def path(self) -> Path:
        return self.folder / "ca.crt"


def make_authority(folder: Path, *, start: timedelta = -DAY, end: timedelta = 365 * DAY) -> Authority:
    """Make a CA that is valid from `start` to `end`, counted from now."""
    folder.mkdir(parents=True, exist_ok=True)
    key = generate_private_key(SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
    builder = _builder(name, name, key, start, end)
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(usage, critical=True)
    authority = Authority(folder, builder.sign(key, hashes.SHA256()), key)
    authority.path.write_bytes(authority.certificate.public_bytes(serialization.Encoding.PEM))
    return authority


def server_context(
    authority: Authority,
    names: Sequence[str] = ("localhost", "127.0.0.1"),
    *,
    start: timedelta = -DAY,
    end: timedelta = 90 * DAY,
) -> ssl.SSLContext:
    """Return what a server with a certificate of this CA listens with."""
    key = generate_private_key(SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    builder = _builder(subject, authority.certificate.subject, key, start, end)
    builder = builder.add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
    builder = builder.add_extension(signer, critical=False)
    certificate = builder.sign(authority.key, hashes.SHA256())
    path = authority.folder / "server.pem"
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, *private) + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


def _builder(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, start: timedelta, end: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return x509.CertificateBuilder(
        issuer, subject, key.public_key(), x509.random_serial_number(), now + start, now + end
    ).add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@dataclass
class Listener:
    """A server on a port of its own; every connection goes to `talk` in a thread."""

    talk: Talk
    port: int = 0
    connections: int = 0
    _socket: socket.socket = field(default_factory=socket.socket)

    def __enter__(self) -> Listener:
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen()
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            self.talk(connection)


def over_tls(context: ssl.SSLContext, talk: Talk) -> Talk:
    """Talk once the handshake is done."""

    def talked(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as channel:
            talk(channel)

    return talked


def answering(status: int = 404, *, clock: timedelta | None = timedelta(0), seen: list[bytes] | None = None) -> Talk:
    """Answer one HTTP request; the server's clock is `clock` ahead, None leaves the time out."""

    def talked(connection: socket.socket) -> None:
        request = read_head(connection)
        if seen is not None:
            seen.append(request)
        date = "" if clock is None else f"Date: {format_datetime(datetime.now(UTC) + clock, usegmt=True)}\r\n"
        connection.sendall(f"HTTP/1.1 {status} Word\r\n{date}Content-Length: 0\r\n\r\n".encode())

    return talked


def tunnel(seen: list[bytes], *, refusal: int | None = None) -> Talk:
    """Be an HTTP proxy that lets CONNECT through, or refuses it."""

    def talked(connection: socket.socket) -> None:
        request = read_head(connection)
        seen.append(request)
        match = re.match(rb"CONNECT ([^ :]+):(\d+) ", request)
        if refusal is not None or match is None:
            connection.sendall(f"HTTP/1.1 {refusal or 405} No\r\n\r\n".encode())
            return
        with socket.create_connection((match[1].decode(), int(match[2]))) as onward:
            connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=_pour, args=(onward, connection), daemon=True)
            back.start()
            _pour(connection, onward)
            back.join()

    return talked


def read_head(connection: socket.socket) -> bytes:
    """Read up to the blank line."""
    head = b""
    while b"\r\n\r\n" not in head and (part := connection.recv(4096)):
        head += part
    return head


def _pour(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while part := source.recv(65536):
            sink.sendall(part)
        sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def coordinator(context: ssl.SSLContext, talk: Talk | None = None) -> Iterator[Listener]:
    """Serve as a coordinator that can be reached."""
    with Listener(over_tls(context, talk or answering())) as listener:
        yield listener


SIGNED = {
    "flwr-public-key": "A" * 288,
    "flwr-signature": "MGUCMQ" + "a" * 130 + "==",
    "flwr-timestamp": "2026-01-02T03:04:05.678901+00:00",
}
"""Headers as a node sends them; only the SuperLink can tell that they are made up."""
