"""Reaching a coordinator over real sockets: each way in which it fails has its number within 5 seconds."""

from __future__ import annotations

import http.server
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bench.waiting import PATIENCE as LONGEST
from client.node.probe import Seen, probe_server
from client.node.route import read_address, read_proxy
from common.errors import Code, FedReasonError
from tests.tls import (
    DAY,
    Authority,
    Listener,
    Talk,
    answering,
    coordinator,
    make_authority,
    over_tls,
    read_head,
    server_context,
    tunnel,
)

HOUR = timedelta(hours=1)
PATIENCE = 30
"""Seconds that a busy machine may need; who is silent here stays so for longer."""
STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return make_authority(tmp_path / "ca")


def refused(address: str, ca: Path, proxy: str | None = None, timeout: float = 4.0) -> FedReasonError:
    started = time.monotonic()
    with pytest.raises(FedReasonError) as caught:
        probe_server(address, ca, proxy, timeout)
    assert time.monotonic() - started < timeout + PATIENCE
    return caught.value


def seen(authority: Authority, talk: Talk, **certificate: timedelta) -> Seen:
    with coordinator(server_context(authority, **certificate), talk) as server:
        return probe_server(server.address, authority.path)


def refused_certificate(authority: Authority, talk: Talk | None = None, **certificate: timedelta) -> FedReasonError:
    with coordinator(server_context(authority, **certificate), talk) as server:
        return refused(server.address, authority.path)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_coordinator_in_order_is_reached_and_its_certificate_and_clock_are_told(authority: Authority) -> None:
    requests: list[bytes] = []
    answer = seen(authority, answering(seen=requests))
    assert abs(answer.certificate_until - datetime.now(UTC) - 90 * DAY) < HOUR
    assert answer.clock_difference is not None
    assert abs(answer.clock_difference) < timedelta(seconds=5)
    assert requests[0].startswith(b"GET /v1/fleet/ HTTP/1.1\r\nHost: 127.0.0.1:")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("coordinator.example:8443", "coordinator.example:8443"),
        ("https://coordinator.example:8443/", "coordinator.example:8443"),
        ("https://Coordinator.example", "coordinator.example:443"),
        ("10.0.0.7", "10.0.0.7:443"),
        ("[::1]:8443", "[::1]:8443"),
    ],
)
def test_an_address_is_written_in_one_way(text: str, expected: str) -> None:
    assert str(read_address(text)) == expected


