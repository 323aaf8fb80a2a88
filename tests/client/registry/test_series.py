"""Time-stamped values give first values and moments; a later value is asked from what was known until then alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.inspection.registry import Inspection, inspect_registry
from client.registry.config import RegistryConfig, SeriesConfig
from client.registry.load import Registry
from client.registry.series import Value, moment_of
from client.registry.times import Times
from client.site.config import SiteConfig
from client.site.opened import read_registry
from common.codebook import Codebook
from common.errors import Code, FedReasonError
from common.feature import OTHER, Feature
from common.questions.question import Moment, Patient, QuestionMaker
from common.stream import Stream
from common.tasks import Task

LACTATE = Feature(
    name="lactate",
    section="Blood gas",
    label="Lactate",
    kind="numeric",
    low=0,
    high=30,
    step=1,
    decimals=1,
    series=True,
)
MAP = Feature(name="map", section="Vitals", label="MAP", kind="numeric", low=20, high=200, step=10, series=True)
TASK = Task(name="lactate_24h", kind="later", feature="lactate", hours=24, question="Lactate 24 hours later?")
CODEBOOK = Codebook(
    title="test",
    patient="id",
    features=(
        Feature(name="age", section="Person", label="Age", kind="numeric", low=18, high=110, step=10),
        LACTATE,
        MAP,
        Feature(
            name="died",
            section="Outcome",
            label="Died",
            kind="categorical",
            categories={"no": "no", "yes": "yes"},
            known_later=True,
        ),
    ),
    leak_groups=(("lactate", "map"),),
    tasks=(TASK,),
)
ITEMS = {"50813": "lactate", "220052": "map"}
CONFIG = SeriesConfig(path=Path("labs.csv"), record="id", time="charttime", item="itemid", value="value", items=ITEMS)
LABS = """id,charttime,itemid,value
p1,2150-01-01 06:00,220052,55
p1,2150-01-01 08:00,50813,4.2
p1,2150-01-01 09:30,220052,61
p1,2150-01-02 07:00,50813,2.06
p1,2150-01-02 20:00,50813,1.1
p1,2150-01-01 08:10,999,7
p2,2150-03-01 08:00:00,50813,9.9
p2,2150-03-01 09:00:00,50813,nothing
p2,2150-03-01 09:30:00,50813,99
p3,2150-03-01 08:00:00,50813,NA
"""


def registry(folder: Path, labs: str = LABS, **changes: object) -> Registry:
    (folder / "registry.csv").write_text("id,age,died\np1,64,no\np2,70,yes\np3,50,no\n")
    (folder / "labs.csv").write_text(labs)
    series = SeriesConfig.model_validate({**CONFIG.model_dump(), "path": folder / "labs.csv", **changes})
    source = RegistryConfig(path=folder / "registry.csv", series=series)
    return read_registry(SiteConfig(name="amc", registry=source), CODEBOOK)


def test_the_first_values_stand_in_the_record_and_the_rest_is_counted(tmp_path: Path) -> None:
    read = registry(tmp_path)
    assert [dict(patient.values) for patient in read.patients] == [
        {"age": "64", "lactate": "4.2", "map": "55", "died": "no"},
        {"age": "70", "lactate": "9.9", "died": "yes"},
        {"age": "50", "died": "no"},
    ]
    assert (read.report.unreadable, read.report.outside) == ({"lactate": 1}, {"lactate": 1})


def test_a_later_value_is_asked_from_what_was_known_until_then(tmp_path: Path) -> None:
    first, second, third = registry(tmp_path).patients
    maker = QuestionMaker(CODEBOOK, "full", weights={"lactate_24h": 1.0})
    assert [maker.items(patient) for patient in (first, second, third)] == [["lactate_24h"], [], []]
    question = maker.make(first, "lactate_24h", Stream.named("test"))
    assert question is not None
    assert (question.truth, question.text) == ("2.1", "Lactate 24 hours later?")
    # At 08:00 the pressure of 09:30 was not known; 23 hours later is within the tolerance. The outcome never shows.
    assert question.record == ("[Person]", "Age: 64", "[Blood gas]", "Lactate: 4.2", "[Vitals]", "MAP: 55")


def test_values_of_nobody_and_of_records_that_the_registry_lacks_are_counted(tmp_path: Path) -> None:
    others = "".join(f"q{number % 3},2150-01-01 0{number}:00,50813,2\n" for number in range(7))
    nobody = " ,2150-01-01 08:00,50813,3\n,2150-01-01 09:00,50813,3\n"
    read = registry(tmp_path, LABS + others + nobody)
    nobodys, strangers = read.report.remarks
    assert "labs.csv: 2 values have no record and were left out" in nobodys
    assert "labs.csv: 7 values of 3 records that the registry does not have" in strangers
    assert read.patients == registry(tmp_path).patients and "q1" not in str(read.report.remarks)


@pytest.mark.parametrize("joined", [True, False])
def test_values_of_strangers_are_warned_of_where_records_of_the_registry_have_none(
    tmp_path: Path, joined: bool
) -> None:
    """Such as those of a ward that writes its numbers otherwise; a table of the whole hospital is none of it."""
    third = "p3" if joined else "P-3"
    others = "".join(f"q{number},2150-01-01 08:00,50813,2\n" for number in range(50))
    report = registry(tmp_path, f"{LABS}{third},2150-03-01 09:00:00,50813,3\n{others}").report
    assert (len(report.remarks), len(report.notes)) == ((0, 1) if joined else (1, 0))
    assert f"{50 + (not joined)} values of {50 + (not joined)} records" in report.lines()[1]


TIMES = st.lists(st.tuples(st.integers(0, 400), st.sampled_from(["lactate", "map"]), st.integers(0, 30)), max_size=30)


@given(rows=TIMES, hours=st.integers(1, 48), tolerance=st.integers(0, 12))
def test_a_moment_knows_nothing_of_what_came_after_it(
    rows: list[tuple[int, str, int]], hours: int, tolerance: int
) -> None:
    values = [Value(float(time), feature, str(number)) for time, feature, number in sorted(rows)]
    task = TASK.model_copy(update={"hours": float(hours), "tolerance": float(tolerance)})
    moment = moment_of(values, task)
    answers = [
        now
        for now in {value.hours for value in values}
        if any(v.feature == "lactate" and v.hours <= now for v in values)
        and any(v.feature == "lactate" and v.hours > now and abs(v.hours - now - hours) <= tolerance for v in values)
    ]
    assert (moment is None) == (not answers)
    if moment is not None:
        now = min(answers)
        known = [value for value in values if value.hours <= now]
        assert moment.values == {value.feature: value.text for value in known}
        assert moment_of([*known, *(v for v in values if v.feature == "lactate" and v.hours > now)], task) == moment


def test_of_several_values_at_one_time_the_first_of_the_table_is_shown_and_asked_for(tmp_path: Path) -> None:
    days = {"2150-01-01": ("9.0", "10.0", "2.0"), "2150-01-02": ("12.0", "3.0", "7.0")}
    rows = [f"p1,{day},50813,{value}\n" for day, values in days.items() for value in values]
    same = "p2,2150-01-01,50813,4.0\np2,2150-01-01,50813,4.00\n"
    read = registry(tmp_path, LABS.splitlines(keepends=True)[0] + "".join(rows) + same)
    assert read.patients[0].values["lactate"] == "9.0"
    assert read.patients[0].later["lactate_24h"] == Moment({"lactate": "9.0"}, "12.0")
    (remark,) = read.report.remarks
    assert "1 records have different values of a feature at one time" in remark
    assert registry(tmp_path).report.remarks == ()


@pytest.mark.parametrize(("first", "hours", "tolerance", "then"), [(8, 6, 0, 368), (8, 6, 1, 428), (7, 0.1, 0, 13)])
def test_a_value_just_at_the_tolerance_is_the_one_that_is_asked_for(
    first: int, hours: float, tolerance: float, then: int
) -> None:
    """Minutes have no last digit as hours."""
    task = TASK.model_copy(update={"hours": float(hours), "tolerance": float(tolerance)})
    moment = moment_of([Value(first / 60, "lactate", "2"), Value(then / 60, "lactate", "7")], task)
    assert moment is not None and moment.truth == "7"


def test_a_column_that_leaks_the_later_value_is_not_shown_and_its_own_series_is() -> None:
    highest = Feature(name="highest", section="Blood gas", label="Highest", kind="numeric", low=0, high=30, step=1)
    groups = (*CODEBOOK.leak_groups, ("lactate", "highest"))
    book = CODEBOOK.model_copy(update={"features": (*CODEBOOK.features, highest), "leak_groups": groups})
    assert book.hidden_for_task(TASK) == {"died", "highest"}
    assert book.hidden_for("lactate") == {"map", "highest"}


def test_what_a_site_found_to_leak_is_hidden_from_the_later_question_and_a_series_before_is_not() -> None:
    found = {"lactate": frozenset({"age", "map", "died"})}
    maker = QuestionMaker(CODEBOOK, "full", leaks=found)
    assert maker.hidden(LACTATE, TASK) == {"age", "died"} and maker.hidden(LACTATE, None) == {"age", "map", "died"}
    patient = Patient("p", {"age": "64", "map": "70"}, {TASK.name: Moment({"lactate": "4.2", "map": "55"}, "2.1")})
    question = maker.make(patient, TASK.name, Stream.named("test"))
    assert question is not None
    assert question.record == ("[Blood gas]", "Lactate: 4.2", "[Vitals]", "MAP: 55")


def test_the_value_before_is_shown_though_another_leaks_when_the_same_is_masked() -> None:
    assert CODEBOOK.hidden_for("lactate") == {"map"}
    assert CODEBOOK.hidden_for_task(TASK) == {"died"}


@pytest.mark.parametrize(
    ("text", "hours"),
    [
        ("12", 12.0),
        ("-0.5", -0.5),
        ("1970-01-02", 24.0),
        ("1970-01-01T01:30", 1.5),
        ("1970-01-01 02:00+01:00", 1.0),
        ("yesterday", None),
        ("", None),
        ("1/2/2020", None),
    ],
)
def test_times_are_iso_or_hours(text: str, hours: float | None) -> None:
    assert Times().take(1, text) == hours


@pytest.mark.parametrize(
    ("labs", "changes", "told"),
    [
        (LABS, {"time": "when"}, "labs.csv has not one column each for when"),
        (LABS, {"items": {"1": "age"}}, "names age, no series of the codebook. Its series are: lactate, map"),
        (LABS.replace("2150-01-01 08:00", "Q7ZSENTINEL"), {}, "column charttime: no time can be read on line 3"),
        (LABS.replace("p", "Q7ZSENTINEL"), {}, "no row belongs to a record of the registry"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_without_a_cell(
    tmp_path: Path, labs: str, changes: dict[str, object], told: str
) -> None:
    with pytest.raises(FedReasonError, match="E311") as caught:
        registry(tmp_path, labs, **changes)
    assert told in str(caught.value) and "Q7ZSENTINEL" not in str(caught.value)


def test_a_codebook_asks_for_the_later_value_of_a_series_only(tmp_path: Path) -> None:
    from common.codebook import load_codebook

    path = tmp_path / "codebook.toml"
    path.write_text(CODEBOOK.to_toml())
    assert load_codebook(path) == CODEBOOK
    path.write_text(CODEBOOK.to_toml().replace('feature = "lactate"', 'feature = "age"'))
    with pytest.raises(FedReasonError, match=r"E205.*no series"):
        load_codebook(path)


def test_a_site_without_times_asks_nothing_of_them(tmp_path: Path) -> None:
    (tmp_path / "registry.csv").write_text("id,age,died\np1,64,no\n")
    site = SiteConfig(name="amc", registry=RegistryConfig(path=tmp_path / "registry.csv"))
    (patient,) = read_registry(site, CODEBOOK).patients
    assert QuestionMaker(CODEBOOK, "full").items(patient) == ["age", "died"]


RHYTHM = Feature(
    name="rhythm",
    section="Vitals",
    label="Rhythm",
    kind="categorical",
    categories={"SR": "sinus rhythm", "AF": "atrial fibrillation"},
    series=True,
)
LATER = Task(name="r24", kind="later", feature="rhythm", hours=24, question="Rhythm 24 hours later?")
RHYTHMS = CODEBOOK.model_copy(update={"features": (CODEBOOK.by_name["age"], RHYTHM), "tasks": (LATER,)})
RHYTHMS = Codebook.model_validate(RHYTHMS.model_dump() | {"leak_groups": ()})


def rhythms(folder: Path, *cells: tuple[int, str], age: str = "64") -> Registry:
    """One registry of 30 patients with these values, each at its hour."""
    (folder / "registry.csv").write_text("id,age\n" + "".join(f"p{i},{age}\n" for i in range(30)))
    rows = (f"p{i},{hour},r,{cell}\n" for i in range(30) for hour, cell in cells)
    (folder / "labs.csv").write_text("id,charttime,itemid,value\n" + "".join(rows))
    series = CONFIG.model_copy(update={"path": folder / "labs.csv", "items": {"r": "rhythm"}})
    site = SiteConfig(name="amc", registry=RegistryConfig(path=folder / "registry.csv", series=series))
    return read_registry(site, RHYTHMS)


def inspected(read: Registry) -> Inspection:
    return inspect_registry(read, QuestionMaker(RHYTHMS, "full"), read.patients)


def test_codes_of_a_series_that_are_not_listed_are_counted_asked_of_nobody_and_refused_where_there_are_no_others(
    tmp_path: Path,
) -> None:
    read = rhythms(tmp_path, (0, "Sinus"), (24, "AFib"))
    found = inspected(read)
    assert read.report.unlisted == {"rhythm": 60} and any("60 not a listed" in line for line in read.report.lines())
    assert found.tasks == {"r24": 0} and found.refused == ("rhythm",)
    (told,) = [finding.text for finding in found.findings if finding.code is Code.REGISTRY_UNITS]
    assert "60 filled cells cannot be used: 60 no listed category" in told
    with pytest.raises(FedReasonError, match="E305"):
        rhythms(tmp_path, (0, "Sinus"), (24, "AFib"), age="")


def test_a_series_that_a_later_code_tells_something_of_is_not_refused(tmp_path: Path) -> None:
    found = inspected(rhythms(tmp_path, (0, "Sinus"), (1, "Sinus"), (24, "AF")))
    assert found.refused == () and found.tasks == {"r24": 0}


def test_a_code_that_is_not_listed_is_neither_known_nor_asked_for_later(tmp_path: Path) -> None:
    read = rhythms(tmp_path, (0, "Sinus"), (2, "SR"), (3, "Sinus"), (26, "AF"), (27, "AFib"))
    maker, patient = QuestionMaker(RHYTHMS, "full", weights={"r24": 1.0}), read.patients[0]
    assert inspected(read).tasks == {"r24": 30} and maker.truths("r24", [patient]) == ["atrial fibrillation"]
    question = maker.make(patient, "r24", Stream.named("test"))
    assert question is not None
    assert question.truth == "atrial fibrillation" and "Rhythm: sinus rhythm" in question.record
    unlisted = Patient("p", {}, {"r24": Moment({"rhythm": "sinus rhythm"}, OTHER)})
    assert (maker.items(unlisted), maker.truths("r24", [unlisted])) == ([], [])
    assert maker.make(unlisted, "r24", Stream.named("test")) is None
