"""Identifiers, times, codes of REDCap and drafts that went wrong: each is read right, or refused by number."""

from __future__ import annotations

import csv
import random
import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from openpyxl import Workbook
from sqlalchemy import create_engine, text
from typer.testing import CliRunner

from client.draft.cli import codebook as command
from client.draft.doubts import stand_ins
from client.draft.table import Draft, draft
from client.inspection.check import Line, check_site
from client.registry.folding import folded, identity, lost, plain
from client.registry.load import Registry
from client.registry.redcap.config import RedcapConfig
from client.registry.table import Table
from client.registry.times import Times, form_of
from client.site.config import ExclusionsConfig, RegistryConfig, SeriesConfig, SiteConfig, load_site
from client.site.exclusions import opted_out, without_excluded
from client.site.opened import read_registry
from client.site.split import held_out
from client.training.contribution import Site
from common.codebook import ROW, Codebook, Feature, Task, load_codebook
from common.errors import Code, FedReasonError
from common.questions.question import Patient
from simulation.prepare import write_site
from tests.small import small_config

AGE = Feature(name="age", section="Person", label="Age", kind="numeric", low=0, high=120, step=5)
LACTATE = Feature(
    name="lact", section="Labs", label="Lactate", kind="numeric", low=0, high=30, step=1, decimals=1, series=True
)
BOOK = Codebook(title="T", patient="id", features=(AGE,))
TIMED = Codebook(
    title="T",
    patient="id",
    features=(AGE, LACTATE),
    tasks=(Task(name="l24", kind="later", feature="lact", hours=24, tolerance=0.5, question="In 24 hours?"),),
)


def refusal(of: FedReasonError, code: Code, *told: str) -> None:
    assert of.code is code, str(of)
    for part in told:
        assert part in str(of)


def read(folder: Path, rows: str, codebook: Codebook = BOOK) -> Registry:
    (folder / "r.csv").write_text(rows)
    return read_registry(SiteConfig(name="amc", registry=RegistryConfig(path=folder / "r.csv")), codebook)


def refused(folder: Path, rows: str, codebook: Codebook = BOOK) -> FedReasonError:
    with pytest.raises(FedReasonError) as caught:
        read(folder, rows, codebook)
    return caught.value


# --- Identifiers ---


@pytest.mark.parametrize(
    ("written", "plainly"),
    [
        (" 123\u00a0", "123"),
        ("\ufeff123", "123"),
        ("12\u200b3", "123"),
        ("123.0", "123"),
        ("123.", "123"),
        ("123,00", "123"),
        ('="0012"', "0012"),
        ("'0012", "0012"),
        ("\uff11\uff12\uff13", "123"),
        ("A\u2013001", "A-001"),
        ("P  12", "P 12"),
        ("1e5", "1e5"),
        ("1,000", "1,000"),
        ("2E7", "2E7"),
        ("12345678901234567890", "12345678901234567890"),
        ("550E8400-E29B-41D4-A716-446655440000", "550E8400-E29B-41D4-A716-446655440000"),
    ],
)
def test_what_nobody_sees_or_means_is_no_part_of_an_identifier(written: str, plainly: str) -> None:
    assert plain(written) == plainly


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("00123", "123", True),
        ("124.0", "0124", True),
        ("P12", "p12 ", True),
        ("000", "0", True),
        ("550E8400-E29B-41D4-A716-446655440000", "550e8400-e29b-41d4-a716-446655440000", True),
        ("9007199254740993", "9007199254740992", False),
        ("1e5", "100000", False),
        ("123.5", "123", False),
        ("1,000", "1", False),
        ("A001", "A1", False),
        ("12 3", "123", False),
    ],
)
def test_identifiers_are_compared_folded(one: str, other: str, alike: bool) -> None:
    assert (folded(one) == folded(other)) is alike


