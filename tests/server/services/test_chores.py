"""What `up` does beside its services, for as long as it runs."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from server.provisioning import certificates
from server.provisioning.certificates import SERVER_DAYS, WARN_DAYS, renew_server_certificate, stale_warnings
from server.provisioning.federation import Federation
from server.reports.status import status_of
from server.services import chores, control, flower
from server.services.chores import Chores
from tests.clock import Clock
from tests.federations import joined

_DAY = 86400.0


def at(clock: Clock, day: float) -> datetime:
    clock.now = day * _DAY
    return datetime.fromtimestamp(clock.time(), UTC)


def test_who_runs_for_a_year_is_warned_each_day(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    joined(federation, "amc")
    clock, told = Clock(), list[str]()
    monkeypatch.setattr(chores, "time", clock)
    running = Chores(federation, told.append, lambda: None)
    begins = SERVER_DAYS - WARN_DAYS["server"] + 0.5  # however long the tests take to come here
    for day in (0, 1, begins - 2):
        at(clock, day)
        running.do()
    assert told == []
    for day in (begins + 1, begins + 2):
        at(clock, day)
        for _ in range(3):
            running.do()
    assert [line[:39] for line in told] == [
        "The server certificate expires in 28 da",
        "The server certificate expires in 27 da",
    ]


def test_what_serves_a_certificate_of_before_is_told_by_what_it_serves(federation: Federation) -> None:
    """nginx is a program of its own: one that nobody reloaded would cut every hospital off months later."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(federation.server_certificate, federation.server_key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        config = federation.config.model_copy(update={"port": server.server_port, "superlink_port": 9})
        served = Federation(federation.folder, config)
        assert stale_warnings(served) == []
        certificates._served.cache_clear()
        renew_server_certificate(served)
        (line,) = stale_warnings(served)
        told = list[str]()
        Chores(served, told.append, lambda: None).do()
        assert line in told and line in status_of(served).warnings
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert line.startswith("nginx serves another certificate than server.crt, good until ")
    certificates._served.cache_clear()
    assert stale_warnings(served) == [], "where nothing answers nothing is known"


def test_a_certificate_that_is_gone_is_told_and_keeps_no_other_chore_from_being_done(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, done = list[str](), list[str]()

    def sync(federation: Federation) -> list[str]:
        done.append("roster")
        return []

    monkeypatch.setattr(flower, "superlink_answers", lambda federation: True)
    monkeypatch.setattr(control, "sync_nodes", sync)
    federation.server_certificate.unlink()
    running = Chores(federation, told.append, lambda: done.append("runs"))
    running.do()
    assert done == ["roster", "runs"] and [line[:4] for line in told] == ["No s", "E701"]
