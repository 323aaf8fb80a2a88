"""Times that went wrong: one is read as the moment that it means, or refused by number."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openpyxl import Workbook

from client.registry.config import SeriesConfig
from client.registry.load import Registry
from client.registry.times import Times
from client.site.config import RegistryConfig, SiteConfig
from client.site.opened import read_registry
from common.errors import Code, FedReasonError
from tests.client.registry.cases_ids import TIMED, refusal


def timed(folder: Path, rows: str, ids: str = "1,50\n2,60\n", **said: str) -> Registry:
    (folder / "r.csv").write_text(f"id,age\n{ids}")
    (folder / "s.csv").write_text(f"id,t,item,v\n{rows}")
    series = SeriesConfig.model_validate(
        {"path": folder / "s.csv", "record": "id", "time": "t", "item": "item", "value": "v", "items": {"lac": "lact"}}
        | said
    )
    source = RegistryConfig(path=folder / "r.csv", series=series)
    return read_registry(SiteConfig(name="amc", registry=source), TIMED)


def later(folder: Path, first: str, second: str, **said: str) -> str | None:
    """What is asked for 24 hours after the first of two times; None where the second is not then."""
    moment = timed(folder, f"1,{first},lac,1\n1,{second},lac,2\n", **said).patients[0].later.get("l24")
    return moment and moment.truth


def untimed(folder: Path, *times: str, **said: str) -> FedReasonError:
    with pytest.raises(FedReasonError) as caught:
        timed(folder, "".join(f"1,{time},lac,{value}\n" for value, time in enumerate(times)), **said)
    assert caught.value.code is Code.REGISTRY_SERIES
    return caught.value


def test_times_without_a_zone_beside_times_with_one_are_refused_unless_theirs_is_told(tmp_path: Path) -> None:
    times = ("2026-01-02T08:00:00+09:00", "2026-01-02T00:30:00", "2026-01-03T08:00:00")
    error = untimed(tmp_path, *times)
    refusal(error, Code.REGISTRY_SERIES, "a time with a zone on line 2", "without a zone on line 3, 4", "timezone =")
    assert "2026" not in str(error)
    assert later(tmp_path, times[0], times[2], timezone="Asia/Seoul") == "2.0"
    assert later(tmp_path, times[0], times[2], timezone="UTC") is None


@pytest.mark.parametrize(
    ("first", "second", "apart"),
    [
        ("2026-03-28 12:00", "2026-03-29 12:00", 23.0),  # the clocks go forward
        ("2026-10-24 12:00", "2026-10-25 12:00", 25.0),  # and back
        ("2026-03-29 01:30", "2026-03-29 03:30", 1.0),
        ("2026-03-29 02:30", "2026-03-29 03:30", 0.0),  # skipped: as if not changed yet
        ("2026-10-25 02:30", "2026-10-25 03:30", 2.0),  # came twice: the first
        ("2026-01-02 12:00", "2026-01-03 12:00", 24.0),
    ],
)
def test_a_difference_is_real_time_over_a_change_of_clocks(first: str, second: str, apart: float) -> None:
    times = Times(zone="Europe/Berlin")
    one, other = times.take(2, first), times.take(3, second)
    assert one is not None and other is not None and other - one == pytest.approx(apart)


@given(st.datetimes(datetime(2000, 1, 1), datetime(2035, 1, 1)), st.integers(1, 200_000))
def test_local_times_differ_as_the_moments_they_were_written_at_but_for_the_hour_that_comes_twice(
    start: datetime, minutes: int
) -> None:
    zone = ZoneInfo("America/New_York")
    one = start.replace(microsecond=0, tzinfo=UTC)
    local = [moment.astimezone(zone) for moment in (one, one + timedelta(minutes=minutes))]
    if any(moment.fold for moment in local):
        return
    times = Times(zone="America/New_York")
    first, second = (times.take(2, f"{moment:%Y-%m-%d %H:%M:%S}") for moment in local)
    assert first is not None and second is not None and second - first == pytest.approx(minutes / 60)


def test_zones_of_several_kinds_are_moments(tmp_path: Path) -> None:
    assert later(tmp_path, "2026-01-02T08:00:00+09:00", "2026-01-02T23:00:00Z") == "2.0"
    assert later(tmp_path, "2026-01-02 08:00:00 +0900", "2026-01-02 18:00:00-05") == "2.0"


@pytest.mark.parametrize("serials", [("46024.3", "46025.3"), ("44562.3", "44563.3")])
def test_the_days_of_excel_are_refused_or_read_as_told(tmp_path: Path, serials: tuple[str, str]) -> None:
    refusal(untimed(tmp_path, *serials), Code.REGISTRY_SERIES, "line 2, 3", "Excel", 'times = "excel"')
    for said in ("excel", "excel1904", "days"):
        assert later(tmp_path, *serials, times=said) == "2.0"


def test_excels_two_calendars_are_the_days_they_mean_so_that_clocks_can_change(tmp_path: Path) -> None:
    change, day = datetime(2026, 3, 28, 12), timedelta(days=1)
    for name, first in (("excel", datetime(1899, 12, 30)), ("excel1904", datetime(1904, 1, 1))):
        serial, next_ = ((moment - first) / day for moment in (change, change + day))
        times = Times(name, "Europe/Berlin")
        one, other = times.take(2, str(serial)), times.take(3, str(next_))
        assert one is not None and other is not None and other - one == pytest.approx(23)
    dates_beside = later(tmp_path, "2026-01-02 07:12", "46025.3", times="excel")
    assert dates_beside == "2.0"


@pytest.mark.parametrize(
    ("times", "told"),
    [
        (("1767340800", "1767427200"), 'times = "seconds"'),
        (("1767340800000",), "milliseconds"),
        (("20260102", "20260103"), "%Y%m%d"),
        (("500000",), 'or "hours"'),
        (("5", "2026-01-02 08:00"), "a number on line 2, a time without a zone on line 3"),
        (("2026-01-02", "2026-01-02 08:00", "2026-01-03 09:00"), "a date without a time of day on line 2"),
        (("03/04/2024 08:00",), 'times = "%d.%m.%Y %H:%M"'),
        (("04.03.24",), "line 2"),
        (("1-2",), "line 2"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(tmp_path: Path, times: Sequence[str], told: str) -> None:
    refusal(untimed(tmp_path, *times), Code.REGISTRY_SERIES, told)


@pytest.mark.parametrize(
    ("said", "first", "second"),
    [
        ("%d/%m/%Y %H:%M", "03/04/2024 08:00", "04/04/2024 08:00"),
        ("%m/%d/%Y %H:%M", "03/31/2024 08:00", "04/01/2024 08:00"),
        ("%d.%m.%y", "31.12.25", "01.01.26"),
        ("%Y%m%d%H%M", "202601020800", "202601030800"),
        ("seconds", "1767340800", "1767427200"),
        ("minutes", "-30", "1410"),
        ("milliseconds", "1767340800000", "1767427200000"),
        ("hours", "500000", "500024"),
    ],
)
def test_times_are_read_as_told(tmp_path: Path, said: str, first: str, second: str) -> None:
    assert later(tmp_path, first, second, times=said) == "2.0"


def test_a_day_that_the_pattern_does_not_know_is_refused(tmp_path: Path) -> None:
    refusal(untimed(tmp_path, "03/04/2024", "13/04/2024", times="%m/%d/%Y"), Code.REGISTRY_SERIES, "line 3")


@pytest.mark.parametrize("said", [{"times": "day"}, {"times": "%H:%M"}, {"times": "%d.%m."}, {"times": "%d %d %Y"}])
@pytest.mark.parametrize("zone", [None, "Mars/Base", "", "../UTC", "Europe"])
def test_a_form_or_zone_that_is_none_is_refused_when_site_toml_is_read(said: dict[str, str], zone: str | None) -> None:
    given = {"path": "s.csv", "record": "id", "time": "t", "item": "i", "value": "v", "items": {"a": "b"}}
    with pytest.raises(ValueError):
        SeriesConfig.model_validate(given | (said if zone is None else {"timezone": zone}))


def test_the_letters_of_a_zone_are_refused_by_a_pattern_that_would_not_read_them(tmp_path: Path) -> None:
    given = {"path": "s.csv", "record": "id", "time": "t", "item": "i", "value": "v", "items": {"a": "b"}}
    for said in ("%Y-%m-%d %H:%M %Z", "%Z %d.%m.%Y", "%%%Z %d.%m.%Y"):
        with pytest.raises(ValueError, match="a zone is %z"):
            SeriesConfig.model_validate(given | {"times": said})
    assert later(tmp_path, "02.01.2026 08:00 +0900", "02.01.2026 23:00 Z", times="%d.%m.%Y %H:%M %z") == "2.0"
    in_seoul = {"times": "%Y-%m-%d %H:%M KST", "timezone": "Asia/Seoul"}
    assert later(tmp_path, "2026-01-02 08:00 KST", "2026-01-03 08:00 KST", **in_seoul) == "2.0"
    refusal(
        untimed(tmp_path, "2026-01-02 08:00 KST", "2026-01-03 08:00 UTC", **in_seoul), Code.REGISTRY_SERIES, "line 3"
    )


def test_real_dates_of_a_workbook_are_times_and_no_numbers(tmp_path: Path) -> None:
    sheet = Workbook()
    assert sheet.active is not None
    rows = (["id", "t", "item", "v"], ["1", datetime(2026, 1, 2), "lac", 1], ["1", datetime(2026, 1, 3), "lac", 2])
    for row in rows:
        sheet.active.append(row)
    sheet.save(tmp_path / "s.xlsx")
    (tmp_path / "r.csv").write_text("id,age\n1,50\n")
    given = {"record": "id", "time": "t", "item": "item", "value": "v", "items": {"lac": "lact"}}
    series = SeriesConfig.model_validate({"path": tmp_path / "s.xlsx"} | given)
    source = RegistryConfig(path=tmp_path / "r.csv", series=series)
    found = read_registry(SiteConfig(name="amc", registry=source), TIMED)
    assert found.patients[0].later["l24"].truth == "2.0"
    sheet.active["D2"] = datetime(1900, 1, 5)  # what a spreadsheet makes of 5.1
    sheet.save(tmp_path / "s.xlsx")
    report = read_registry(SiteConfig(name="amc", registry=source), TIMED).report
    assert report.unreadable == {"lact": 1}


def test_values_are_joined_whatever_the_spelling_and_never_of_two_patients(tmp_path: Path) -> None:
    joined = timed(tmp_path, "001,0,lac,1\nP2.0,0,lac,2\n", "1.0,50\np2.0,60\n").patients
    assert [patient.values["lact"] for patient in joined] == ["1.0", "2.0"]
    with pytest.raises(FedReasonError) as caught:
        timed(tmp_path, "001,0,lac,1\n1,0,lac,2\n")
    refusal(caught.value, Code.REGISTRY_IDENTIFIER, "s.csv", "lines 2 and 3")
