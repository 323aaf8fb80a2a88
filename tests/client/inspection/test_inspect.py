"""What a registry holds is told in counts; what is wrong with it by number; and no value of a record ever."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from client.inspection.check import Checked
from client.inspection.conversions import CONVERSIONS, conversions_of, hint, unit_hints
from client.inspection.registry import FeatureCounts, Inspection, inspect_registry
from client.inspection.report import as_json, feature_table, finding_lines, unread_table
from client.registry.delimited import read_delimited
from client.registry.display import Display
from client.registry.load import registry_from
from common.codebook import Codebook, load_codebook
from common.errors import Code
from common.feature import Feature
from common.questions.question import QuestionMaker
from tests.client.inspection.counted import CODEBOOK, CREATININE, SEX, codes, counts, inspected, registry_of
from tests.paths import ROOT, SEPSIS


def test_every_feature_is_counted_section_by_section(tmp_path: Path) -> None:
    found = inspected(
        tmp_path, "id,age,crea,sex,note,ward\na,50,1.1,1,x,w\nb,17,abc,3,,w\nc,,,2,y,w\nd,60,,1,,w\n", gone=1
    )
    told = {each.feature.name: each for each in found.features}
    assert list(told) == ["age", "sex", "crea", "note"]
    assert (found.patients, found.records, found.opted_out, found.ignored_columns) == (4, 4, 1, 1)
    assert (told["age"].measured, told["age"].outside, told["age"].questions) == (2, 1, 1)
    assert (told["crea"].measured, told["crea"].unreadable, told["crea"].questions) == (1, 1, 0)
    assert (told["sex"].measured, told["sex"].unlisted, told["sex"].texts, told["sex"].questions) == (4, 1, 2, 2)
    assert told["note"].questions is None
    assert found.tasks == {"advice": 1}


def test_a_frequent_code_that_is_never_beside_another_is_told_and_one_that_wrongly_is(tmp_path: Path) -> None:
    organisms = Feature(
        name="organisms",
        section="Labs",
        label="Organisms",
        kind="categorical",
        categories={"0": "none", "1": "E. coli", "2": "S. aureus", "3": "rare"},
        separator=";",
    )
    cells = ["0"] * 60 + ["1;2"] * 10 + ["1", "2"] * 10 + ["3"]
    content = "id,organisms\n" + "".join(f"p{place},{cell}\n" for place, cell in enumerate(cells))
    (told,) = inspected(tmp_path, content, Codebook(title="t", patient="id", features=(organisms,))).findings
    assert (told.short, told.code) == ("stands alone", None)
    assert "organisms: 'none' is listed 60 times" in told.text and 'alone = ["0"]' in told.text
    stated = Codebook(title="t", patient="id", features=(organisms.model_copy(update={"alone": ("0",)}),))
    assert inspected(tmp_path, content, stated).findings == ()
    (told,) = inspected(tmp_path, f"{content}q,0;1\n", stated).findings
    assert told.text == "organisms: 1 cells list a code that stands alone beside another; they are not asked for."


@given(usable=st.integers(0, 300), unreadable=st.integers(0, 300), outside=st.integers(0, 300))
def test_over_half_unusable_is_refused_and_over_two_percent_warned_of(
    usable: int, unreadable: int, outside: int
) -> None:
    filled, unusable = usable + unreadable + outside, unreadable + outside
    found = codes(counts(usable, unreadable=unreadable, outside=outside))
    refused = [code for _, code in found if code is not None]
    assert refused == ([Code.REGISTRY_UNITS] if unusable > filled / 2 else [])
    warned = [short for short, _ in found if short.startswith("over")]
    assert len(warned) == (0.02 * filled < unusable <= filled / 2)


def test_a_refusal_tells_counts_and_bounds_and_which_unit_it_may_be(tmp_path: Path) -> None:
    lines = [f"p{i},50,{60 + i},1,," for i in range(40)] + ["q,50,1.0,1,,"]
    registry = registry_of(tmp_path, "id,age,crea,sex,note,ward\n" + "\n".join(lines) + "\n")
    found = inspect_registry(registry, QuestionMaker(CODEBOOK, "full"), registry.patients)
    assert found.refused == ("crea",)
    (told,) = [finding.text for finding in found.findings if finding.code]
    assert "crea: 40 of 41 filled cells cannot be used: 40 outside 0.1 to 30." in told and "(mg/dL)" in told
    path = tmp_path / "registry.csv"
    hints = unit_hints(lambda wide: registry_from(read_delimited(path), wide), CODEBOOK, ["crea", "sex"])
    assert hints["crea"].text == "Taken as µmol/L 40 of the 41 numbers are within the bounds, as they stand 1."


@pytest.mark.parametrize(
    ("feature", "numbers", "unit"),
    [
        ({"name": "t", "label": "Temperature", "unit": "°C", "low": 30, "high": 45}, [98.6, 101.2], "°F"),
        ({"name": "h", "label": "Height", "unit": "cm", "low": 100, "high": 220}, [1.7, 1.8], "m"),
        ({"name": "g", "label": "Glucose", "unit": "mmol/L", "low": 1, "high": 40}, [180.0, 90.0], "mg/dL"),
        ({"name": "b", "label": "Urea nitrogen", "unit": "mg/dl", "low": 10, "high": 90}, [4.0, 8.0], "mmol/L"),
        ({"name": "t", "label": "Temperature", "unit": "°C", "low": 30, "high": 45}, [36.6, 38.2], None),
        ({"name": "x", "label": "Potassium", "unit": "mg/dL", "low": 1, "high": 2}, [500.0, 700.0], None),
    ],
)
def test_a_unit_is_named_only_where_it_explains_the_numbers(
    feature: dict[str, Any], numbers: list[float], unit: str | None
) -> None:
    found = hint(Feature.model_validate(CREATININE | {"decimals": 0, "step": 1} | feature), numbers)
    assert (found and found.unit) == unit


@given(st.sampled_from(CONVERSIONS), st.floats(-1e6, 1e6))
def test_a_conversion_and_its_inverse_undo_each_other(conversion: Any, number: float) -> None:
    assert conversion.inverse.convert(conversion.convert(number)) == pytest.approx(number, abs=1e-6)


def test_what_is_measured_decides_where_a_unit_alone_does_not() -> None:
    bilirubin = Feature.model_validate(CREATININE | {"name": "bili", "label": "Bilirubin"})
    (own,), (other,) = conversions_of(bilirubin), conversions_of(Feature.model_validate(CREATININE))
    assert own.other == other.other == "µmol/L" and own.factor != other.factor


def test_questions_that_teach_nothing_and_columns_that_may_name_people_are_warned_of() -> None:
    assert codes(counts(0)) == [("never measured", None)]
    assert codes(counts(30, texts=1)) == [("always the same", None)]
    assert codes(counts(30, texts=2)) == []
    for name in ("patient_name", "MRN", "homePhone", "date of birth"):
        assert codes(counts(30, name=name)) == [("may identify", None)], name
    for name in ("platelets", "enamel", "renal_sofa", "nameless"):
        assert codes(counts(30, name=name)) == [], name
    note = FeatureCounts(CODEBOOK.by_name["note"], 30, 0, 0, 0, 30, None)
    assert codes(note) == [("free text", None)]
    wards = Feature(**SEX, categories={str(i): f"ward {i}" for i in range(50)})
    assert codes(FeatureCounts(wards, 40, 0, 0, 0, 39, 40)) == [("may identify", None)]
    assert codes(FeatureCounts(wards, 400, 0, 0, 0, 39, 400)) == []


def test_a_series_is_not_judged_by_its_first_values_alone() -> None:
    assert codes(counts(10, outside=30, series=True)) == []
    assert codes(counts(0, outside=30, series=True)) == [("E310", Code.REGISTRY_UNITS)]


def test_the_table_has_a_row_for_every_feature_and_names_what_is_wrong(tmp_path: Path) -> None:
    found = inspected(tmp_path, "id,age,crea,sex,note,ward\n" + "".join(f"p{i},10,1,1,,\n" for i in range(4)))
    tables = [part for part in feature_table(found).renderables if isinstance(part, Table)]
    assert sum(table.row_count for table in tables) == len(found.features) + len(found.tasks) == 5
    first, *others = (str(line) for line in finding_lines(found))
    assert first.startswith("E310: age") and any("crea: every value is the same" in line for line in others)
    whole = as_json(Checked((), found))
    assert [each["name"] for each in whole["features"]] == ["age", "sex", "crea", "note"]
    assert whole["findings"][0]["code"] == 310 and whole["ok"]


def skewed(place: Path, count: int, **scales: Any) -> Inspection:
    """Laboratory values as they are distributed, with as many at their least as there are."""
    random = np.random.default_rng(5)
    values = {
        "procalcitonin": np.exp(random.normal(0, 1.6, count)).clip(0.02, 150),
        "bilirubin": np.exp(random.normal(-0.2, 1.1, count)).clip(0.2, 45),
        "creatinine": np.where(random.random(count) < 0.2, 0.3, np.exp(random.normal(0.1, 0.8, count)).clip(0.3, 20)),
    }
    described = {
        "procalcitonin": {"low": 0.02, "high": 200, "decimals": 2, "step": 10},
        "bilirubin": {"low": 0.2, "high": 50, "decimals": 1, "step": 2},
        "creatinine": {"low": 0.3, "high": 25, "decimals": 1, "step": 1},
    }
    features = tuple(
        Feature.model_validate(CREATININE | {"name": name, "label": name} | given | scales.get(name, {}))
        for name, given in described.items()
    )
    rows = "".join(
        ",".join([f"p{i}", *(feature.number(values[feature.name][i]) for feature in features)]) + "\n"
        for i in range(count)
    )
    book = Codebook(title="t", patient="id", features=features)
    return inspected(place, "id,procalcitonin,bilirubin,creatinine\n" + rows, book)


@pytest.mark.long
def test_a_skewed_registry_is_warned_of_and_is_well_with_the_scale_that_is_advised(tmp_path: Path) -> None:
    found = skewed(tmp_path, 600)
    warned = {each.feature: each.text for each in found.findings}
    assert {each.short for each in found.findings} == {"answers itself"} and set(warned) == {
        "procalcitonin",
        "bilirubin",
        "creatinine",
    }
    scales = {}
    for name, text in warned.items():
        advised = re.search(r'With scale = "log" and step = ([\d.]+) no rule', text)
        assert advised is not None, text
        scales[name] = {"scale": "log", "step": float(advised[1])}
    assert "the smallest choice is right in " in warned["procalcitonin"]
    after = skewed(tmp_path, 600, **scales)
    assert after.findings == () and len(after.unread) == 3
    assert all(each.blind.over_chance < 0.13 for each in after.unread)
    table = unread_table(after)
    assert table.row_count == 3
    told = as_json(Checked((), after))["unread"]
    assert {each["item"] for each in told} == set(warned) and all(each["values"] == 600 for each in told)


def test_of_what_no_scale_mends_that_is_said_and_of_few_patients_nothing(tmp_path: Path) -> None:
    coma = Feature(name="gcs", section="s", label="GCS", kind="numeric", low=3, high=15, step=1)
    book = Codebook(title="t", patient="id", features=(coma,))
    rows = [f"p{i},{15 if i % 2 else 3 + i % 13}\n" for i in range(200)]
    (finding,) = inspected(tmp_path, "id,gcs\n" + "".join(rows), book).findings
    assert finding.short == "answers itself" and "No scale or step mends that" in finding.text
    assert inspected(tmp_path, "id,gcs\n" + "".join(rows[:19]), book).unread == ()


@pytest.mark.parametrize(
    ("numbers", "feature", "warned"),
    [
        (["0.21", "0.4", "0.6", "1", "0.35", "0.5"], {"low": 0, "high": 100, "step": 1, "decimals": 0}, True),
        (["0.21", "0.4", "0.6", "1", "0.35", "0.5"], {"low": 0, "high": 1, "step": 0.05, "decimals": 2}, False),
        (["1.2", "1.4", "2.1", "2.6", "0.8", "3.4"], {"low": 0, "high": 30, "step": 1, "decimals": 0}, True),
        (["7.21", "7.44", "7.38", "7.35"], {"low": 6, "high": 8, "step": 1, "decimals": 0}, True),
        (["62.84", "41.3", "70.06", "81.5", "62.9"], {"low": 18, "high": 110, "step": 4, "decimals": 0}, False),
        (["166.65", "240.11", "166.6", "333.3", "95.2"], {"low": 10, "high": 900, "step": 25, "decimals": 0}, False),
        (["1.19995", "1.2000", "0.89999", "0.9", "2.5"], {"low": 0, "high": 9, "step": 0.1, "decimals": 1}, False),
    ],
)
def test_a_display_that_makes_one_of_numbers_that_lie_apart_is_warned_of(
    tmp_path: Path, numbers: list[str], feature: dict[str, Any], warned: bool
) -> None:
    lab = Feature.model_validate(CREATININE | {"name": "lab"} | feature)
    rows = "".join(f"p{i},{number}\n" for i, number in enumerate(numbers * 2))
    found = inspected(tmp_path, "id,lab\n" + rows, Codebook(title="t", patient="id", features=(lab,)))
    assert [each.short for each in found.findings if each.short == "display merges"] == ["display merges"] * warned
    assert not any(number in each.text for each in found.findings for number in numbers if len(number) > 1)


def test_numbers_beyond_a_limit_that_a_word_states_are_counted(tmp_path: Path) -> None:
    lab = Feature.model_validate(CREATININE | {"name": "lab", "words": {"<0.5": "below 0.5", "hemolyzed": "hemolyzed"}})
    rows = "".join(f"p{i},{cell}\n" for i, cell in enumerate(["<0.5", "0.4", "0.5", "1.2", "0.3", "hemolyzed", "0.3"]))
    found = inspected(tmp_path, "id,lab\n" + rows, Codebook(title="t", patient="id", features=(lab,)))
    assert [each.text.partition(" numbers")[0] for each in found.findings] == ["lab: 3"]


def test_a_display_is_doubted_of_timed_values_too() -> None:
    display, lactate = Display(), Feature.model_validate(CREATININE | {"decimals": 0, "step": 1, "low": 0})
    for cell in ("1.2", "1.4", "3", "hemolyzed"):
        display.saw(lactate, cell, lactate.shown(cell) or "hemolyzed")
    assert display.merged() == {"crea": pytest.approx(2 / 3)}


@pytest.mark.real_data
@pytest.mark.skipif(not SEPSIS.exists(), reason="SUPPORT2 is not on this machine")
def test_support2_has_nothing_refused_and_in_a_wrong_unit_has() -> None:
    codebook = load_codebook(ROOT / "configs" / "registries" / "support2.toml")
    registry = registry_from(read_delimited(SEPSIS), codebook)
    found = inspect_registry(registry, QuestionMaker(codebook, "full"), registry.patients)
    assert found.refused == () and found.patients == 2801
    temperature = codebook.by_name["temp"]
    fahrenheit = temperature.model_copy(update={"low": 77.0, "high": 113.0, "unit": "degrees Fahrenheit"})
    features = tuple(fahrenheit if each is temperature else each for each in codebook.features)
    wrong = codebook.model_copy(update={"features": features})
    registry = registry_from(read_delimited(SEPSIS), wrong)
    found = inspect_registry(registry, QuestionMaker(wrong, "full"), registry.patients)
    assert found.refused == ("temp",)
    hints = unit_hints(lambda wide: registry_from(read_delimited(SEPSIS), wide), wrong, found.refused)
    assert hints["temp"].unit == "°C"
