"""nginx before a TLS server that keeps all that reaches it, and the headers that an admitted node sends."""

from __future__ import annotations

import base64
import contextlib
import http.client
import socket
import ssl
from dataclasses import dataclass, field
from datetime import date

from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from bench.waiting import PATIENCE
from common.identity.keys import new_node_key, new_signing_key, public_text
from common.identity.roster import Member
from server.provisioning.federation import Federation

KEY = new_node_key()
SIGNED = {
    "flwr-public-key": base64.b64encode(public_key_to_bytes(KEY.public_key())).decode(),
    "flwr-signature": "MGUCMQ" + "a" * 130 + "==",
    "flwr-timestamp": "2026-01-02T03:04:05.678901+00:00",
}
"""Headers as an admitted node sends them; only the SuperLink can tell that the signature is made up."""
HEAD = "".join(f"{name}: {value}\r\n" for name, value in SIGNED.items())
BODILESS = "/v1/fleet/pull-messages"
PART = "/v1/fleet/push-object"


@dataclass
class Upstream:
    """What reached the SuperLink: path and length of the body of each request."""

    seen: list[tuple[str, int]] = field(default_factory=list)
    connections: int = 0
    headers: list[dict[str, str]] = field(default_factory=list)
    answer: float = 0.0


@dataclass(frozen=True)
class Proxy:
    federation: Federation
    upstream: Upstream

    @property
    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.federation.ca_certificate)

    def connection(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(
            "localhost", self.federation.config.port, context=self.context, timeout=PATIENCE
        )

    def post(self, path: str, body: bytes = b"", headers: dict[str, str] = SIGNED, method: str = "POST") -> int:
        """Return the status, 0 where the connection was closed without one."""
        link = self.connection()
        try:
            link.putrequest(method, path, skip_accept_encoding=True)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                link.putheader(name, value)
            link.endheaders()
            with contextlib.suppress(OSError):
                for start in range(0, len(body), 65536):
                    link.send(body[start : start + 65536])
            return link.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            link.close()

    def raw(self) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self.federation.config.port), 30)
        return self.context.wrap_socket(plain, server_hostname="localhost")

    @property
    def log(self) -> str:
        return (self.federation.deploy / "nginx" / "access.log").read_text()


MEMBER = Member(site="amc", signing_key=public_text(new_signing_key()), node_key=public_text(KEY), admitted=date.max)
