"""A REDCap data dictionary becomes a codebook to review, or is refused by number; no cell is ever told."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from client.registry.redcap.dictionary import KINDS, Dictionary, Reference, box_column, is_dictionary, read_dictionary
from client.registry.redcap.draft import Draft, draft_redcap
from client.registry.redcap.labels import plain_text, split_unit
from client.registry.redcap.scale import scale_of
from common.codebook import Codebook, Feature, load_codebook
from common.errors import Code, FedReasonError
from tests.paths import DATA

REDCAP = DATA / "redcap"
SENTINEL = "Q7ZSENTINEL"

TITLES = {
    "name": "Variable / Field Name",
    "form": "Form Name",
    "section": "Section Header",
    "kind": "Field Type",
    "label": "Field Label",
    "choices": "Choices, Calculations, OR Slider Labels",
    "note": "Field Note",
    "validation": "Text Validation Type OR Show Slider Number",
    "low": "Text Validation Min",
    "high": "Text Validation Max",
    "identifier": "Identifier?",
    "branching": "Branching Logic (Show field only if...)",
    "required": "Required Field?",
    "alignment": "Custom Alignment",
    "number": "Question Number (surveys only)",
    "matrix": "Matrix Group Name",
    "ranking": "Matrix Ranking?",
    "annotation": "Field Annotation",
}
API = [
    *("field_name", "form_name", "section_header", "field_type", "field_label", "select_choices_or_calculations"),
    *("field_note", "text_validation_type_or_show_slider_number", "text_validation_min", "text_validation_max"),
    *("identifier", "branching_logic", "required_field", "custom_alignment", "question_number", "matrix_group_name"),
    *("matrix_ranking", "field_annotation"),
]

RECORD = {"name": "record_id", "form": "intake", "kind": "text", "label": "Record ID"}


def row(name: str, kind: str = "text", **cells: str) -> dict[str, str]:
    return {"name": name, "form": "intake", "kind": kind, "label": name, **cells}


def content(rows: Sequence[Mapping[str, str]], titles: Sequence[str] = tuple(TITLES.values()), **form: Any) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, **form)
    writer.writerow(titles)
    writer.writerows([cells.get(key, "") for key in TITLES] for cells in rows)
    return text.getvalue()


def written(folder: Path, *rows: Mapping[str, str]) -> Path:
    path = folder / "dictionary.csv"
    path.write_text(content([RECORD, *rows]), newline="")
    return path


def read(folder: Path, *rows: Mapping[str, str]) -> Dictionary:
    return read_dictionary(written(folder, *rows))


def drafted(folder: Path, *rows: Mapping[str, str], **options: Any) -> tuple[Draft, Codebook]:
    draft = draft_redcap(written(folder, *rows), title="test", **options)
    (folder / "codebook.toml").write_text(draft.text)
    return draft, load_codebook(folder / "codebook.toml")


def refusal(path: Path) -> FedReasonError:
    with pytest.raises(FedReasonError) as caught:
        read_dictionary(path)
    assert caught.value.code is Code.CODEBOOK_SOURCE and SENTINEL not in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    return caught.value


# --- The file ---

WARD = [RECORD, row("lactate", validation="number", low="0", high="30"), row("ventilated", "yesno")]


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


# --- The draft ---


def hidden(codebook: Codebook, name: str) -> set[str]:
    return set(codebook.hidden_for(name))


def test_every_kind_of_field_has_its_place_in_the_draft(tmp_path: Path) -> None:
    draft, codebook = drafted(
        tmp_path,
        row("name", identifier="y"),
        row("mail", validation="email"),
        row("born", validation="date_ymd"),
        row("sex", "radio", label="Sex", choices="1, male | 2, female"),
        row("age", validation="integer", low="18", high="110", label="Age (years)"),
        row("ph", validation="number", low="6.5", high="8", note=""),
        row("lactate", validation="number", low="0", note="mmol/L"),
        row("bmi", "calc", choices="[weight]/[height]"),
        row("signs", "checkbox", label="Signs", choices="A, fever | -88, other"),
        row("only", "radio", choices="1, one"),
        row("story", "notes"),
        row("scan", "file"),
        row("title", "descriptive"),
        row("ward", "sql", choices="select 1"),
    )
    assert codebook.patient == "record_id" and not codebook.private
    assert [feature.name for feature in codebook.features] == ["sex", "age", "ph", "signs___a", "signs____88"]
    sex, age, ph, fever, _ = codebook.features
    assert sex.categories == {"1": "male", "2": "female"} and (sex.section, sex.label) == ("Intake", "Sex")
    assert (age.label, age.unit, age.low, age.high, age.step, age.decimals) == ("Age", "years", 18, 110, 2, 0)
    assert (ph.low, ph.high, ph.step, ph.decimals) == (6.5, 8, 0.02, 3)
    assert fever.label == "Signs: fever" and fever.categories == {"0": "No", "1": "Yes"}
    assert {"name", "mail", "born", "lactate", "bmi", "only", "story", "scan", "ward"} < set(codebook.ignored)
    assert "title" not in codebook.ignored and "intake_complete" in codebook.ignored
    assert '# name = "lactate"' in draft.text and '# unit = "mmol/L"' in draft.text
    assert draft.told[0] == "15 fields in 1 forms give 5 features"
    assert counted(draft) == 15


def counted(draft: Draft) -> int:
    return sum(int(line.split()[0].replace(",", "")) for line in draft.told[1:])


def test_a_number_that_is_filled_in_becomes_a_feature(tmp_path: Path) -> None:
    draft, before = drafted(tmp_path, row("sex", "yesno"), row("bmi", "calc", choices="[sex]"))
    assert hidden(before, "sex") == set()
    head, _, block = draft.text.partition("# Fill in")
    block = "\n".join(line.removeprefix("# ") for line in block.split("\n")[1:])
    for blank, value in (("low =", "low = 10"), ("high =", "high = 60"), ("step =", "step = 5"), ("decimals =", "")):
        block = block.replace(blank, value)
    head = head.replace('# ["bmi", "sex"]', '["bmi", "sex"]').replace('    "bmi",\n', "")
    (tmp_path / "filled.toml").write_text(head + block)
    codebook = load_codebook(tmp_path / "filled.toml")
    assert "bmi" in codebook.by_name and hidden(codebook, "sex") == {"bmi"} and "bmi" not in codebook.ignored


def test_what_was_shown_on_a_condition_is_hidden_with_it_through_every_step(tmp_path: Path) -> None:
    _, codebook = drafted(
        tmp_path,
        row("pregnant", "yesno"),
        row("note", "text", branching="[pregnant]='1'"),
        row("twins", "yesno", branching="[note]<>''"),
        row("both", "yesno", branching="[twins]='1'"),
        row("other", "yesno"),
    )
    assert hidden(codebook, "pregnant") == {"twins", "both"}, "through a free text that is no feature"
    assert hidden(codebook, "both") == {"pregnant", "twins"} and hidden(codebook, "other") == set()


def test_fields_on_the_same_condition_are_not_hidden_from_each_other(tmp_path: Path) -> None:
    _, codebook = drafted(
        tmp_path, row("gate", "yesno"), *(row(f"f{i}", "yesno", branching="[gate]='1'") for i in range(9))
    )
    assert hidden(codebook, "f3") == {"gate"} and len(hidden(codebook, "gate")) == 9


def test_two_results_of_the_same_numbers_are_hidden_with_each_other(tmp_path: Path) -> None:
    _, codebook = drafted(
        tmp_path,
        row("weight", validation="integer", low="1", high="300"),
        row("bmi", "slider", annotation="@CALCTEXT([weight])"),
        row("bsa", "slider", annotation="@CALCTEXT([weight])"),
        row("age", "slider"),
    )
    assert hidden(codebook, "bmi") == {"weight", "bsa"} and hidden(codebook, "weight") == {"bmi", "bsa"}


def test_a_box_is_hidden_with_those_beside_it_and_with_what_asks_for_it(tmp_path: Path) -> None:
    _, codebook = drafted(
        tmp_path,
        row("signs", "checkbox", choices="1, fever | 2, chills | 88, other"),
        row("which", "radio", choices="1, a | 2, b", branching="[signs(88)] = '1'"),
    )
    assert hidden(codebook, "signs___1") == {"signs___2", "signs___88"}
    assert hidden(codebook, "which") == {"signs___88"} and "which" in hidden(codebook, "signs___88")


def test_conditions_that_ask_in_a_circle_end(tmp_path: Path) -> None:
    _, codebook = drafted(tmp_path, row("a", "yesno", branching="[b]"), row("b", "yesno", branching="[a] or [b]"))
    assert hidden(codebook, "a") == {"b"}


def test_events_and_instances_give_features_of_their_own(tmp_path: Path) -> None:
    rows = (
        row("sex", "yesno"),
        row("severe", "yesno", form="visit"),
        row("lactate", form="visit", validation="integer", low="0", high="30", branching="[severe]='1' and [sex]='1'"),
        row("sbp", form="pressure", validation="integer", low="0", high="300"),
    )
    draft, codebook = drafted(
        tmp_path, *rows, events=["day_1_arm_1=visit,pressure", "day_2_arm_1=visit"], repeats=["pressure=2"]
    )
    assert list(codebook.by_name) == [
        "sex",
        "[day_1_arm_1][severe]",
        "[day_1_arm_1][lactate]",
        "[day_1_arm_1][sbp][1]",
        "[day_1_arm_1][sbp][2]",
        "[day_2_arm_1][severe]",
        "[day_2_arm_1][lactate]",
    ]
    assert codebook.by_name["[day_1_arm_1][sbp][2]"].section == "Pressure (Day 1 arm 1, instance 2)"
    assert hidden(codebook, "[day_1_arm_1][lactate]") == {"[day_1_arm_1][severe]", "sex"}
    assert {"severe", "lactate", "sbp"} < set(codebook.ignored) and "sex" not in codebook.ignored
    assert counted(draft) == 5
    whole = drafted(tmp_path, *rows, events=["day_1_arm_1"])[1]
    assert all(name.startswith("[day_1_arm_1][") for name in whole.by_name)


@pytest.mark.parametrize("options", [{"events": ["day_1=lab"]}, {"repeats": ["lab=2"]}, {"repeats": ["intake"]}])
def test_a_form_that_the_dictionary_lacks_is_refused(tmp_path: Path, options: dict[str, list[str]]) -> None:
    with pytest.raises(FedReasonError) as caught:
        drafted(tmp_path, row("a", "yesno"), **options)
    assert caught.value.code is Code.CODEBOOK_SOURCE


BOUND = st.decimals(min_value=-(10**9), max_value=10**9, places=4).map(lambda bound: f"{bound:f}")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(BOUND, BOUND, st.sampled_from(["integer", "number", "number_1dp", "number_4dp"]), st.sampled_from(["", "mg/dL"]))
@example("0", "0.0001", "integer", "")
@example("0", "0.0001", "integer", "mg/dL")
def test_any_bounds_give_a_feature_that_can_be_asked(
    tmp_path: Path, low: str, high: str, validation: str, unit: str
) -> None:
    if Decimal(low) >= Decimal(high):
        return
    field = read(tmp_path, row("a", validation=validation, low=low, high=high)).by_name["a"]
    scale = scale_of(field, unit)
    feature = Feature(
        name="a",
        section="s",
        label="l",
        kind="numeric",
        low=float(scale.low),
        high=float(scale.high),
        step=float(scale.step),
        decimals=scale.decimals,
        scale="log" if scale.log else "linear",
    )
    assert not scale.log or (unit and float(high) / max(float(low), 10.0**-scale.decimals) >= 50)
    assert feature.step is not None and feature.low is not None and feature.high is not None
    assert feature.step <= max(feature.high - feature.low, 10.0**-scale.decimals) and feature.shown(low) is not None


# --- Whatever it holds ---

WILD = st.one_of(
    st.text(max_size=9),
    st.sampled_from(
        [SENTINEL, f"1, {SENTINEL} | 2, b", "[a]='1'", "[a(1)][b]", "y", "number", "0", "9.5", "1, x | 1, y"]
    ),
)
NAME = st.from_regex(r"[a-d](___1)?", fullmatch=True)
LIKELY: dict[str, list[str]] = {
    "form": ["f", "g"],
    "kind": sorted(KINDS),
    "choices": ["1, <b>a</b> | 2, b", "A, (unlisted) | -1, x", "1, a", "", "[a]+[b(1)]"],
    "validation": ["", "number", "integer", "number_2dp_comma_decimal", "date_ymd", "email", SENTINEL],
    "low": ["", "0", "-1.5", "1,5"],
    "high": ["", "1", "0.0001", "900", "today"],
    "identifier": ["", "", "", "y"],
    "branching": ["", "[a]='1'", "[b(1)]='1' or [e_arm_1][c]>2", "[d]"],
}
ROW = st.fixed_dictionaries({"name": NAME} | {key: st.sampled_from(cells) for key, cells in LIKELY.items()})
ROWS = st.lists(ROW, max_size=4, unique_by=lambda cells: cells["name"])


@st.composite
def spoilt(draw: st.DrawFn) -> list[dict[str, str]]:
    """Rows as REDCap writes them but for a few cells."""
    rows = draw(ROWS)
    for cells in rows[: draw(st.integers(0, 2))]:
        cells[draw(st.sampled_from(sorted(TITLES)))] = draw(WILD)
    return rows


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(rows=spoilt())
def test_any_cells_give_a_codebook_that_loads_or_a_numbered_refusal(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    path = written(tmp_path, *rows)
    try:
        dictionary = read_dictionary(path)
    except FedReasonError as error:
        assert error.code is Code.CODEBOOK_SOURCE and SENTINEL not in str(error)
        return
    draft = draft_redcap(path, title="any")
    assert counted(draft) == len(dictionary.fields) == len(rows) + 1
    if not draft.told[0].endswith(" 0 features"):
        (tmp_path / "codebook.toml").write_text(draft.text)
        codebook = load_codebook(tmp_path / "codebook.toml")
        assert draft.told[0].endswith(f" {len(codebook.features):,} features")
        described = {*codebook.by_name, *codebook.ignored, codebook.patient}
        assert {column for field in dictionary.fields for column in field.columns} <= described


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=80)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_by_number(tmp_path: Path, data: st.DataObject) -> None:
    whole = content([*WARD, row("a", "radio", choices=f"1, {SENTINEL} | 2, b", label=SENTINEL)]).encode()
    place = data.draw(st.integers(0, len(whole) - 1))
    cut = data.draw(st.integers(0, 9))
    path = tmp_path / "damaged.csv"
    path.write_bytes(whole[:place] + data.draw(st.binary(max_size=9)) + whole[place + cut :])
    try:
        read_dictionary(path)
    except FedReasonError as error:
        assert error.code is Code.CODEBOOK_SOURCE and SENTINEL not in str(error)


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
