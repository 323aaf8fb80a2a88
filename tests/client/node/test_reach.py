"""A site that runs for months says why its coordinator cannot be reached, and warns of what soon ends."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from client.node import reach
from client.node.node import Node
from client.node.probe import probe_server
from client.node.reach import Reach
from client.node.worker import Lost
from common.errors import Code, FedReasonError
from tests.clock import Clock
from tests.tls import DAY, answering, coordinator, make_authority, server_context


def test_a_certificate_that_ends_while_the_site_runs_is_named_after_a_minute_of_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, clock = make_authority(tmp_path), Clock()
    monkeypatch.setattr(reach, "time", clock)
    with coordinator(server_context(authority, start=-3 * DAY, end=-DAY), answering()) as server:
        own = Reach(lambda: probe_server(server.address, authority.path))
        assert own.why(4.0) is None, "a wait that has only begun says nothing yet"
        error = own.why(60.0)
        assert error is not None and error.code is Code.CERTIFICATE_EXPIRED
        assert own.why(1.0) is error, "told until somebody answers"
        own.answered()
        assert own.why(60.0) is None, "looked at once in ten minutes"
        clock.now += 700
        assert own.why(60.0) is not None


def test_all_is_looked_at_once_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, looks = Clock(), list[float]()
    monkeypatch.setattr(reach, "time", clock)
    own = Reach(lambda: looks.append(clock.now))
    for _ in range(100):
        clock.now += 3600.0
        own.answered()
    assert len(looks) == 4


def test_the_node_says_why_while_it_polls_and_while_an_answer_waits() -> None:
    told = list[tuple[str, int | None]]()
    status = SimpleNamespace(announce=lambda state, text, code=None: told.append((text, code)))
    error = FedReasonError(Code.CERTIFICATE_EXPIRED, "It ended on 2026-11-01.", "Renew it.")
    node = object.__new__(Node)
    vars(node).update(_status=status, _reach=SimpleNamespace(why=lambda wait: error if wait >= 60 else None))
    node._say_lost("no answer", Lost("ConnectError"), 4.0)
    node._say_lost("an answer is ready and cannot be sent", Lost("ConnectError"), 60.0)
    assert told == [
        ("no answer (ConnectError); again in 4 s", None),
        (f"an answer is ready and cannot be sent (ConnectError); again in 60 s. {error}", 731),
    ]
