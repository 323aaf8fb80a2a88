"""A REDCap data dictionary becomes a codebook to review; what was shown on a condition is hidden with it."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from client.registry.redcap.dictionary import KINDS, read_dictionary
from client.registry.redcap.draft import draft_redcap
from client.registry.redcap.scale import scale_of
from common.codebook import Codebook, load_codebook
from common.errors import Code, FedReasonError
from common.feature import Feature
from tests.client.registry.redcap.dictionaries import (
    SENTINEL,
    TITLES,
    WARD,
    content,
    counted,
    drafted,
    read,
    row,
    written,
)
from tests.examples import examples
from tests.laws import ONE_FOLDER

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


def test_a_text_that_two_codes_spell_in_two_ways_is_drafted_as_one_and_told(tmp_path: Path) -> None:
    draft, codebook = drafted(
        tmp_path,
        row("smoker", "radio", label="Smoker", choices="1, Yes | 2, No | 3, yes"),
        row("agrees", "radio", label="Agrees", choices="1, Yes | 2, YES"),
    )
    assert [feature.name for feature in codebook.features] == ["smoker"]
    assert codebook.by_name["smoker"].categories == {"1": "Yes", "2": "No", "3": "Yes"}
    assert '# To review: taken for one: "1", "3".' in draft.text.splitlines()


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


@examples(60, suppress_health_check=ONE_FOLDER)
@given(BOUND, BOUND, st.sampled_from(["integer", "number", "number_1dp", "number_4dp"]), st.sampled_from(["", "mg/dL"]))
@example("0", "0.0001", "integer", "")
@example("0", "0.0001", "integer", "mg/dL")
@example("0", "0.0001", "number", "mg/dL")
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
    least = 10.0**-scale.decimals
    assert feature.step is not None and feature.low is not None and feature.high is not None
    if scale.log:
        span = feature.high / max(feature.low, least)
        assert unit and span >= 50 and feature.step > 1 and feature.step**25 <= span * (1 + 1e-9)
    else:
        assert feature.step <= max(feature.high - feature.low, least)
    assert feature.shown(low) is not None


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


@examples(150, suppress_health_check=ONE_FOLDER)
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


@examples(80, suppress_health_check=ONE_FOLDER)
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
