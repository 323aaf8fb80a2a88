"""A site that runs for months says why its coordinator cannot be reached, and warns of what soon ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.node import reach
from client.node.probe import probe_server
from client.node.reach import Reach
from common.errors import Code
from tests.clock import Clock
from tests.tls import DAY, answering, coordinator, make_authority, server_context


def test_a_certificate_that_ends_while_the_site_runs_is_named_after_a_minute_of_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, clock = make_authority(tmp_path), Clock()
    monkeypatch.setattr(reach, "time", clock)
    with coordinator(server_context(authority, start=-3 * DAY, end=-DAY), answering()) as server:
        own = Reach(lambda: probe_server(server.address, authority.path))
        clock.now += 700
        assert own.why(4.0) is None, "a wait that has only begun says nothing yet"
        error = own.why(60.0)
        assert error is not None and error.code is Code.CERTIFICATE_EXPIRED
        assert own.why(60.0) is None, "not at every try"
        clock.now += 700
        assert own.why(60.0) is not None


def test_all_is_looked_at_once_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, looks = Clock(), list[float]()
    monkeypatch.setattr(reach, "time", clock)
    own = Reach(lambda: looks.append(clock.now))
    for _ in range(100):
        clock.now += 3600.0
        own.daily()
    assert len(looks) == 4
