"""nginx in front of the SuperLink: what it turns away before the SuperLink sees a byte, and what it lets through.

Real nginx with the configuration that `up` writes; behind it a TLS server that keeps all that reaches it.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES

from bench.deployment import listening
from bench.waiting import PATIENCE, until
from client.node.probe import probe_server
from client.node.worker import Fleet
from common.errors import Code
from common.identity.keys import load_node_key, new_node_key
from common.messages.records import PIECE_BYTES
from server.provisioning.deploy import render, trim_logs, write_admitted_keys
from server.services.admission import admit, revoke
from tests.federations import free_port, initiated, made, refused
from tests.server.provisioning.proxied import BODILESS, HEAD, KEY, MEMBER, PART, SIGNED, Proxy, Upstream

NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
pytestmark = [pytest.mark.federation, pytest.mark.skipif(NGINX is None, reason="nginx is not installed")]


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    federation = made(tmp_path_factory.mktemp("proxy"), hosts=["localhost"], port=free_port()).federation
    upstream = Upstream()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            upstream.connections += 1
            super().setup()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            upstream.seen.append((self.path, len(body)))
            upstream.headers.append(dict(self.headers))
            time.sleep(upstream.answer)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(federation.server_certificate, federation.server_key)
    server = ThreadingHTTPServer(("127.0.0.1", federation.config.superlink_port), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    folder = render(federation)
    write_admitted_keys(federation, [MEMBER])
    words = [NGINX, "-p", folder, "-c", "nginx.conf", "-e", "nginx/error.log", "-g", "daemon off;"]
    process = subprocess.Popen([str(word) for word in words])
    until(lambda: process.poll() is not None or listening(federation.config.port), "nginx listens")
    assert process.poll() is None
    yield Proxy(federation, upstream)
    process.terminate()
    process.wait(PATIENCE)
    server.shutdown()


def slow_header(proxy: Proxy) -> bool:
    """Whether a header that comes a little at a time is cut off."""
    with proxy.raw() as link:
        link.sendall(b"POST /v1/fleet/pull-messages HTTP/1.1\r\n")
        link.settimeout(0.5)
        for _ in range(60):
            try:
                link.sendall(b"X-Slow: 1\r\n")
                if not link.recv(100):
                    return True
            except TimeoutError:
                continue
            except OSError:
                return True
    return False


def silent_handshake(proxy: Proxy) -> bool:
    """Whether a connection on which nothing is said is cut off."""
    with socket.create_connection(("127.0.0.1", proxy.federation.config.port), 30) as link:
        return link.recv(1) == b""


@pytest.fixture(scope="module", autouse=True)
def cut_off(proxy: Proxy) -> Iterator[dict[str, Future[bool]]]:
    """What nginx takes ten seconds to cut off, begun at once: the others are tested meanwhile."""
    with ThreadPoolExecutor(2) as pool:
        yield {act.__name__: pool.submit(act, proxy) for act in (slow_header, silent_handshake)}


@pytest.fixture(autouse=True)
def nothing_seen(proxy: Proxy) -> None:
    proxy.upstream.seen.clear()
    proxy.upstream.headers.clear()
    proxy.upstream.answer = 0.0


# --- What is turned away ---


@pytest.mark.parametrize("path", [BODILESS, PART, "/v1/fleet/push-messages", "/v1/fleet//push-object", "/v1/fleet/x"])
def test_a_large_body_without_a_signature_is_cut_off_before_the_superlink_sees_it(proxy: Proxy, path: str) -> None:
    before = proxy.upstream.connections
    assert proxy.post(path, b"x" * 20_000_000, {}) == 0
    assert proxy.upstream.seen == [] and proxy.upstream.connections == before


@pytest.mark.parametrize("name", SIGNED)
@pytest.mark.parametrize("wrong", [None, "", "x", "*" * 200, "A" * 2000])
def test_a_request_that_lacks_a_header_of_a_signed_one_is_refused(proxy: Proxy, name: str, wrong: str | None) -> None:
    headers = {key: value for key, value in SIGNED.items() if key != name} | ({} if wrong is None else {name: wrong})
    assert proxy.post(PART, b"x", headers) == 0
    assert proxy.upstream.seen == []


def fleet(proxy: Proxy, key: EllipticCurvePrivateKey) -> Fleet:
    return Fleet(f"localhost:{proxy.federation.config.port}", proxy.federation.ca_certificate, key)


def forged(key: EllipticCurvePrivateKey) -> dict[str, str]:
    return SIGNED | {"flwr-public-key": base64.b64encode(public_key_to_bytes(key.public_key())).decode()}


@pytest.mark.parametrize("path", [BODILESS, PART, "/v1/fleet/push-messages", "/v1/fleet/activate-node"])
@pytest.mark.parametrize("key", ["another", "A" * 288, f"{'A' * 200}/{'A' * 88}", f"../{'A' * 88}", "cut", "longer"])
def test_a_made_up_signature_with_a_key_that_was_not_admitted_never_reaches_the_superlink(
    proxy: Proxy, path: str, key: str
) -> None:
    true = SIGNED["flwr-public-key"]
    keys = {"another": forged(new_node_key())["flwr-public-key"], "cut": true[:-4], "longer": f"{true}AAAA"}
    before = proxy.upstream.connections
    for body in (b"", b"x" * 5_000_000):
        assert proxy.post(path, body, SIGNED | {"flwr-public-key": keys.get(key, key)}) in (401, 0)
    assert proxy.upstream.seen == [] and proxy.upstream.connections == before


def test_a_site_is_let_through_once_it_is_admitted_and_until_it_is_revoked_without_a_reload(proxy: Proxy) -> None:
    folder = initiated(proxy.federation, "snubh")
    signed = forged(load_node_key(folder / "keys" / "node"))
    refused(Code.KEY_UNKNOWN, lambda: fleet(proxy, load_node_key(folder / "keys" / "node")).connect(None))
    try:
        admit(proxy.federation, [folder / "request.json"])
        assert proxy.post(BODILESS, headers=signed) == 200
        revoke(proxy.federation, ["snubh"])
        assert proxy.post(BODILESS, headers=signed) == 401
        assert proxy.upstream.seen == [(BODILESS, 0)]
    finally:
        write_admitted_keys(proxy.federation, [MEMBER])


@pytest.mark.parametrize("path", sorted(path for _, path in PROTOBUF_REQUEST_TYPES if path.startswith("/v1/fleet/")))
def test_a_path_takes_what_it_needs_and_no_more(proxy: Proxy, path: str) -> None:
    most = {PART: PIECE_BYTES + 500_000, "/v1/fleet/push-messages": 120_000}.get(path, 4_000)
    assert proxy.post(path, b"x" * most) == 200
    for size in (20_000_000, {PART: 7_000_000, "/v1/fleet/push-messages": 200_000}.get(path, 20_000)):
        assert proxy.post(path, b"x" * size) in (413, 0)
    assert proxy.upstream.seen == [(path, most)]


def test_a_body_of_unsaid_length_is_bounded_too(proxy: Proxy) -> None:
    with proxy.raw() as link:
        link.sendall(
            f"POST {BODILESS} HTTP/1.1\r\nHost: localhost\r\n{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode()
        )
        try:
            for _ in range(40):
                link.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            answer = link.recv(100)
        except OSError:
            answer = b""
    assert not answer or answer.startswith(b"HTTP/1.1 413")
    assert proxy.upstream.seen == []


@pytest.mark.parametrize(
    "path",
    ["/v1/control/start-run", "/v1/runtime/acquire-task", "/v1/fleet/", "/v1/fleet/x", "/v1/fleet/push-object/x",
     "/v1/fleet/../control/start-run", "/v1/fleet/%2e%2e/control/start-run", "/v1/fleet/pull-messages%2f..%2fx",
     "/v1/fleet/pull-messages/../../control/start-run", "/V1/fleet/pull-messages", "/"],
)  # fmt: skip
@pytest.mark.parametrize("headers", [SIGNED, {}], ids=["signed", "unsigned"])
def test_other_paths_do_not_exist(proxy: Proxy, path: str, headers: dict[str, str]) -> None:
    assert proxy.post(path, b"", headers) in (0, 400, 403, 404)
    assert proxy.upstream.seen == []


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"])
@pytest.mark.parametrize("path", [BODILESS, PART, "/v1/fleet/push-messages"])
def test_other_methods_are_refused(proxy: Proxy, path: str, method: str) -> None:
    assert proxy.post(path, method=method) in (403, 405)
    assert proxy.upstream.seen == []


def test_health_needs_no_signature_and_tells_nothing_of_the_server(proxy: Proxy) -> None:
    link = proxy.connection()
    link.request("GET", "/health")
    answer = link.getresponse()
    assert (answer.status, answer.read(), answer.headers["Server"]) == (200, b"ok\n", "nginx")


def test_http_2_is_not_offered_and_old_tls_is_refused(proxy: Proxy) -> None:
    context = proxy.context
    context.set_alpn_protocols(["h2", "http/1.1"])
    plain = socket.create_connection(("127.0.0.1", proxy.federation.config.port), 10)
    with context.wrap_socket(plain, server_hostname="localhost") as link:
        assert link.selected_alpn_protocol() != "h2"
    old = proxy.context
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    plain = socket.create_connection(("127.0.0.1", proxy.federation.config.port), 10)
    with pytest.raises(OSError):
        old.wrap_socket(plain, server_hostname="localhost")


# --- Slow ones ---


def test_a_slow_header_is_cut_off(cut_off: dict[str, Future[bool]]) -> None:
    assert cut_off["slow_header"].result(), "a header was awaited for half a minute"


def test_a_silent_tls_handshake_is_cut_off(cut_off: dict[str, Future[bool]]) -> None:
    assert cut_off["silent_handshake"].result()


def test_of_a_body_that_is_not_whole_the_superlink_sees_nothing(proxy: Proxy) -> None:
    before = proxy.upstream.connections
    with proxy.raw() as link:
        link.sendall(f"POST {PART} HTTP/1.1\r\nHost: localhost\r\n{HEAD}Content-Length: 5000000\r\n\r\n".encode())
        link.sendall(b"x" * 4_999_999)
        time.sleep(0.5)
        assert (proxy.upstream.seen, proxy.upstream.connections) == ([], before)
        link.sendall(b"x")
        assert link.recv(12) == b"HTTP/1.1 200"
    assert proxy.upstream.seen == [(PART, 5_000_000)]


def test_slow_uploads_of_one_address_have_an_end_and_the_rest_of_it_goes_on(proxy: Proxy) -> None:
    """Two sites may send 24 parts at a time; more of the same address are told to come back."""
    request = f"POST {PART} HTTP/1.1\r\nHost: localhost\r\n{HEAD}Content-Length: 5000000\r\n\r\nx".encode()
    links = []
    try:
        for _ in range(40):
            links.append(proxy.raw())
            links[-1].sendall(request)
        refused: set[int] = set()

        def heard() -> set[int]:
            """Return who was refused so far."""
            for number, link in enumerate(links):
                link.settimeout(0.01)
                with contextlib.suppress(TimeoutError):
                    if number not in refused and link.recv(12) == b"HTTP/1.1 503":
                        refused.add(number)
            return refused

        until(lambda: len(heard()) >= 40 - 24)
        time.sleep(0.5)
        assert len(heard()) == 40 - 24
        assert proxy.post(BODILESS) == 200
    finally:
        for link in links:
            link.close()
    assert proxy.upstream.seen == [(BODILESS, 0)]


# --- Honest sites ---


def test_a_site_that_looks_for_its_coordinator_finds_it(proxy: Proxy) -> None:
    seen = probe_server(f"localhost:{proxy.federation.config.port}", proxy.federation.ca_certificate, None)
    assert seen.clock_difference is not None
    assert proxy.upstream.seen == []


def test_a_signed_request_reaches_the_superlink_as_it_was_sent(proxy: Proxy) -> None:
    assert proxy.post(PART, b"abc", SIGNED | {"flwr-version": "1.41.0"}) == 200
    assert proxy.upstream.headers[0].items() >= (SIGNED | {"flwr-version": "1.41.0"}).items()


def test_what_flower_itself_signs_is_let_through(proxy: Proxy) -> None:
    node = fleet(proxy, KEY)
    node.connect(None)
    node.close()
    assert {"/v1/fleet/activate-node", "/v1/fleet/deactivate-node"} <= {path for path, _ in proxy.upstream.seen}


def test_sites_behind_one_address_are_not_limited(proxy: Proxy) -> None:
    """Two sites that send 100 MB each in parts, four at a time, while they poll and beat: nothing is refused."""
    proxy.upstream.answer = 0.05
    part = b"x" * PIECE_BYTES

    def polls() -> list[int]:
        return [proxy.post(BODILESS) for _ in range(60)]

    with ThreadPoolExecutor(10) as pool:
        polling = [pool.submit(polls) for _ in range(2)]
        sending = [pool.submit(proxy.post, PART, part) for _ in range(40)]
        statuses = [future.result() for future in sending] + [one for future in polling for one in future.result()]
    assert set(statuses) == {200} and len(statuses) == 160
    assert sum(path == PART for path, _ in proxy.upstream.seen) == 40


def test_a_burst_is_slowed_down_and_not_refused(proxy: Proxy) -> None:
    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(lambda _: proxy.post(BODILESS), range(800)))
    assert statuses == [200] * 800


# --- Logs ---


@pytest.fixture
def ended(cut_off: dict[str, Future[bool]]) -> None:
    """Nothing is under way that could write a line of its own."""
    wait(cut_off.values())


@pytest.mark.usefixtures("ended")
def test_polls_leave_no_line_and_refusals_few(proxy: Proxy) -> None:
    before = len(proxy.log.splitlines())
    for _ in range(50):
        assert proxy.post(BODILESS) == 200
        assert proxy.post("/v1/fleet/get-run") == 200
    for _ in range(100):
        assert proxy.post(PART, b"x", {}) == 0
    assert len(proxy.log.splitlines()) - before < 20
    assert proxy.post("/v1/fleet/activate-node") == 200
    until(lambda: proxy.log.splitlines()[-1].count("activate-node"))


@pytest.mark.usefixtures("ended")
def test_a_large_log_is_cut_while_nginx_writes_it(proxy: Proxy) -> None:
    log = proxy.federation.deploy / "nginx" / "access.log"
    with log.open("a") as file:
        file.write("x" * 99 + "\n")
        file.write(("y" * 99 + "\n") * 60_000)
    trim_logs(proxy.federation)
    assert log.stat().st_size == 0 and 4_000_000 < Path(f"{log}.1").stat().st_size <= 5_000_000
    assert proxy.post("/v1/fleet/activate-node") == 200
    until(lambda: "activate-node" in log.read_text()[:200])
