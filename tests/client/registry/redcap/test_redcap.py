"""A raw REDCap export becomes one row a record: events, instances, groups, boxes; identifiers go no further."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.registry.delimited import read_delimited
from client.registry.load import Registry, registry_from
from client.registry.redcap.address import Address, address_of
from client.registry.redcap.config import RedcapConfig
from client.registry.redcap.records import open_redcap
from client.registry.table import Table
from common.codebook import Codebook, load_codebook
from common.errors import Code, FedReasonError
from common.feature import Feature
from common.questions.question import Question, QuestionMaker
from common.stream import Stream
from tests.examples import examples
from tests.laws import ONE_FOLDER
from tests.paths import DATA, ROOT

REDCAP = DATA / "redcap"
SENTINEL = "Q7ZSENTINEL"

TITLES = [
    *("Variable / Field Name", "Form Name", "Section Header", "Field Type", "Field Label"),
    *("Choices, Calculations, OR Slider Labels", "Field Note", "Text Validation Type OR Show Slider Number"),
    *("Text Validation Min", "Text Validation Max", "Identifier?", "Branching Logic (Show field only if...)"),
]
FIELDS = [
    ["id", "intake", "", "text", "ID"],
    ["surname", "intake", "", "text", "Surname", "", "", "", "", "", "y"],
    ["phone", "intake", "", "text", "Phone", "", "", "phone"],
    ["tags", "intake", "", "checkbox", "Tags", "1, one | 2, two"],
    ["sex", "intake", "", "radio", "Sex", "1, male | 2, female"],
    ["sbp", "vitals", "", "text", "Pressure", "", "", "integer", "0", "300"],
    ["temp", "vitals", "", "text", "Temperature", "", "", "number_1dp_comma_decimal", "30,0", "45,0"],
    ["signs", "vitals", "", "checkbox", "Signs", "1, fever | 2, chills"],
    ["drugs", "vitals", "", "checkbox", "Drugs", "a, aspirin | b, heparin"],
    ["doses", "vitals", "", "checkbox", "Doses", "1, low | 2, high", "", "", "", "", "", "[drugs(b)] = '1'"],
]


@pytest.fixture
def config(tmp_path: Path) -> RedcapConfig:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([TITLES, *(field + [""] * (len(TITLES) - len(field)) for field in FIELDS)])
    (tmp_path / "dictionary.csv").write_text(text.getvalue(), newline="")
    return RedcapConfig(dictionary=tmp_path / "dictionary.csv")


def export(text: str) -> Table:
    """An export as it is typed here: columns apart by blanks, a blank cell as a dot."""
    header, *rows = ([cell.strip(".") if cell == "." else cell for cell in line.split()] for line in text.split("\n"))
    return Table("records.csv", tuple(header), iter(list(enumerate(rows, start=2))))


def records(table: Table, config: RedcapConfig, *wanted: str) -> list[tuple[str, ...]]:
    """Cells of the wanted columns, a row a record."""
    merged = open_redcap(table, config, wanted)
    places = [merged.columns.index(name) for name in wanted]
    return [tuple(cells[place] for place in places) for _, cells in merged.rows]


def refused(table: Table, config: RedcapConfig, *wanted: str) -> FedReasonError:
    with pytest.raises(FedReasonError) as caught:
        records(table, config, *wanted)
    assert SENTINEL not in str(caught.value)
    return caught.value


LONG = """id redcap_event_name redcap_repeat_instrument redcap_repeat_instance sex sbp
7 intake_arm_1 . . 2 .
7 day_1_arm_1 vitals 1 . 100
7 day_1_arm_1 vitals 2 . 90
7 day_2_arm_1 vitals 1 . 120
8 intake_arm_1 . . 1 .
8 day_2_arm_1 vitals 2 . 85"""


WRITTEN = pytest.mark.parametrize("long", [LONG, re.sub(r"vitals (\d)", r"vitals \1.0", LONG)], ids=["1", "1.0"])
"""An instance as REDCap numbers it, and as a program writes it that read a column with blanks."""


@WRITTEN
def test_a_field_is_its_first_value_and_an_address_the_value_there(config: RedcapConfig, long: str) -> None:
    wanted = ("id", "sex", "sbp", "[day_1_arm_1][sbp]", "[day_2_arm_1][sbp]", "[sbp][2]", "[day_1_arm_1][sbp][2]")
    assert records(export(long), config, *wanted) == [
        ("7", "2", "100", "100", "120", "90", "90"),
        ("8", "1", "85", "", "85", "85", ""),
    ]


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("sbp", None),
        ("[sbp]", None),
        ("[day_1][sbp]", Address("sbp", "day_1")),
        ("[sbp][2]", Address("sbp", None, 2)),
        ("[2_days][sbp___1][12]", Address("sbp___1", "2_days", 12)),
        ("[sbp][0]", None),
        ("[a][b][c]", None),
    ],
)
def test_an_address_is_read_as_redcap_writes_it(name: str, address: Address | None) -> None:
    assert address_of(name) == address
    assert address is None or address.name == name


@WRITTEN
@examples(40, suppress_health_check=ONE_FOLDER)
@given(order=st.permutations(range(2)), other=st.lists(st.integers(0, 6), min_size=2, max_size=2))
def test_rows_of_a_record_need_not_stand_together(
    config: RedcapConfig, long: str, order: list[int], other: list[int]
) -> None:
    header, *rows = long.split("\n")
    first, second = rows[:4], rows[4:]
    for place, row in zip(sorted(other), second, strict=True):
        first.insert(place, row)
    wanted = ("id", "sex", "sbp", "[day_1_arm_1][sbp]", "[sbp][2]")
    assert sorted(records(export("\n".join([header, *first])), config, *wanted)) == sorted(
        records(export(LONG), config, *wanted)
    )


def test_columns_keep_their_places_and_addresses_come_behind(config: RedcapConfig) -> None:
    table = open_redcap(export(LONG), config, ["sex", "[sbp][2]", "[nothing][2]"])
    assert table.columns == (*export(LONG).columns, "[sbp][2]")


def test_without_events_a_record_that_comes_twice_stays_twice(config: RedcapConfig) -> None:
    assert records(export("id sex\n7 1\n7 2"), config, "id", "sex") == [("7", "1"), ("7", "2")]


@pytest.mark.parametrize(
    ("header", "wanted", "column"),
    [
        ("ID sex", "sex", "id"),
        ("id id sex", "sex", "id"),
        ("id sbp", "[day_1][sbp]", "redcap_event_name"),
        ("id redcap_event_name sbp", "[sbp][1]", "redcap_repeat_instance"),
    ],
)
def test_a_column_that_is_needed_is_told(config: RedcapConfig, header: str, wanted: str, column: str) -> None:
    error = refused(export(f"{header}\n"), config, wanted)
    assert error.code is Code.REGISTRY_COLUMN and f"one column {column};" in error.found


# --- Identifiers and groups ---


def test_identifiers_are_blanked_but_for_the_records_own(config: RedcapConfig) -> None:
    table = open_redcap(export(f"id surname phone sex\n7 {SENTINEL} {SENTINEL} 1"), config, ["sex"])
    assert [cells for _, cells in table.rows] == [["7", "", "", "1"]]


@pytest.mark.parametrize("wanted", ["surname", "phone", "[day_1][surname]"])
def test_a_codebook_that_describes_an_identifier_is_refused(config: RedcapConfig, wanted: str) -> None:
    error = refused(export("id redcap_event_name surname phone\n7 a b c"), config, wanted)
    assert error.code is Code.CODEBOOK_REFERENCE


GROUPS = f"""id redcap_data_access_group redcap_event_name sex
7 amc a .
8 {SENTINEL} a 2
7 amc b 1
9 . a 2"""


def test_another_groups_records_are_not_read(config: RedcapConfig) -> None:
    table = export(GROUPS)
    assert records(table, config.model_copy(update={"group": "amc"}), "id", "sex") == [("7", "1")]
    assert len(records(export(GROUPS), config, "id")) == 3


def test_a_group_that_is_named_by_a_number_is_read_with_a_point_too(config: RedcapConfig) -> None:
    table = export("id redcap_data_access_group sex\n7 2.0 1\n8 3.0 2")
    assert records(table, config.model_copy(update={"group": "2"}), "id", "sex") == [("7", "1")]


def test_a_group_that_has_no_record_or_no_column_is_refused(config: RedcapConfig) -> None:
    other = config.model_copy(update={"group": "snuh"})
    assert refused(export(GROUPS), other, "sex").code is Code.REGISTRY_EMPTY
    error = refused(export("id sex\n7 1"), other, "sex")
    assert error.code is Code.REGISTRY_COLUMN and "redcap_data_access_group" in error.found


# --- Cells ---


@pytest.mark.parametrize(
    ("row", "signs"),
    [
        ("7 . 0 0 0 . . 0", ("", "")),  # a form that nobody opened
        ("7 . 0 0 0 . . 2", ("0", "0")),  # complete: none of them
        ("7 . 0 0 0 . . 1", ("", "")),
        ("7 . 0 0 0 90 . 0", ("0", "0")),  # another field is filled in
        ("7 . 0 0 1 . . 0", ("0", "0")),  # another field's box is ticked
        ("7 . 1 0 0 . . 0", ("1", "0")),
        ("7 1 0 0 0 . . 0", ("", "")),  # filled in is another form
        ("7 . . . 0 90 . 2", ("", "")),  # older exports leave boxes blank where the form is not in the event
    ],
)
def test_unticked_boxes_count_where_the_form_was_filled_in(config: RedcapConfig, row: str, signs: tuple[str]) -> None:
    header = "id sex signs___1 signs___2 drugs___a sbp temp vitals_complete"
    assert records(export(f"{header}\n{row}"), config, "signs___1", "signs___2") == [signs]


def test_the_records_own_identifier_is_no_sign_that_a_form_was_filled_in(config: RedcapConfig) -> None:
    assert records(export("id tags___1 tags___2\n7 0 0"), config, "tags___1") == [("",)]


@pytest.mark.parametrize(("boxes", "read"), [("0 0", ("", "")), ("0 1", ("0", "1"))])
def test_unticked_boxes_that_may_not_have_been_shown_are_missing(
    config: RedcapConfig, boxes: str, read: tuple[str, str]
) -> None:
    table = export(f"id doses___1 doses___2 sbp vitals_complete\n7 {boxes} 90 2")
    assert records(table, config, "doses___1", "doses___2") == [read]


def test_boxes_of_a_form_filled_in_at_another_event_are_not_taken_from_this_one(config: RedcapConfig) -> None:
    table = export("id redcap_event_name signs___1 signs___2 sbp\n7 a 0 0 .\n7 b 0 1 90")
    assert records(table, config, "signs___1", "[a][signs___2]", "[b][signs___2]") == [("0", "", "1")]


def test_a_decimal_comma_becomes_a_point_where_the_dictionary_has_one(config: RedcapConfig) -> None:
    assert records(export("id temp sex\n7 38,5 1,2"), config, "temp", "sex") == [("38.5", "1,2")]


def test_an_undescribed_column_is_told_by_its_place_in_the_export(config: RedcapConfig) -> None:
    codebook = Codebook(
        title="t",
        patient="id",
        ignored=("redcap_*", "sex"),
        features=(
            Feature(name="[day_1_arm_1][sbp]", section="s", label="l", kind="numeric", low=0, high=300, step=10),
        ),
    )
    with pytest.raises(FedReasonError) as caught:
        registry_from(open_redcap(export(LONG), config, codebook.by_name), codebook)
    assert caught.value.code is Code.REGISTRY_UNDESCRIBED and "6" in caught.value.found


# --- Real projects ---

PROJECTS = {
    "clinical-trial": ("clinical-trial-1", None, 500),
    "longitudinal": ("longitudinal", None, 3),
    "dag": ("dag", "daga", 2),
    "checkboxes": ("checkboxes-1", None, 4),
    "repeating": ("vignette-repeating", None, 2),
}
real = [pytest.mark.real_data, pytest.mark.skipif(not REDCAP.exists(), reason="REDCapR's projects are not here")]


def project(name: str) -> tuple[Codebook, Registry]:
    files, group, _ = PROJECTS[name]
    codebook = load_codebook(ROOT / "configs" / "registries" / f"redcapr-{name}.toml")
    config = RedcapConfig(dictionary=REDCAP / f"redcapr_{files}_dictionary.csv", group=group)
    table = open_redcap(read_delimited(REDCAP / f"redcapr_{files}_data.csv"), config, codebook.by_name)
    return codebook, registry_from(table, codebook)


def questions(codebook: Codebook, registry: Registry) -> Sequence[Question]:
    maker = QuestionMaker(codebook, "full")
    asked = (
        maker.make(patient, item, Stream.named(patient.id, item))
        for patient in registry.patients
        for item in maker.items(patient)
    )
    return [question for question in asked if question is not None]


@pytest.mark.parametrize("name", [pytest.param(name, marks=real) for name in PROJECTS])
def test_the_records_of_a_real_project_become_questions(name: str) -> None:
    codebook, registry = project(name)
    asked = questions(codebook, registry)
    assert len(registry.patients) == PROJECTS[name][2] and asked
    assert {question.patient for question in asked} <= {patient.id for patient in registry.patients}


@pytest.mark.parametrize("name", [pytest.param("longitudinal", marks=real)])
def test_values_of_two_visits_stand_in_one_record(name: str) -> None:
    codebook, registry = project(name)
    values = registry.patients[0].values
    assert (values["[visit_1_arm_1][vld1]"], values["[visit_2_arm_1][vld1]"]) == ("5.6", "0.4")
    maker = QuestionMaker(codebook, "full")
    draws = (maker.make(registry.patients[0], "[visit_2_arm_1][vld1]", Stream.named(seed)) for seed in range(50))
    record = next(question for question in draws if question is not None).record
    assert "[Laboratory (first visit)]" in record and "Serum prealbumin (mg/dL): 5.6" in record


@pytest.mark.parametrize("name", [pytest.param("repeating", marks=real)])
def test_three_instances_stand_in_one_record(name: str) -> None:
    values = project(name)[1].patients[1].values
    assert [values[f"[sbp][{k}]"] for k in (1, 2, 3)] == ["2.1", "2.2", "2.3"]


@pytest.mark.parametrize("name", [pytest.param("checkboxes", marks=real)])
def test_a_record_whose_forms_were_never_filled_in_has_no_boxes(name: str) -> None:
    patients = project(name)[1].patients
    assert [len(dict(patient.values.items())) for patient in patients] == [9, 9, 9, 0]


def test_a_config_with_another_key_is_refused() -> None:
    with pytest.raises(ValueError, match="site"):
        RedcapConfig.model_validate({"dictionary": "a.csv", "site": "amc"})
