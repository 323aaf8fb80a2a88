"""The way to a coordinator: its address, through a proxy or not, and a TCP connection within a deadline.

Only the standard library, so that every step that fails can be told apart.
"""

from __future__ import annotations

import base64
import errno
import os
import re
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from common.errors import Code, FedReasonError

_HTTPS = 443
_LARGEST_HEAD = 65536
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?|[0-9A-Fa-f:.]+")
_Places = Sequence[tuple[Any, ...]]


@dataclass(frozen=True)
class Address:
    """A host and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Proxy:
    """An outbound HTTP proxy; its password is never shown."""

    address: Address
    authorization: str | None

    def __repr__(self) -> str:
        return f"Proxy({self.address})"


class Deadline:
    """Seconds that several steps share."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._until = time.monotonic() + seconds

    def left(self, share: float = 1.0) -> float:
        """Return a share of what is left; TimeoutError where nothing is."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left * share


def read_address(text: str) -> Address:
    """Read "host:port"; https:// before it and a path `/` behind it are allowed, and port 443 may be left out.

    Raises
    ------
    FedReasonError
        SERVER_INSECURE for http://, CONFIG_VALUE where it is no address.
    """
    split = _split(text, "https")
    if split is not None and split.scheme == "http":
        raise FedReasonError(
            Code.SERVER_INSECURE,
            f"The coordinator's address is {text}, without TLS.",
            "Write it as host:port, as in the kit; nothing is ever sent without TLS.",
        )
    if split is None or split.scheme != "https" or split.path not in ("", "/") or split.username is not None:
        raise _no_address(text, "coordinator", "host:port")
    return Address(str(split.hostname), _HTTPS if split.port is None else split.port)


def read_proxy(text: str) -> Proxy:
    """Read "http://[user:password@]host:port".

    Raises
    ------
    FedReasonError
        CONFIG_VALUE where it is none; its text, which may hold a password, is not repeated.
    """
    split = _split(text, "http")
    if split is None or split.scheme != "http" or split.path not in ("", "/") or split.port is None:
        raise _no_address("what stands there", "proxy", "http://host:port or http://user:password@host:port")
    authorization = None
    if split.username is not None:
        pair = f"{unquote(split.username)}:{unquote(split.password or '')}"
        authorization = base64.b64encode(pair.encode()).decode()
    return Proxy(Address(str(split.hostname), split.port), authorization)


def _split(text: str, scheme: str) -> SplitResult | None:
    """Parts of an address, None where it has no usable host or port."""
    try:
        split = urlsplit(text if "://" in text else f"{scheme}://{text}")
        usable = split.port != 0 and _HOST.fullmatch(split.hostname or "") and not (split.query or split.fragment)
    except ValueError:
        return None
    return split if usable else None


def _no_address(text: str, key: str, form: str) -> FedReasonError:
    return FedReasonError(Code.CONFIG_VALUE, f"site.toml: {key}: {text} is no address.", f"Write it as {form}.")


@dataclass(frozen=True)
class Route:
    """How a server is reached."""

    server: Address
    proxy: Proxy | None

    def connect(self, deadline: Deadline) -> socket.socket:
        """Open a TCP connection to the server, by way of the proxy where there is one.

        Raises
        ------
        FedReasonError
            SERVER_UNREACHABLE, naming what could not be reached and why.
        """
        if self.proxy is None:
            return _connected(self.server, str(self.server), deadline)
        through = f"the proxy {self.proxy.address}"
        connection = _connected(self.proxy.address, through, deadline)
        try:
            status = _tunnelled(connection, self.server, self.proxy, deadline)
        except OSError as error:
            connection.close()
            raise unreachable(f"{through} does not answer a CONNECT ({_name(error)})") from None
        if not 200 <= status < 300:
            connection.close()
            raise _proxy_refused(through, status, self.server)
        return connection


def unreachable(what: str, fix: str = "") -> FedReasonError:
    """Return the refusal for a server or proxy that cannot be reached."""
    usual = "Check `coordinator` and `proxy` in site.toml, and that the firewall lets this machine out to that port."
    return FedReasonError(Code.SERVER_UNREACHABLE, f"{what[0].upper() + what[1:]}.", fix or usual)


def head_of(connection: socket.socket, deadline: Deadline) -> bytes:
    """Read an HTTP answer up to the end of its head; ConnectionError where there is none."""
    head = b""
    while b"\r\n\r\n" not in head:
        connection.settimeout(deadline.left())
        part = connection.recv(4096)
        if not part or len(head) > _LARGEST_HEAD:
            raise ConnectionResetError(errno.ECONNRESET, "no answer")
        head += part
    return head


def _connected(address: Address, name: str, deadline: Deadline) -> socket.socket:
    places = _resolved(address, name, deadline)
    reason: OSError | None = None
    for number, (family, kind, protocol, _, place) in enumerate(places):
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(deadline.left(1 / (len(places) - number)))
            connection.connect(place)
            return connection
        except OSError as error:
            connection.close()
            reason = error
    assert reason is not None
    if isinstance(reason, TimeoutError):
        raise unreachable(f"{name} did not answer within {deadline.seconds:.0f} s")
    if isinstance(reason, ConnectionRefusedError):
        raise unreachable(f"{name} refuses the connection (ECONNREFUSED): nothing listens there")
    raise unreachable(f"{name} cannot be reached ({_name(reason)})")


def _resolved(address: Address, name: str, deadline: Deadline) -> _Places:
    """Look a name up in a thread that is not waited for, since the system's resolver has no deadline of its own."""
    answer: SimpleQueue[_Places | OSError] = SimpleQueue()

    def look_up() -> None:
        try:
            answer.put(socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM))
        except OSError as error:
            answer.put(error)
        except UnicodeError:
            answer.put(socket.gaierror(socket.EAI_NONAME, ""))

    threading.Thread(target=look_up, daemon=True, name="look up").start()
    try:
        found = answer.get(timeout=deadline.left(0.75))
    except (Empty, TimeoutError):
        raise unreachable(f"{name}: the name service did not answer within {deadline.seconds:.0f} s") from None
    if isinstance(found, OSError):
        fix = "Check the name, and that this machine's name service (DNS) knows it."
        raise unreachable(f"{name}: the name {address.host} is not known ({_name(found)})", fix)
    return found