@given(st.text(max_size=12))
def test_folding_twice_is_folding_once(written: str) -> None:
    assert plain(plain(written)) == plain(written)
    assert identity(identity(written)) == identity(written)
    assert folded(folded(written)) == folded(written)


@given(st.integers(0, 10**25), st.integers(0, 10**25))
def test_no_two_numbers_fold_together(one: int, other: int) -> None:
    assert (folded(str(one)) == folded(str(other))) is (one == other)


@given(st.from_regex(r"[A-Za-z1-9][A-Za-z0-9_-]{0,12}", fullmatch=True))
def test_an_ordinary_identifier_is_known_by_itself_so_that_its_patient_stays_on_its_side(written: str) -> None:
    config = small_config("tiny")
    assert identity(written) == written
    assert held_out(Patient(identity(written), {}), config, None) == held_out(Patient(written, {}), config, None)


@pytest.mark.parametrize("written", ["1.23457E+11", "1E+05", "1.2345678901234568e+17", "9007199254740992.0"])
def test_a_number_that_lost_digits_is_refused(tmp_path: Path, written: str) -> None:
    assert lost(written)
    refusal(refused(tmp_path, f"id,age\n1,50\n{written},51\n"), Code.REGISTRY_IDENTIFIER, "line 3", "lost digits")


@pytest.mark.parametrize("whole", ["9007199254740993", "1e5", "2E7", "12345.0", "P1.5", "1234567890123456789012"])
def test_a_whole_number_or_a_code_lost_none(whole: str) -> None:
    assert not lost(whole)


@pytest.mark.parametrize(("one", "other"), [("00123", "123"), ("p12", "P12"), ("0", "000")])
def test_two_that_fold_together_are_refused_and_not_merged(tmp_path: Path, one: str, other: str) -> None:
    error = refused(tmp_path, f"id,age\nx,50\n{one},51\n{other},52\n")
    refusal(error, Code.REGISTRY_IDENTIFIER, "lines 3 and 4")
    assert "123" not in str(error) and "12" not in str(error).replace("r.csv", "")


def test_so_are_they_where_patients_have_several_rows(tmp_path: Path) -> None:
    book = BOOK.model_copy(update={"record": "visit"})
    error = refused(tmp_path, "id,visit,age\n007,1,50\n7,2,51\n", book)
    refusal(error, Code.REGISTRY_IDENTIFIER, "identifier id", "lines 2 and 3")
    error = refused(tmp_path, "id,visit,age\n7,v1,50\n7,V1,51\n", book)
    refusal(error, Code.REGISTRY_IDENTIFIER, "identifier visit")


def test_one_way_to_write_it_and_a_decimal_point_are_the_same_identifier(tmp_path: Path) -> None:
    refusal(refused(tmp_path, "id,age\n123,50\n123.0,51\n"), Code.REGISTRY_DUPLICATE_PATIENT, "lines 2 and 3")
    refusal(refused(tmp_path, "id,age\n123,50\n\u200b,51\n"), Code.REGISTRY_DUPLICATE_PATIENT, "line 3 has none")
    book = BOOK.model_copy(update={"record": "visit"})
    found = read(tmp_path, "id,visit,age\n123,a,50\n123.0,b,51\n", book)
    assert [(patient.id, len(patient.visits)) for patient in found.patients] == [("123", 1)]


def test_a_patient_is_known_alike_from_text_workbook_and_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheet = Workbook()
    assert sheet.active is not None
    for row in (["id", "age"], [123, 50], ["00124", 51], [125.0, 52], ["P1", 53]):
        sheet.active.append(row)
    sheet.save(tmp_path / "r.xlsx")
    engine = create_engine(f"sqlite:///{tmp_path}/r.db")
    with engine.begin() as database:
        database.execute(text("create table r (id, age)"))
        database.execute(text("insert into r values (123, 50), ('00124', 51), (125.0, 52), ('P1', 53)"))
    monkeypatch.setenv("REGISTRY_URL", f"sqlite:///{tmp_path}/r.db")
    sources = (
        RegistryConfig(path=tmp_path / "r.xlsx"),
        RegistryConfig(url_variable="REGISTRY_URL", query="select id, age from r"),
    )
    expected = read(tmp_path, "id,age\n123,50\n124,51\n125,52\nP1,53\n").patients
    for source in sources:
        found = read_registry(SiteConfig(name="amc", registry=source), BOOK).patients
        assert [patient.id for patient in found] == [patient.id for patient in expected]


