"""What is left of a study is told from what was done since it was started, not before."""

from __future__ import annotations

import pytest
from rich.console import Console

from simulation.study.progress import ANSWERS, Remaining, UnitsProgress
from simulation.study.units import Unit
from tests.clock import Clock

UNITS = [Unit(1, "federated"), Unit(1, "pooled"), Unit(1, "before")]
ROUNDS = 10


def test_the_time_left_goes_by_the_work_done() -> None:
    clock = Clock()
    left = Remaining(UNITS, ROUNDS, clock.monotonic)
    assert left.seconds is None and left.share == 0
    clock.now += 60
    for number in range(6):
        left.round("1-federated", number)
    whole = 2 * ROUNDS * (1 + ANSWERS) + ROUNDS * ANSWERS
    assert left.share == pytest.approx(5 / whole)
    assert left.seconds == pytest.approx(60 * (whole - 5) / 5)
    for unit in UNITS:
        left.done(unit.name)
    assert left.share == pytest.approx(1) and left.seconds == pytest.approx(0)


def test_rounds_of_an_earlier_start_say_nothing_of_the_speed() -> None:
    clock = Clock()
    left = Remaining(UNITS[:1], ROUNDS, clock.monotonic)
    clock.now += 10
    left.round("1-federated", 0)
    left.round("1-federated", 9)
    assert left.share == pytest.approx(1 / (2 + ROUNDS * ANSWERS))
    left.done("1-federated")
    assert left.share == pytest.approx(1)


def test_each_unit_that_ends_is_told_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with UnitsProgress(Console(force_terminal=False, width=200), UNITS, ROUNDS, 5) as progress:
        progress.show({"unit": "1-before", "round": 0})
        progress.show({"unit": "1-before", "done": True, "seconds": 3.2})
    told = capsys.readouterr().out
    assert "2 of 5 units were done before" in told and "1-before: done in 3 s; 3 of 5 units, about " in told


def test_a_round_is_told_where_nothing_was_for_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with UnitsProgress(Console(force_terminal=False, width=200), UNITS, ROUNDS, 3, clock.monotonic) as progress:
        for number in range(1, 6):
            clock.now += 35
            progress.show({"unit": "1-pooled", "round": number})
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[0] for line in lines] == ["1-pooled: round 2/10", "1-pooled: round 4/10"]
    assert lines[-1].endswith(" left")