def _tunnelled(connection: socket.socket, server: Address, proxy: Proxy, deadline: Deadline) -> int:
    """Ask a proxy for a tunnel and return the status of its answer."""
    lines = [f"CONNECT {server} HTTP/1.1", f"Host: {server}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: Basic {proxy.authorization}")
    connection.settimeout(deadline.left())
    connection.sendall("\r\n".join([*lines, "", ""]).encode("ascii"))
    words = head_of(connection, deadline).split(maxsplit=2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        raise ConnectionAbortedError(errno.EPROTO, "no HTTP")
    return int(words[1])


def _proxy_refused(through: str, status: int, server: Address) -> FedReasonError:
    if status == 407:
        fix = 'Write them into site.toml: proxy = "http://user:password@host:port".'
        return unreachable(f"{through} wants a user name and password, or others than these (407)", fix)
    fix = f"Ask those who run the proxy to allow CONNECT to {server}."
    return unreachable(f"{through} does not connect to {server} ({status})", fix)


def _name(error: OSError) -> str:
    """Class of a network error, such as EHOSTUNREACH or EAI_NONAME."""
    if isinstance(error, socket.gaierror):
        names = {value: name for name, value in vars(socket).items() if name.startswith("EAI_")}
        return names.get(error.errno or 0, "EAI")
    return errno.errorcode.get(error.errno or 0, type(error).__name__)


def use_proxy(proxy: str | None) -> None:
    """Have every connection of this process take the proxy of site.toml, and no other."""
    for name in ("https_proxy", "all_proxy", "no_proxy"):
        for spelt in (name, name.upper()):
            os.environ.pop(spelt, None)
    if proxy is not None:
        os.environ["HTTPS_PROXY"] = proxy
