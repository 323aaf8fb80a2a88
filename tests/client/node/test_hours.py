"""A site's hours and its pause: windows hold to the minute, over midnight too, and a pause outlives the node."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.node.hours import allowed, hold, next_change, pause, paused, read_window, resume
from common.errors import Code

DAY = datetime(2026, 3, 10)
CLOCK = st.times().map(lambda moment: moment.strftime("%H:%M"))
WINDOWS = st.lists(st.tuples(CLOCK, CLOCK).map("-".join), max_size=4)


def at(clock: str, day: datetime = DAY) -> datetime:
    hour, minute = clock.split(":")
    return day.replace(hour=int(hour), minute=int(minute)).astimezone()


@pytest.fixture
def berlin() -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = "CET-1CEST,M3.5.0,M10.5.0/3"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


def test_without_windows_the_site_always_works() -> None:
    assert allowed(at("03:00"), [])
    assert next_change(at("03:00"), []) is None


@pytest.mark.parametrize(
    ("clock", "expected"), [("17:59", False), ("18:00", True), ("23:59", True), ("00:00", True), ("06:29", True)]
)
def test_a_window_goes_on_over_midnight(clock: str, expected: bool) -> None:
    assert allowed(at(clock), ["18:00-06:30"]) is expected


def test_a_window_ends_at_its_end() -> None:
    assert not allowed(at("06:30"), ["18:00-06:30"])
    assert allowed(at("23:59"), ["18:00-00:00"])
    assert not allowed(at("00:00"), ["18:00-00:00"])


def test_two_equal_times_are_the_whole_day() -> None:
    assert allowed(at("07:59"), ["08:00-08:00"])
    assert next_change(at("07:59"), ["08:00-08:00"]) is None


@settings(deadline=None)
@given(minute=st.integers(0, 24 * 60 - 1), windows=WINDOWS)
def test_between_now_and_the_next_change_nothing_changes(minute: int, windows: list[str]) -> None:
    now = at(f"{minute // 60:02}:{minute % 60:02}")
    change = next_change(now, windows)
    state = allowed(now, windows)
    ends = change or now + timedelta(days=1)
    assert timedelta(0) < ends - now <= timedelta(days=1)
    for moment in range(minute, minute + int((ends - now).total_seconds()) // 60):
        assert allowed(now + timedelta(minutes=moment - minute), windows) == state
    assert change is None or allowed(change, windows) != state


def test_windows_that_touch_are_one() -> None:
    assert next_change(at("19:00"), ["18:00-22:00", "22:00-02:00"]) == at("02:00", DAY + timedelta(days=1))


@pytest.mark.usefixtures("berlin")
def test_windows_follow_the_clock_on_the_wall_whatever_the_zone_of_the_question() -> None:
    assert allowed(datetime(2026, 7, 1, 16, 0, tzinfo=UTC), ["18:00-19:00"])
    assert allowed(datetime(2026, 1, 1, 17, 0, tzinfo=UTC), ["18:00-19:00"])
    assert not allowed(datetime(2026, 1, 1, 16, 0, tzinfo=UTC), ["18:00-19:00"])


@pytest.mark.usefixtures("berlin")
def test_a_window_that_starts_in_the_hour_that_spring_skips_starts_when_it_is_over() -> None:
    change = next_change(datetime(2026, 3, 29, 1, 0).astimezone(), ["02:30-05:00"])
    assert change is not None
    assert change.astimezone(UTC) == datetime(2026, 3, 29, 1, 0, tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "18:00", "18-06", "24:00-06:00", "18:60-20:00", "8:00-9:00", "18:00-06:30 "])
def test_anything_else_is_no_window(text: str) -> None:
    with pytest.raises(ValueError, match="HH:MM-HH:MM"):
        read_window(text)


def test_a_pause_outlives_the_process_that_set_it(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib, client.node.hours; client.node.hours.pause(pathlib.Path(sys.argv[1]), 'GPU\\nneeded')"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    assert paused(tmp_path) == "GPU needed"
    assert resume(tmp_path)
    assert paused(tmp_path) is None
    assert not resume(tmp_path)


def test_the_flag_is_its_owners_alone(tmp_path: Path) -> None:
    pause(tmp_path, "why")
    assert stat.S_IMODE((tmp_path / "state" / "paused").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


def test_a_flag_that_cannot_be_read_still_pauses(tmp_path: Path) -> None:
    (tmp_path / "state" / "paused").mkdir(parents=True)
    assert paused(tmp_path) is not None


def test_an_empty_flag_that_a_person_touched_pauses(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "paused").touch()
    assert paused(tmp_path) == "no reason given"


def test_a_site_that_holds_still_says_why_and_until_when(tmp_path: Path) -> None:
    assert hold(tmp_path, []) is None
    outside = hold(tmp_path, ["18:00-06:30"], at("12:00"))
    assert outside is not None
    assert outside.code is Code.SITE_PAUSED
    assert "18:00-06:30" in outside.found
    assert "18:00" in outside.fix
    assert hold(tmp_path, ["18:00-06:30"], at("20:00")) is None
    pause(tmp_path, "maintenance")
    by_hand = hold(tmp_path, ["18:00-06:30"], at("20:00"))
    assert by_hand is not None
    assert by_hand.code is Code.SITE_PAUSED
    assert "maintenance" in by_hand.found
    assert "resume" in by_hand.fix
