"""Whether a coordinator can be reached, and if not, why: name, network, proxy, TLS, certificate or a clock.

The connection is made as the node will make it. Only where it fails is there a second one, for the diagnosis: without
TLS, or without the check of dates, to read the coordinator's clock, or of names, to read the right ones.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http.client import HTTPException, parse_headers
from io import BytesIO
from pathlib import Path
from typing import Any

from client.node.route import Deadline, Route, head_of, read_address, read_proxy, unreachable
from common.errors import Code, FedReasonError

PATH = "/v1/fleet/"
LARGEST_CLOCK_DIFFERENCE = timedelta(seconds=60)

_NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL: chain and names are still verified."""

_OUT_OF_DATE = (9, 10)
_OTHER_NAME = (62, 63, 64)
_OTHER_CA = (2, 18, 19, 20, 21)
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST", "UNKNOWN_PROTOCOL")


@dataclass(frozen=True)
class Validity:
    """When a certificate is valid."""

    what: str
    start: datetime
    end: datetime

    def holds(self, moment: datetime) -> bool:
        """Whether it is valid at this time."""
        return self.start <= moment <= self.end


@dataclass(frozen=True)
class Seen:
    """What a coordinator that can be reached showed.

    `clock_difference` is this machine's clock less the coordinator's, None where it did not tell its time.
    """

    address: str
    certificate_until: datetime
    clock_difference: timedelta | None


@dataclass(frozen=True)
class _Look:
    """One connection's certificate, and the status and time of the answer."""

    certificate: dict[str, Any]
    status: int
    ours: datetime
    theirs: datetime | None

    @property
    def difference(self) -> timedelta | None:
        return None if self.theirs is None else self.ours - self.theirs

    @property
    def clocks_differ(self) -> bool:
        return self.difference is not None and abs(self.difference) > LARGEST_CLOCK_DIFFERENCE


def probe_server(address: str, ca: Path, proxy: str | None = None, timeout: float = 4.0) -> Seen:
    """Connect to a coordinator over verified TLS, ask for its Fleet API and compare the clocks.

    Parameters
    ----------
    address
        "host:port", also as https://host:port/.
    ca
        Certificate of the federation's CA.
    proxy
        "http://[user:password@]host:port" of an outbound HTTP proxy, or None.
    timeout
        Seconds for all of it.

    Raises
    ------
    FedReasonError
        SERVER_UNREACHABLE, SERVER_INSECURE, SERVER_TLS, CERTIFICATE_EXPIRED or SERVER_CLOCK; KEY_MISSING where `ca`
        holds no certificate, CONFIG_VALUE where an address is none.
    """
    route = Route(read_address(address), read_proxy(proxy) if proxy else None)
    context = _context(ca)
    deadline = Deadline(timeout)
    try:
        look = _look(route, context, deadline)
    except ssl.SSLCertVerificationError as error:
        raise _certificate_refused(error, route, ca, deadline) from None
    except HTTPException:
        raise unreachable(f"{route.server} has the right certificate and gives no HTTP answer") from None
    except OSError as error:
        raise _no_channel(error, route, deadline) from None
    if look.clocks_differ:
        raise _clocks_differ(look, route)
    if look.status >= 500:
        raise FedReasonError(
            Code.SERVER_UNREACHABLE,
            f"{route.server} answers, and says {look.status}: the federation behind it is not running.",
            "Ask the coordinator to start it (`python -m server up`).",
        )
    return Seen(str(route.server), _validity("", look.certificate).end, look.difference)


def _look(route: Route, context: ssl.SSLContext, deadline: Deadline) -> _Look:
    """Shake hands and read the head of one answer; HTTPException where there is none behind the handshake."""
    with route.connect(deadline) as plain:
        plain.settimeout(deadline.left(0.6))
        with context.wrap_socket(plain, server_hostname=route.server.host) as channel:
            certificate = channel.getpeercert()
            try:
                channel.settimeout(deadline.left())
                channel.sendall(_request(route))
                head = head_of(channel, deadline)
            except ConnectionError:
                raise HTTPException from None
    words = head.split(b"\r\n", 1)[0].split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        raise HTTPException
    headers = parse_headers(BytesIO(head.partition(b"\r\n")[2]))
    return _Look(certificate or {}, int(words[1]), datetime.now(UTC), _time(headers.get("Date")))


def _request(route: Route) -> bytes:
    return f"GET {PATH} HTTP/1.1\r\nHost: {route.server}\r\nAccept: */*\r\nConnection: close\r\n\r\n".encode("ascii")


def _time(text: str | None) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text) if text else None
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment and moment.tzinfo is None else moment


