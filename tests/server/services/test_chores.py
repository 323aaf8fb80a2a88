"""What `up` does beside its services, for as long as it runs."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from server.provisioning.certificates import SERVER_DAYS, WARN_DAYS, renew_server_certificate
from server.provisioning.federation import Federation
from server.services import chores, control, flower
from server.services.chores import Chores
from tests.clock import Clock
from tests.federations import joined

_DAY = 86400.0


def at(clock: Clock, day: float) -> datetime:
    clock.now = day * _DAY
    return datetime.fromtimestamp(clock.time(), UTC)


def test_who_runs_for_a_year_is_warned_each_day_and_told_of_a_renewal_that_is_not_in_use(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    renew_server_certificate(federation, now=at(clock, begins + 3))
    told.clear()
    running.do()
    (line,) = told
    assert "was renewed" in line and "start `up` again" in line
    told.clear()
    again = Chores(federation, told.append, lambda: None)
    at(clock, begins + 4)
    again.do()
    assert told == [], "started again, it has the new one"


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
