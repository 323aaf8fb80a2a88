"""A REDCap data dictionary is read whatever wrote it, or refused by number; no cell is ever told."""

from __future__ import annotations

import csv
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.registry.redcap.dictionary import Reference, box_column, is_dictionary, read_dictionary
from client.registry.redcap.draft import draft_redcap
from client.registry.redcap.labels import plain_text, split_unit
from common.codebook import load_codebook
from tests.client.registry.redcap.dictionaries import (
    API,
    REDCAP,
    SENTINEL,
    TITLES,
    WARD,
    content,
    counted,
    read,
    refusal,
    row,
    written,
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("form", [{}, {"delimiter": ";"}, {"lineterminator": "\n"}, {"quoting": csv.QUOTE_ALL}])
@pytest.mark.parametrize("titles", [list(TITLES.values()), API, [f" {title.upper()} " for title in TITLES.values()]])
def test_the_download_and_the_api_give_the_same_fields(
    tmp_path: Path, encoding: str, form: dict[str, Any], titles: list[str]
) -> None:
    path = tmp_path / "dictionary.csv"
    path.write_bytes(content(WARD, titles, **form).encode(encoding))
    assert is_dictionary(titles) and not is_dictionary(["record_id", *titles[1:]])
    fields = read_dictionary(path).fields
    assert [(field.line, field.name, field.kind) for field in fields] == [
        (2, "record_id", "text"),
        (3, "lactate", "text"),
        (4, "ventilated", "yesno"),
    ]
    assert fields[1].high == 30


def test_a_dictionary_of_an_old_version_has_no_annotations(tmp_path: Path) -> None:
    rows = [line.rsplit(",", 1)[0] for line in content(WARD).splitlines()]
    (tmp_path / "old.csv").write_text("\n".join(rows))
    assert len(read_dictionary(tmp_path / "old.csv").fields) == 3


def test_records_in_place_of_the_dictionary_are_refused_without_a_name(tmp_path: Path) -> None:
    path = tmp_path / "records.csv"
    path.write_text(f"record_id,{SENTINEL}\n1,{SENTINEL}\n")
    told = refusal(path)
    assert "'Variable / Field Name'" in told.found and "not the export of the records" in told.fix


@pytest.mark.parametrize(
    "raw", [b"", b"\n", b"\xff\xfe\xff", b'"a', content([]).encode(), content(WARD).encode() + b"torn\n"]
)
def test_a_file_that_is_no_dictionary_is_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(raw)
    refusal(tmp_path / "a.csv")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "no.csv").found


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (row(f"1{SENTINEL}"), "'Variable / Field Name'"),
        (row("a", form=""), "'Form Name'"),
        (row("a", form=f"{SENTINEL} form"), "'Form Name'"),
        (row("record_id", label=SENTINEL), "a name that line 2 has given"),
    ],
)
def test_a_line_that_redcap_would_not_write_is_refused_by_its_number(
    tmp_path: Path, bad: dict[str, str], told: str
) -> None:
    found = refusal(written(tmp_path, bad)).found
    assert "line 3" in found and told in found


# --- Fields ---


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("<b>Blood</b> pressure", "Blood pressure"),
        ('<div class="rich-text-field-label"><p><span style="color: #fff;">Sex</span></p></div>', "Sex"),
        ("Line<br>break<br/>twice<BR />thrice", "Line break twice thrice"),
        ("CO<sub>2</sub>", "CO2"),
        ("&lt;5 &amp; &gt;2&nbsp;mmol/L", "<5 & >2 mmol/L"),
        ("Preterm (< 37 weeks), <22 weeks, <five", "Preterm (< 37 weeks), <22 weeks, <five"),
        ("a <b and> c", "a <b and> c"),
        ("<script>alert(1)</script>x<!-- note -->y<style>p {}</style>", "x y"),
        ("two\r\n lines\t\x00", "two lines"),
        ("&lt;b&gt;", "<b>"),
    ],
)
def test_html_is_taken_out_of_labels_and_signs_that_look_like_it_stay(raw: str, plain: str) -> None:
    assert plain_text(raw) == plain


@given(st.text(alphabet=st.sampled_from("<>/b=\"' &lt;#x0a9;spanbr!-\n")))
def test_a_plain_text_is_one_line(raw: str) -> None:
    assert plain_text(raw).split("\n") == [" ".join(plain_text(raw).split())]


