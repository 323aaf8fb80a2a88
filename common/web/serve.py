"""Serving pages until Ctrl-C or SIGTERM: on this machine alone, or by TLS to whoever has an account."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path

import uvicorn

from common.cli import tell
from common.errors import Code, FedReasonError
from common.web.app import Pages

_END_SECONDS = 2


def hosts_of(host: str, port: int) -> frozenset[str]:
    """Return the names by which a browser on this machine may ask."""
    return frozenset(f"{name}:{port}" for name in (host, "localhost", "127.0.0.1", "[::1]"))


def is_loopback(host: str) -> bool:
    """Whether an address reaches this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def tls_of(certificate: Path | None, key: Path | None) -> tuple[Path, Path] | None:
    """Return the two files that TLS needs, None where neither was named.

    Raises
    ------
    FedReasonError
        PAGES_EXPOSED where one was.
    """
    if certificate is not None and key is not None:
        return certificate, key
    if certificate is None and key is None:
        return None
    raise FedReasonError(
        Code.PAGES_EXPOSED, "A certificate and its key go together.", "Name both --certificate and --key, or neither."
    )


def require_guarded(host: str, tls: tuple[Path, Path] | None, accounts: tuple[str, ...]) -> None:
    """Refuse to show pages beyond this machine without TLS, or where nobody has an account.

    Raises
    ------
    FedReasonError
        PAGES_EXPOSED.
    """
    if is_loopback(host):
        return
    if tls is None or not accounts:
        missing = "a certificate" if tls is None else "an account"
        raise FedReasonError(
            Code.PAGES_EXPOSED,
            f"Other machines would reach the pages at {host}, and there is no {missing}.",
            "Name a certificate and its key, and add an account; or leave the host out, and come in by ssh's -L.",
        )


class Server:
    """Pages at an address, taken as soon as this is made.

    Parameters
    ----------
    pages
        What is shown.
    host, port
        Where; port 0 takes any that is free.
    tls
        Certificate and key, as PEM files.

    Raises
    ------
    FedReasonError
        PORT_IN_USE; PAGES_EXPOSED where the certificate cannot be read.
    """

    def __init__(self, pages: Pages, host: str, port: int, tls: tuple[Path, Path] | None = None) -> None:
        self._socket = _bound(host, port)
        config = uvicorn.Config(
            pages.app,
            log_config=None,
            lifespan="off",
            ws="none",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=200,
            timeout_graceful_shutdown=_END_SECONDS,
            ssl_certfile=None if tls is None else tls[0],
            ssl_keyfile=None if tls is None else tls[1],
        )
        try:
            config.load()
        except OSError as error:
            self._socket.close()
            raise FedReasonError(
                Code.PAGES_EXPOSED,
                f"Certificate or key cannot be read ({type(error).__name__}): {tls[0] if tls else ''}.",
                "Name a PEM certificate and the key that belongs to it.",
            ) from None
        taken = self._socket.getsockname()[1]
        pages.hosts = None if tls else hosts_of(host, taken)
        name = f"[{host}]" if ":" in host else host
        self._pages, self._base = pages, f"{'https' if tls else 'http'}://{name}:{taken}"
        pages.renewed = lambda: tell(f"The link of whoever left lets in nobody any more. Open {self.link}")
        self._server = uvicorn.Server(config)
        pages.over = lambda: self._server.should_exit

    @property
    def link(self) -> str:
        """The address by which whoever started this comes in: another one once they have left."""
        return self._pages.link(self._base)

    def run(self) -> None:
        """Serve until told to stop, by `stop`, Ctrl-C or SIGTERM."""
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._socket.close()

    def stop(self) -> None:
        """End `run`, from another thread."""
        self._server.should_exit = True


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket that listens, so that a port in use is told before anything else is done."""
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
        listening.listen()
    except OSError as error:
        raise FedReasonError(
            Code.PORT_IN_USE,
            f"Nothing can be served at {host} port {port} ({type(error).__name__}).",
            "Name another port, or stop what listens there.",
        ) from None
    return listening