def _context(ca: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except ssl.SSLError:
        found = f"{ca} holds no certificate."
    except OSError as error:
        found = f"{ca} cannot be read ({type(error).__name__})."
    raise FedReasonError(Code.KEY_MISSING, found, "Copy it once more from the site's kit.")


def _second_look(route: Route, context: ssl.SSLContext, deadline: Deadline) -> _Look | None:
    try:
        return _look(route, context, deadline)
    except (OSError, HTTPException, FedReasonError):
        return None


def _no_channel(error: OSError, route: Route, deadline: Deadline) -> FedReasonError:
    """Say why an open connection came to nothing; a side that speaks plain HTTP shows itself when it is asked so."""
    reason = getattr(error, "reason", None) or ""
    said = isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError)
    if reason in _NO_TLS or (not said and _speaks_plain(route, deadline)):
        return FedReasonError(
            Code.SERVER_INSECURE,
            f"{route.server} does not speak TLS.",
            "Check the port. Nothing is ever sent without TLS: the coordinator must offer HTTPS there.",
        )
    if isinstance(error, TimeoutError):
        return unreachable(f"{route.server} took the connection and did not answer within {deadline.seconds:.0f} s")
    what = f"refuses TLS ({reason})" if said else "closed the connection while TLS was set up"
    return FedReasonError(
        Code.SERVER_TLS,
        f"{route.server} {what}.",
        "Check that this is the coordinator's address and that no firewall inspects or blocks TLS to it.",
    )


def _speaks_plain(route: Route, deadline: Deadline) -> bool:
    try:
        with route.connect(deadline) as plain:
            plain.settimeout(deadline.left())
            plain.sendall(_request(route))
            return plain.recv(16).startswith(b"HTTP/")
    except (OSError, FedReasonError):
        return False


def _certificate_refused(
    error: ssl.SSLCertVerificationError, route: Route, ca: Path, deadline: Deadline
) -> FedReasonError:
    if error.verify_code in _OUT_OF_DATE:
        return _out_of_date(route, ca, deadline)
    if error.verify_code in _OTHER_NAME:
        context = _context(ca)
        context.check_hostname = False
        look = _second_look(route, context, deadline)
        names = [name for _, name in look.certificate.get("subjectAltName", ())] if look else []
        known = f" (it is for {', '.join(names)})" if names else ""
        found = f"The certificate of {route.server} is not for the name {route.server.host}{known}."
        return FedReasonError(
            Code.SERVER_TLS,
            found,
            "Use the coordinator's name as the certificate has it, in `coordinator` of site.toml.",
        )
    if error.verify_code in _OTHER_CA:
        found = f"The certificate of {route.server} is not signed by the federation's CA ({ca})."
    else:
        found = f"The certificate of {route.server} is refused: {error.verify_message}."
    return FedReasonError(
        Code.SERVER_TLS,
        found,
        "Either it is another server, or a device of this network inspects TLS and must leave this address alone, "
        "or the federation has a new CA: ask the coordinator by telephone.",
    )


def _out_of_date(route: Route, ca: Path, deadline: Deadline) -> FedReasonError:
    """Tell an old certificate from a wrong clock, by the coordinator's own clock."""
    context = _context(ca)
    context.verify_flags |= _NO_CHECK_TIME
    look = _second_look(route, context, deadline)
    valid = [_validity("The CA's certificate", entry) for entry in context.get_ca_certs()]
    if look:
        valid.insert(0, _validity(f"The certificate of {route.server}", look.certificate))
        if look.theirs and look.clocks_differ and all(validity.holds(look.theirs) for validity in valid):
            return _clocks_differ(look, route)
    ours = datetime.now(UTC)
    told = " ".join(
        f"{validity.what} expired on {validity.end:%Y-%m-%d %H:%M} UTC."
        if ours > validity.end
        else f"{validity.what} is not valid before {validity.start:%Y-%m-%d %H:%M} UTC."
        for validity in valid
        if not validity.holds(ours)
    )
    clock = f"This machine's clock says {ours:%Y-%m-%d %H:%M} UTC"
    if look is None or look.theirs is None:
        clock, fix = f"{clock}.", "If that is right, ask the coordinator to renew it; otherwise set the clock."
    elif look.clocks_differ:
        clock = f"{clock}, the coordinator's {look.theirs:%Y-%m-%d %H:%M} UTC."
        fix = "Set both clocks right; where it is out of date still, the coordinator renews it."
    else:
        clock, fix = f"{clock}, and the coordinator's clock agrees.", "Ask the coordinator to renew it."
    return FedReasonError(
        Code.CERTIFICATE_EXPIRED, f"{told or f'A certificate of {route.server} is out of date.'} {clock}", fix
    )


def _validity(what: str, certificate: dict[str, Any]) -> Validity:
    start, end = (
        datetime.fromtimestamp(ssl.cert_time_to_seconds(certificate[key]), UTC) for key in ("notBefore", "notAfter")
    )
    return Validity(what, start, end)


def _clocks_differ(look: _Look, route: Route) -> FedReasonError:
    assert look.theirs is not None
    return FedReasonError(
        Code.SERVER_CLOCK,
        f"This machine's clock says {look.ours:%Y-%m-%d %H:%M:%S} UTC, that of {route.server} "
        f"{look.theirs:%Y-%m-%d %H:%M:%S} UTC: more than {LARGEST_CLOCK_DIFFERENCE.seconds} s apart.",
        "Set the one that is wrong, and let it follow a time server (timedatectl set-ntp true).",
    )
