"""Boxes of REDCap that went wrong: each is read right wherever its field is marked missing."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from client.registry.redcap.config import RedcapConfig
from client.site.config import RegistryConfig, SiteConfig
from client.site.opened import read_registry
from common.codebook import Codebook
from common.feature import Feature
from tests.client.registry.cases_ids import AGE

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


def exported(folder: Path, text: str, **missing: tuple[str, ...]) -> list[dict[str, str]]:
    with (folder / "d.csv").open("w", newline="") as file:
        csv.writer(file).writerows([TITLES, *(field + [""] * (len(TITLES) - len(field)) for field in FIELDS)])
    (folder / "r.csv").write_text(text)
    source = RegistryConfig(path=folder / "r.csv", redcap=RedcapConfig(dictionary=folder / "d.csv"), missing=missing)
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


@pytest.mark.parametrize(
    ("code", "missing"), [("-99.0", {}), ("nask", {}), ("-1", {"age": ("-1",)}), ("-1.0", {"age": ("-1",)})]
)
def test_however_a_code_is_written_and_wherever_it_is_declared_it_hides_no_value(
    tmp_path: Path, code: str, missing: dict[str, tuple[str, ...]]
) -> None:
    events = HEADER.replace("record_id", "record_id,redcap_event_name")
    rows = f"1,a_arm_1,,,,,,,,{code},\n1,b_arm_1,,,,,,,,64,\n"
    assert exported(tmp_path, events + rows, **missing) == [{"age": "64"}]