@pytest.mark.parametrize(
    ("label", "parts"),
    [
        ("Weight (kg)", ("Weight", "kg")),
        ("Creatinine [mg/dL]:", ("Creatinine", "mg/dL")),
        ("Height, cm", ("Height", "cm")),
        ("WBC count (10^9/L)", ("WBC count", "10^9/L")),
        ("Ferritin (µg/L or ng/mL)", ("Ferritin", "µg/L or ng/mL")),
        ("Protein catabolic rate (g/kg/d)", ("Protein catabolic rate", "g/kg/d")),
        ("Saturation (no support) (%)", ("Saturation (no support)", "%")),
        ("Body mass index (kg/m2)", ("Body mass index", "kg/m2")),
        ("Urine (mL per hour)", ("Urine", "mL per hour")),
        ("Coma score (GCS / 15)", ("Coma score (GCS / 15)", "")),
        ("Thromboplastin time (APTT)", ("Thromboplastin time (APTT)", "")),
        ("Eat out (Dinner/Lunch)", ("Eat out (Dinner/Lunch)", "")),
        ("(kg)", ("(kg)", "")),
    ],
)
def test_a_unit_at_the_end_of_a_label_is_taken_from_it(label: str, parts: tuple[str, str]) -> None:
    assert split_unit(label) == parts


def test_choices_have_codes_of_any_kind_and_commas_in_their_texts(tmp_path: Path) -> None:
    fields = read(
        tmp_path,
        row("a", "dropdown", choices="1, one, or so|-9,<i>unknown</i> | NK , N/K |2,"),
        row("b", "yesno"),
        row("c", "truefalse"),
    ).by_name
    assert fields["a"].choices == {"1": "one, or so", "-9": "unknown", "NK": "N/K", "2": "2"}
    assert fields["b"].choices == {"1": "Yes", "0": "No"} and fields["c"].choices == {"1": "True", "0": "False"}


@pytest.mark.parametrize(
    ("code", "column"), [("1", "x___1"), ("-1", "x____1"), ("A", "x___a"), ("1.5", "x___1_5"), ("n/a", "x___na")]
)
def test_a_box_is_named_as_redcap_names_it(code: str, column: str) -> None:
    assert box_column("x", code) == column


def test_a_section_holds_until_the_next_and_ends_with_its_form(tmp_path: Path) -> None:
    fields = read(
        tmp_path,
        row("a", section="<b>Vital</b> signs"),
        row("b"),
        row("c", form="lab_results"),
        row("d", form="lab_results", section="Blood"),
    ).fields
    assert [field.section for field in fields] == ["Intake", "Vital signs", "Vital signs", "Lab results", "Blood"]


@pytest.mark.parametrize(
    ("cells", "bounds"),
    [
        ({"validation": "number", "low": "-0.5", "high": "30"}, ("-0.5", "30")),
        ({"validation": "number_2dp_comma_decimal", "low": "0,25", "high": "1,5"}, ("0.25", "1.5")),
        ({"validation": "number", "low": "0,25", "high": "[other]"}, (None, None)),
        ({"validation": "date_ymd", "low": "2000-01-01", "high": "today"}, (None, None)),
        ({"validation": "integer", "low": "1e400", "high": "9" * 400}, (None, None)),
        ({"kind": "slider"}, ("0", "100")),
        ({"kind": "slider", "low": "1", "high": "10"}, ("1", "10")),
    ],
)
def test_a_bound_is_a_number_or_none(
    tmp_path: Path, cells: dict[str, str], bounds: tuple[str | None, str | None]
) -> None:
    field = read(tmp_path, row("a", **cells)).by_name["a"]
    assert (field.low, field.high) == tuple(bound and Decimal(bound) for bound in bounds)


def test_conditions_and_equations_tell_what_they_read(tmp_path: Path) -> None:
    field = read(
        tmp_path,
        row(
            "a",
            "calc",
            choices="round([weight]/([visit_1_arm_1][height]^2), 1)",
            branching="[sex]='1' and [signs(-88)] = '1' or [previous-event-name][sex]='1'",
            annotation="@CALCTEXT([age:value])",
        ),
    ).by_name["a"]
    assert field.equation == (Reference("weight"), Reference("height", event="visit_1_arm_1"), Reference("age"))
    assert field.condition == (
        Reference("sex"),
        Reference("signs", code="-88"),
        Reference("sex", event="previous-event-name"),
    )


# --- Real dictionaries ---


@pytest.mark.real_data
@pytest.mark.skipif(not REDCAP.exists(), reason="the REDCap dictionaries are not on this machine")
@pytest.mark.parametrize(
    "path", sorted([*REDCAP.glob("*_dictionary.csv"), REDCAP / "ccpuk.csv"]), ids=lambda path: path.stem
)
def test_a_real_dictionary_has_as_many_fields_as_rows(tmp_path: Path, path: Path) -> None:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    dictionary, draft = read_dictionary(path), draft_redcap(path, title="real")
    assert [field.name for field in dictionary.fields] == [cells[TITLES["name"]] for cells in rows]
    assert counted(draft) == len(rows)
    (tmp_path / "codebook.toml").write_text(draft.text)
    codebook = load_codebook(tmp_path / "codebook.toml")
    flagged = {cells[TITLES["name"]] for cells in rows if cells[TITLES["identifier"]]}
    assert flagged <= set(codebook.ignored)
    assert not any("<" in feature.label and ">" in feature.label for feature in codebook.features)