# --- Opt-outs ---


@pytest.mark.parametrize(
    "listed",
    [
        "00123\n124.0\n",
        "patient_id\n123\n124\n",
        "MRN;withdrawn;reason\r\n00123;2026-05-03;125\r\n124;2026-05-03;126\r\n",
        "date,patient_id\n2026-05-03,123\n2026-05-03,0124\n",
        "123\t2026-05-03\n124\t2026-05-04\n",
        "# by letter\n'00123'\n\u00a0124\u200b # by telephone\n",
        "123, 124\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_whoever_is_listed_is_left_out(tmp_path: Path, listed: str, encoding: str) -> None:
    patients = read(tmp_path, "id,age\n123,50\n124,51\n125,52\n126,53\n").patients
    (tmp_path / "excluded.txt").write_bytes(listed.encode(encoding))
    assert [patient.id for patient in without_excluded(patients, tmp_path)] == ["125", "126"]


def test_a_number_of_the_list_that_lost_digits_is_refused_whatever_the_list_is(tmp_path: Path) -> None:
    (tmp_path / "excluded.txt").write_text("1.23457E+11\nP1\n")
    for whole_hospital in (False, True):
        with pytest.raises(FedReasonError) as caught:
            without_excluded([Patient("P1", {})], tmp_path, whole_hospital=whole_hospital)
        refusal(caught.value, Code.EXCLUSIONS_UNKNOWN, "line 1", "lost digits")


@pytest.mark.parametrize("name", ["excluded.csv", "excluded.xlsx", "excluded.txt.txt", "Excluded.TXT", "excluded"])
def test_a_list_under_another_name_is_refused_and_not_passed_over(tmp_path: Path, name: str) -> None:
    (tmp_path / "excluded.txt").touch()
    (tmp_path / "excluded.txt~").touch()
    assert without_excluded([Patient("P1", {})], tmp_path)
    (tmp_path / name).touch()
    with pytest.raises(FedReasonError) as caught:
        without_excluded([Patient("P1", {})], tmp_path)
    refusal(caught.value, Code.EXCLUSIONS_UNKNOWN, name)


@pytest.mark.parametrize("content", [b"PK\x03\x04\x00\x00", "P1\n".encode("utf-16-le"), b"\xff\xfeP"])
def test_a_list_that_is_no_text_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "excluded.txt").write_bytes(content)
    with pytest.raises(FedReasonError) as caught:
        without_excluded([Patient("P1", {})], tmp_path)
    refusal(caught.value, Code.REGISTRY_ENCODING)


def test_a_heading_counts_as_one_only_where_it_names_nobody_and_stands_first(tmp_path: Path) -> None:
    (tmp_path / "excluded.txt").write_text("id\nP1\n")
    assert opted_out([Patient("P1", {}), Patient("id", {})], tmp_path).gone == {"id", "p1"}
    assert opted_out([Patient("P1", {})], tmp_path).unknown == ()
    (tmp_path / "excluded.txt").write_text("P1\nid\n")
    assert opted_out([Patient("P1", {})], tmp_path).unknown == (2,)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    rows = [{"id": f"{i:04d}", "age": str(30 + i)} for i in range(1, 41)]
    return write_site(tmp_path / "amc", "amc", ["id", "age"], rows, BOOK)


def lines_of(folder: Path, config: SiteConfig | None = None) -> dict[str, Line]:
    found = check_site(folder, config or load_site(folder), None, tell=lambda _: None)
    return {line.name: line for line in found.lines}


def test_check_refuses_on_the_line_of_the_opt_outs_and_tells_the_lines_of_the_list(site: Path) -> None:
    (site / "excluded.txt").write_text("# withdrawn\n7\n4711\n0009.0\n")
    told = lines_of(site)
    assert told["opt-outs"].code == Code.EXCLUSIONS_UNKNOWN
    assert "1 of 3 lines name nobody in the registry: line 3" in told["opt-outs"].text
    assert "4711" not in told["opt-outs"].text
    assert ", 2 opted out," in told["records"].text
    (site / "excluded.txt").write_text("7\n0009.0\n")
    assert lines_of(site)["opt-outs"] == Line("opt-outs", "excluded.txt has 2 lines, 2 patients opted out")
    (site / "excluded.txt").write_text("# nobody\n")
    assert lines_of(site)["opt-outs"].text == "excluded.txt is empty"


def test_a_list_of_the_whole_hospital_is_counted_and_doubted_where_it_names_nobody_at_all(site: Path) -> None:
    config = load_site(site).model_copy(update={"exclusions": ExclusionsConfig(whole_hospital=True)})
    (site / "excluded.txt").write_text("7\n4711\n")
    line = lines_of(site, config)["opt-outs"]
    assert line.code is None and not line.warning and "1 lines name nobody" in line.text
    (site / "excluded.txt").write_text("4711\n4712\n")
    assert lines_of(site, config)["opt-outs"].warning


def test_the_list_is_not_judged_by_a_registry_that_cannot_be_read(site: Path) -> None:
    (site / "excluded.txt").write_text("4711\n")
    (site / "registry.csv").write_text("id,age\n")
    line = lines_of(site)["opt-outs"]
    assert line.warning and line.code is None and "is not known" in line.text


def test_a_site_computes_nothing_while_its_list_names_a_stranger(site: Path) -> None:
    (site / "excluded.txt").write_text("0007\n4711\n")
    with pytest.raises(FedReasonError) as caught:
        _ = Site(site).patients
    refusal(caught.value, Code.EXCLUSIONS_UNKNOWN)
    (site / "excluded.txt").write_text("7\n")
    assert len(Site(site).patients) == 39


# --- Times ---


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


# --- REDCap ---

TITLES = [
    *("Variable / Field Name", "Form Name", "Section Header", "Field Type", "Field Label"),
    *("Choices, Calculations, OR Slider Labels", "Field Note", "Text Validation Type OR Show Slider Number"),
    *("Text Validation Min", "Text Validation Max", "Identifier?", "Branching Logic (Show field only if...)"),
]
FIELDS = [
    ["record_id", "adm", "", "text", "ID"],
    ["signs", "adm", "", "checkbox", "Signs", "1, fever | 2, cough | -1, other"],
    ["signs2", "adm", "", "checkbox", "More signs", "1, rash | 2, pain"],
    ["age", "adm", "", "text", "Age", "", "", "integer", "0", "120"],
]
BOXES = tuple(
    Feature(name=name, section="A", label=name, kind="categorical", categories={"0": "No", "1": "Yes"})
    for name in ("signs___1", "signs___2", "signs____1", "signs2___1")
)
REDCAP = Codebook(
    title="T",
    patient="record_id",
    missing=("", "NASK", "-99"),
    ignored=("signs____99", "signs___nask", "signs___NASK", "signs2___2", "adm_complete", "redcap_*"),
    features=(*BOXES, AGE),
)


def exported(folder: Path, text: str) -> list[dict[str, str]]:
    with (folder / "d.csv").open("w", newline="") as file:
        csv.writer(file).writerows([TITLES, *(field + [""] * (len(TITLES) - len(field)) for field in FIELDS)])
    (folder / "r.csv").write_text(text)
    source = RegistryConfig(path=folder / "r.csv", redcap=RedcapConfig(dictionary=folder / "d.csv"))
    found = read_registry(SiteConfig(name="amc", registry=source), REDCAP)
    return [dict(patient.values) for patient in found.patients]


HEADER = "record_id,signs___1,signs___2,signs____1,signs____99,signs___nask,signs2___1,signs2___2,age,adm_complete\n"


@pytest.mark.parametrize("header", [HEADER, HEADER.replace("nask", "NASK")])
@pytest.mark.parametrize("tick", ["1", "1.0"])
def test_boxes_of_a_field_that_is_marked_missing_are_missing(tmp_path: Path, header: str, tick: str) -> None:
    rows = f"001,0,0,0,0,{tick},0,1,64,2\n002,0,0,0,{tick},0,1,0,70,2\n003,1,0,0,0,0,0,0,70,2\n004,0,0,0,0,0,0,0,70,2\n"
    no = dict.fromkeys(("signs___1", "signs___2", "signs____1"), "No")
    assert exported(tmp_path, header + rows) == [
        {"signs2___1": "No", "age": "64"},
        {"signs2___1": "Yes", "age": "70"},
        {**no, "signs___1": "Yes", "signs2___1": "No", "age": "70"},
        {**no, "signs2___1": "No", "age": "70"},
    ]


def test_a_box_that_a_spreadsheet_wrote_with_a_point_is_ticked_all_the_same(tmp_path: Path) -> None:
    found = exported(tmp_path, f"{HEADER}1,1.0,0.0,0.0,0.0,0.0,0.0,0.0,,0.0\n")
    assert found == [{"signs___1": "Yes", "signs___2": "No", "signs____1": "No", "signs2___1": "No"}]


def test_a_missing_data_code_at_one_event_does_not_hide_the_value_at_another(tmp_path: Path) -> None:
    events = HEADER.replace("record_id", "record_id,redcap_event_name")
    rows = "1,a_arm_1,,,,,,,,NASK,\n1.0,b_arm_1,,,,,,,,64,\n2,a_arm_1,,,,,,,,-99,\n"
    assert exported(tmp_path, events + rows) == [{"age": "64"}, {}]


# --- Drafts ---


def drafted(columns: dict[str, list[str]]) -> Draft:
    rows = zip(*columns.values(), strict=True)
    table = Table("a table", tuple(columns), iter(list(enumerate(map(list, rows), start=2))))
    return draft(table, patient=ROW, decimal=".", title="T")


def with_codes(code: str, often: int = 20, draw: str = "platelets", rows: int = 400) -> list[str]:
    source = random.Random(7)
    draws = {
        "platelets": lambda: str(int(min(max(source.gauss(250, 80), 20), 600))),
        "age": lambda: str(int(min(max(source.gauss(66, 16), 18), 98))),
        "excess": lambda: f"{source.gauss(-2, 4):.1f}",
        "crp": lambda: f"{source.lognormvariate(3, 1):.1f}",
        "pulse": lambda: str(int(min(max(source.gauss(90, 15), 45), 160))),
        "score": lambda: str(source.randint(0, 24)),
    }
    return [code] * often + [draws[draw]() for _ in range(rows - often)]


@pytest.mark.parametrize(
    ("code", "draw", "doubted"),
    [
        ("9999", "platelets", True),
        ("999", "platelets", True),
        ("999.9", "crp", True),
        ("-9", "platelets", True),
        ("-1", "crp", True),
        ("0", "pulse", True),
        ("99", "score", True),
        ("888", "pulse", True),
        ("99", "age", False),
        ("-9", "excess", False),
        ("0", "score", False),
        ("99", "platelets", False),
    ],
)
def test_a_draft_doubts_codes_for_no_value_and_no_others(code: str, draw: str, doubted: bool) -> None:
    found = drafted({"x": with_codes(code, draw=draw)})
    feature = found.codebook.by_name["x"]
    assert feature.low is not None and feature.high is not None
    told = " ".join(found.doubts.get("x", ()))
    assert (f"{code} is taken for no value" in told) is doubted
    assert (feature.low <= float(code) <= feature.high) is not doubted
    assert f"# To review: {code} is taken" in found.text() if doubted else "To review" not in found.text()
    if doubted:
        plainly = drafted({"x": with_codes("", draw=draw)}).codebook.by_name["x"]
        assert feature.low >= (plainly.low or 0) and feature.high <= (plainly.high or 0)


def test_a_code_that_few_patients_have_is_doubted_and_not_written() -> None:
    found = drafted({"x": with_codes("9999", often=6)})
    assert "9999" not in found.text() and "a number of 9s" in found.text()
    assert (found.codebook.by_name["x"].high or 0) <= 1000


@pytest.mark.parametrize(("codes", "doubted"), [("129", True), ("01", False), ("0123", False), ("12345", False)])
def test_a_code_apart_from_the_others_is_to_be_reviewed(codes: str, doubted: bool) -> None:
    found = drafted({"x": list(codes) * 40})
    assert set(found.codebook.by_name["x"].categories) == set(codes)
    assert ("may stand for no value" in " ".join(found.doubts.get("x", ()))) is doubted


@given(st.lists(st.integers(0, 300), min_size=3, max_size=60), st.sampled_from([0, 9, 99, 999, 9999, -1, -9]))
def test_stand_ins_lie_at_an_end_and_repeat(numbers: list[int], code: int) -> None:
    import numpy as np

    found = stand_ins(np.array([*numbers, *[code] * 3], dtype=float), [float(code)])
    if found:
        others = [number for number in numbers if number != code]
        assert found == [code] and (code > max(others) or code < min(others))
    assert stand_ins(np.array(numbers, dtype=float), []) == []


def test_ways_to_write_a_category_are_one_in_a_draft_and_a_line_of_its_review() -> None:
    sexes = ["Male", "male", "M", "m", "M\u200b", "F", "female", "TRUE"]
    found = drafted({"sex": sexes * 12, "seen": ["Yes", "yes", "1", "TRUE", "No", "0", "n", "N"] * 12})
    sex, seen = (found.codebook.by_name[name].categories for name in ("sex", "seen"))
    assert {sex[code] for code in ("Male", "male", "M", "m", "M\u200b")} == {sex["Male"]}
    assert sex["F"] == sex["female"] != sex["Male"] and sex["TRUE"] not in (sex["F"], sex["M"])
    assert len(set(seen.values())) == 2 and seen["Yes"] == seen["1"] == seen["TRUE"] != seen["0"]
    told = found.doubts["sex"]
    assert [line.split(":")[0] for line in told] == ["taken for one"] * 2 + [told[-1]]
    assert told[-1].startswith("TRUE answers another question") and "'M\\u200b'" in " ".join(told)
    assert load_text(found).by_name["sex"].categories == sex


def load_text(found: Draft) -> Codebook:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        (Path(folder) / "codebook.toml").write_text(found.text())
        return load_codebook(Path(folder) / "codebook.toml")


def test_ways_to_write_it_count_together_and_a_rare_other_is_still_not_written() -> None:
    found = drafted({"ward": ["ICU"] * 7 + ["icu"] * 6 + ["Ward"] * 100 + ["secret"] * 9})
    assert set(found.codebook.by_name["ward"].categories) == {"ICU", "icu", "Ward"}
    assert "secret" not in found.text()


def test_codes_of_several_lines_or_signs_without_width_leave_the_draft_whole() -> None:
    found = drafted({"x": ["a\nb", "A\nB", "c\x07", "C\x07"] * 20})
    assert load_text(found) == found.codebook
    assert all(unicodedata.category(sign) != "Cc" for line in found.doubts["x"] for sign in line)


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        ([""] * 60, "empty"),
        (["1.5"] * 9 + [""] * 51, "fewer than 10 patients have a value"),
        (["x"] * 60, "one value only"),
        (["x"] * 55 + [f"rare {i}" for i in range(5)], "nearly everyone has the same value"),
        ([f"ward {i % 40}" for i in range(800)], "more than 30 different codes"),
        ([f"came in by foot and left again, {i}" for i in range(60)], "free text"),
        ([f"Kim {i}" for i in range(60)], "codes or words that few patients share"),
        ([f"{i / 10:.1f} mmol/L" for i in range(60)], "numbers with a unit or a flag in the cell"),
        ([f"{i} H" for i in range(60)], "numbers with a unit or a flag in the cell"),
        (
            [f"{i % 30},{i % 10}" for i in range(60)],
            "numbers with another decimal sign than '.', or with a separator: say --decimal, --thousands",
        ),
        (
            [str(i % 35) for i in range(40)] + [f"see {i}" for i in range(20)],
            "numbers among words that few patients share",
        ),
        ([f"{i}.1.2026" for i in range(1, 61)], "dates or times"),
    ],
)
def test_a_column_is_left_out_for_its_real_reason(cells: list[str], why: str) -> None:
    found = drafted({"x": cells, "other": list("ab") * (len(cells) // 2)})
    assert dict(found.left_out) == {"x": why}


def named_twice(folder: Path, second: Sequence[object]) -> Path:
    book = Workbook()
    assert book.active is not None
    book.active.append(["Patient", None, None, "Labs", None])
    book.active.append(list(second))
    for i in range(60):
        book.active.append([f"A-{i}", 20 + i % 40, "mf"[i % 2], 1.5 + i / 10, 200 + i % 50])
    book.save(folder / "r.xlsx")
    return folder / "r.xlsx"


def command_told(*words: object) -> str:
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exception is None, result.exception
    return result.output


def test_two_rows_of_names_are_taken_where_there_are_two(tmp_path: Path) -> None:
    source, out = named_twice(tmp_path, ["No.", "Age", "Sex", "Lactate (mmol/L)", "Platelets"]), tmp_path / "c.toml"
    options = ("--from", source, "--out", out, "--patient", "Patient / No.")
    assert "names from rows 1 and 2: say header_rows = 2" in command_told(*options)
    assert set(load_codebook(out).by_name) == {
        "Patient / Age",
        "Patient / Sex",
        "Labs / Lactate (mmol/L)",
        "Labs / Platelets",
    }


def test_a_first_row_of_values_is_no_row_of_names(tmp_path: Path) -> None:
    source, out = named_twice(tmp_path, ["A-x", 64, "m", 1.5, 200]), tmp_path / "c.toml"
    assert "header_rows" not in command_told("--from", source, "--out", out, "--patient", "#")


@pytest.mark.parametrize(
    ("content", "gone"),
    [
        ("No,patient_id\n1,150\n2,151\n", {"150", "151"}),
        ("Nr;Patient;Datum\n1;150;2024-01-01\n", {"150"}),
        ("visit_id;patient_id\n7;150\n", {"150"}),
        ("request_no,mrn,date\n3,150,2024-01-01\n", {"150"}),
        ("nr;id\n123;124\n", {"123", "124"}),  # neither is said to be of patients: better one too many
    ],
)
def test_of_several_columns_that_look_like_identifiers_the_patients_count(
    tmp_path: Path, content: str, gone: set[str]
) -> None:
    (tmp_path / "excluded.txt").write_text(content)
    patients = [Patient(str(number), {"a": "1"}) for number in range(1, 200)]
    staying = without_excluded(patients, tmp_path, whole_hospital=True)
    assert {patient.id for patient in patients} - {patient.id for patient in staying} == gone


@pytest.mark.parametrize("form", ["%m/%d/%Y %H:%M %p", "%m/%d/%Y %I:%M"])
def test_a_form_that_would_lose_half_of_the_day_is_refused(form: str) -> None:
    with pytest.raises(ValueError, match="AM and PM"):
        form_of(form)
    assert form_of("%m/%d/%Y %I:%M %p") == "%m/%d/%Y %I:%M %p"