@pytest.mark.parametrize("text", ["", ":443", "host:port", "host:99999", "a b:1", "ftp://host:1", "host:1/path"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(FedReasonError) as caught:
        read_address(text)
    assert caught.value.code is Code.CONFIG_VALUE


def test_an_address_without_tls_is_refused_before_anything_is_sent(authority: Authority) -> None:
    with Listener(answering()) as server:
        assert refused(f"http://{server.address}", authority.path).code is Code.SERVER_INSECURE
        assert server.connections == 0


def test_a_port_where_nothing_listens_is_named(authority: Authority) -> None:
    address = f"127.0.0.1:{closed_port()}"
    error = refused(address, authority.path)
    assert error.code is Code.SERVER_UNREACHABLE
    assert address in error.found
    assert "ECONNREFUSED" in error.found


def test_a_name_that_nobody_knows_is_named(authority: Authority) -> None:
    error = refused("nowhere.invalid:443", authority.path)
    assert error.code is Code.SERVER_UNREACHABLE
    assert "nowhere.invalid" in error.found
    assert re.search(r"EAI_|name service", error.found)


def test_an_impossible_name_is_as_unknown(authority: Authority) -> None:
    assert refused(f"{'a' * 70}.example:443", authority.path).code is Code.SERVER_UNREACHABLE


def test_a_firewall_that_drops_packets_is_told_by_the_silence(authority: Authority) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        error = refused(f"127.0.0.1:{full.getsockname()[1]}", authority.path, timeout=1)
        for one in waiting:
            one.close()
    assert error.code is Code.SERVER_UNREACHABLE
    assert "did not answer within 1 s" in error.found


@pytest.mark.parametrize("silence", ["before", "behind", "drip"])
def test_a_server_that_does_not_answer_is_not_waited_for(authority: Authority, silence: str) -> None:
    done = threading.Event()

    def drip(connection: socket.socket) -> None:
        for byte in b"HTTP/1.1 200 OK" * 60:
            connection.sendall(bytes([byte]))
            time.sleep(0.1)

    talks: dict[str, Talk] = {
        "before": lambda _: bool(done.wait(LONGEST)) and None,
        "behind": over_tls(server_context(authority), lambda _: bool(done.wait(LONGEST)) and None),
        "drip": over_tls(server_context(authority), drip),
    }
    with Listener(talks[silence]) as server:
        error = refused(server.address, authority.path, timeout=1.5)
        done.set()
    assert error.code is Code.SERVER_UNREACHABLE


class _Web(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def plain_http() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Web) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_port_with_plain_http_is_refused(authority: Authority, plain_http: str) -> None:
    error = refused(plain_http, authority.path)
    assert error.code is Code.SERVER_INSECURE
    assert plain_http in error.found


def test_a_plain_server_that_keeps_silent_at_a_handshake_is_found_out(authority: Authority) -> None:
    with Listener(answering()) as server:
        assert refused(server.address, authority.path).code is Code.SERVER_INSECURE


def test_another_service_without_tls_is_refused(authority: Authority) -> None:
    with Listener(lambda connection: connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")) as server:
        assert refused(server.address, authority.path).code is Code.SERVER_INSECURE


def test_a_connection_that_is_cut_in_the_handshake_is_told(authority: Authority) -> None:
    with Listener(lambda connection: bool(connection.recv(4096)) and None) as server:
        error = refused(server.address, authority.path)
    assert error.code is Code.SERVER_TLS
    assert "closed the connection" in error.found


def test_a_server_that_wants_another_tls_is_told(authority: Authority) -> None:
    context = server_context(authority)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-SHA")
    with coordinator(context) as server:
        assert refused(server.address, authority.path).code is Code.SERVER_TLS


def test_a_server_of_another_ca_is_refused(authority: Authority, tmp_path: Path) -> None:
    other = make_authority(tmp_path / "other")
    with coordinator(server_context(other)) as server:
        error = refused(server.address, authority.path)
    assert error.code is Code.SERVER_TLS
    assert "not signed by the federation's CA" in error.found


def test_a_server_of_a_public_ca_is_refused_too(authority: Authority, tmp_path: Path) -> None:
    """Only the kit's CA counts: not those that the machine trusts (SSL_CERT_FILE)."""
    other = make_authority(tmp_path / "other")
    with coordinator(server_context(other)) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(other.path))
        assert refused(server.address, authority.path).code is Code.SERVER_TLS


def test_a_certificate_for_another_name_is_refused_and_its_names_told(authority: Authority) -> None:
    with coordinator(server_context(authority, ["coordinator.example"])) as server:
        error = refused(server.address, authority.path)
        assert error.code is Code.SERVER_TLS
        assert "coordinator.example" in error.found
        assert refused(f"localhost:{server.port}", authority.path).code is Code.SERVER_TLS


def test_an_expired_certificate_is_told_with_its_date_and_that_the_clocks_agree(authority: Authority) -> None:
    error = refused_certificate(authority, start=-9 * DAY, end=-2 * DAY)
    assert error.code is Code.CERTIFICATE_EXPIRED
    assert re.search(rf"expired on {STAMP}", error.found)
    assert "agrees" in error.found
    assert "renew" in error.fix


def test_a_certificate_of_the_future_is_told(authority: Authority) -> None:
    error = refused_certificate(authority, start=2 * DAY)
    assert error.code is Code.CERTIFICATE_EXPIRED
    assert re.search(rf"not valid before {STAMP}", error.found)


def test_an_expired_ca_is_told_as_such(tmp_path: Path) -> None:
    error = refused_certificate(make_authority(tmp_path / "old", start=-9 * DAY, end=-DAY))
    assert error.code is Code.CERTIFICATE_EXPIRED
    assert "The CA's certificate expired" in error.found
    assert "127.0.0.1" not in error.found


def test_an_expired_certificate_of_a_server_without_a_clock_leaves_both_open(authority: Authority) -> None:
    error = refused_certificate(authority, answering(clock=None), start=-9 * DAY, end=-2 * DAY)
    assert error.code is Code.CERTIFICATE_EXPIRED
    assert "set the clock" in error.fix


@pytest.mark.parametrize("clock", [-DAY, DAY, timedelta(seconds=65), timedelta(seconds=-65)])
def test_a_clock_that_is_off_is_refused_with_both_times(authority: Authority, clock: timedelta) -> None:
    error = refused_certificate(authority, answering(clock=clock), start=-3 * DAY)
    assert error.code is Code.SERVER_CLOCK
    ours, theirs = (datetime.fromisoformat(text) for text in re.findall(rf"{STAMP}:\d\d", error.found))
    assert abs(theirs - ours - clock) < timedelta(seconds=5)


@pytest.mark.parametrize("seconds", [-50, 50])
def test_a_clock_within_a_minute_is_taken(authority: Authority, seconds: int) -> None:
    difference = seen(authority, answering(clock=timedelta(seconds=seconds))).clock_difference
    assert difference is not None
    assert abs(difference.total_seconds() + seconds) < 5


@pytest.mark.parametrize(
    ("start", "end", "clock"), [(12 * HOUR, 90 * DAY, DAY), (-9 * DAY, -12 * HOUR, -DAY)], ids=["slow", "fast"]
)
def test_a_certificate_that_only_our_wrong_clock_finds_out_of_date_is_told_as_a_clock(
    authority: Authority, start: timedelta, end: timedelta, clock: timedelta
) -> None:
    assert refused_certificate(authority, answering(clock=clock), start=start, end=end).code is Code.SERVER_CLOCK


def test_a_certificate_that_is_out_of_date_by_both_clocks_is_told_as_such(authority: Authority) -> None:
    error = refused_certificate(authority, answering(clock=DAY), start=-9 * DAY, end=-2 * DAY)
    assert error.code is Code.CERTIFICATE_EXPIRED
    assert "both clocks" in error.fix


def test_the_clock_of_a_stranger_is_not_asked(authority: Authority, tmp_path: Path) -> None:
    """A server of another CA cannot have its old certificate blamed on our clock."""
    requests: list[bytes] = []
    other = make_authority(tmp_path / "other")
    with coordinator(
        server_context(other, start=-9 * DAY, end=-12 * HOUR), answering(clock=-DAY, seen=requests)
    ) as server:
        assert refused(server.address, authority.path).code in (Code.SERVER_TLS, Code.CERTIFICATE_EXPIRED)
    assert not requests


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0\r\n\r\n", b"\0" * 100_000])
def test_an_answer_that_is_no_http_is_refused(authority: Authority, answer: bytes) -> None:
    def talk(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(answer)

    error = refused_certificate(authority, talk)
    assert error.code is Code.SERVER_UNREACHABLE
    assert "no HTTP answer" in error.found


def test_a_proxy_of_the_coordinator_without_its_superlink_is_told(authority: Authority) -> None:
    error = refused_certificate(authority, answering(502))
    assert error.code is Code.SERVER_UNREACHABLE
    assert "502" in error.found


def test_a_server_without_a_clock_is_taken_and_its_clock_unknown(authority: Authority) -> None:
    assert seen(authority, answering(clock=None)).clock_difference is None


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_ca_that_is_missing_or_none_is_told(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "ca.crt").write_bytes(content)
    error = refused("127.0.0.1:1", tmp_path / "ca.crt")
    assert error.code is Code.KEY_MISSING
    assert "ca.crt" in error.found


def test_an_outbound_proxy_is_used_for_everything(authority: Authority) -> None:
    asked: list[bytes] = []
    with coordinator(server_context(authority)) as server, Listener(tunnel(asked)) as proxy:
        probe_server(server.address, authority.path, f"http://{proxy.address}")
        assert asked[0].startswith(f"CONNECT {server.address} HTTP/1.1\r\n".encode())
        probe_server(server.address, authority.path, f"http://amc:s%40fe@{proxy.address}/")
        assert b"Proxy-Authorization: Basic YW1jOnNAZmU=\r\n" in asked[1]
        assert server.connections == 2


def test_what_is_wrong_behind_a_proxy_is_told_as_without_one(authority: Authority, plain_http: str) -> None:
    asked: list[bytes] = []
    with Listener(tunnel(asked)) as proxy:
        through = f"http://{proxy.address}"
        assert refused(plain_http, authority.path, through).code is Code.SERVER_INSECURE
        with coordinator(server_context(authority, start=-9 * DAY, end=-2 * DAY)) as server:
            assert refused(server.address, authority.path, through).code is Code.CERTIFICATE_EXPIRED
            assert server.connections == 2
    assert len(asked) == 3


@pytest.mark.parametrize("status", [403, 407, 502])
def test_a_proxy_that_refuses_is_named_and_its_password_is_not(authority: Authority, status: int) -> None:
    with Listener(tunnel([], refusal=status)) as proxy:
        error = refused("coordinator.example:443", authority.path, f"http://amc:sentinel@{proxy.address}")
    assert error.code is Code.SERVER_UNREACHABLE
    assert proxy.address in error.found
    assert str(status) in error.found
    assert "sentinel" not in str(error)


def test_a_proxy_that_cannot_be_reached_is_named(authority: Authority) -> None:
    address = f"127.0.0.1:{closed_port()}"
    error = refused("coordinator.example:443", authority.path, f"http://{address}")
    assert error.code is Code.SERVER_UNREACHABLE
    assert f"proxy {address}" in error.found
    assert "ECONNREFUSED" in error.found


def test_a_proxy_that_is_none_is_named(authority: Authority) -> None:
    with Listener(lambda connection: connection.sendall(b"SSH-2.0\r\n\r\n")) as server:
        error = refused("coordinator.example:443", authority.path, f"http://{server.address}")
    assert error.code is Code.SERVER_UNREACHABLE
    assert f"proxy {server.address}" in error.found


@pytest.mark.parametrize("text", ["proxy", "https://proxy:3128", "socks5://proxy:1080", "http://u:sentinel@proxy"])
def test_what_is_no_proxy_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(FedReasonError) as caught:
        read_proxy(text)
    assert caught.value.code is Code.CONFIG_VALUE
    assert "sentinel" not in str(caught.value)
