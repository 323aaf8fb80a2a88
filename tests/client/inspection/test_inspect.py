"""What a registry holds is told in counts; what is wrong with it by number; and no value of a record ever."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from client.inspection.check import Checked, check_site
from client.inspection.conversions import CONVERSIONS, conversions_of, hint, unit_hints
from client.inspection.prompt_lengths import LONGEST, SAMPLE, sampled_questions
from client.inspection.registry import FeatureCounts, Inspection, findings_of, inspect_registry
from client.inspection.report import as_json, feature_table, finding_lines, unread_table
from client.registry.delimited import read_delimited
from client.registry.display import Display
from client.registry.load import Registry, registry_from
from client.site.config import load_site
from client.site.opened import open_registry
from client.site.split import held_out
from client.training.contribution import Site
from common.codebook import Codebook, Feature, Task, load_codebook
from common.config import load_config
from common.errors import Code
from common.questions.question import Patient, QuestionMaker
from simulation.prepare import write_site
from tests import sentinels
from tests.client.node.test_preflight import authority, folder, server  # noqa: F401
from tests.client.registry.test_support2 import ROOT, SEPSIS
from tests.small import small_config
from tests.tls import Listener

CREATININE: dict[str, Any] = {
    "name": "crea",
    "section": "Labs",
    "label": "Creatinine",
    "unit": "mg/dL",
    "kind": "numeric",
    "low": 0.1,
    "high": 30,
    "step": 0.5,
    "decimals": 1,
}
SEX: dict[str, Any] = {"name": "sex", "section": "Person", "label": "Sex", "kind": "categorical"}
CODEBOOK = Codebook(
    title="test",
    patient="id",
    ignored=("ward",),
    features=(
        Feature(name="age", section="Person", label="Age", kind="numeric", low=18, high=110, step=10),
        Feature(**CREATININE),
        Feature(**SEX, categories={"1": "male", "2": "female"}),
        Feature(name="note", section="Labs", label="Impression", kind="text"),
    ),
    tasks=(Task(name="advice", kind="consultation", feature="note", question="What now?"),),
)


def registry_of(place: Path, content: str, codebook: Codebook = CODEBOOK) -> Registry:
    (place / "registry.csv").write_text(content)
    return registry_from(read_delimited(place / "registry.csv"), codebook)


def inspected(place: Path, content: str, codebook: Codebook = CODEBOOK, gone: int = 0) -> Inspection:
    registry = registry_of(place, content, codebook)
    return inspect_registry(registry, QuestionMaker(codebook, "full"), registry.patients[gone:])


def counts(measured: int, *, unreadable: int = 0, outside: int = 0, texts: int = 5, **feature: Any) -> FeatureCounts:
    described = Feature.model_validate(CREATININE | feature)
    return FeatureCounts(described, measured, unreadable, outside, 0, texts, measured)


def codes(found: FeatureCounts) -> list[tuple[str, Code | None]]:
    return [(finding.short, finding.code) for finding in findings_of(found)]


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


def run_toml(place: Path, model: Path | str, codebook: Codebook = CODEBOOK, **changes: Any) -> Path:
    (place / "federation.toml").write_text(codebook.to_toml())
    config = small_config(Path(model), questions={"view": "full", "codebook": "federation.toml"}, **changes)
    table = config.model_dump(mode="json", exclude_none=True)
    table["questions"].pop("codebook_sha256")
    (place / "run.toml").write_text(tomli_w.dumps(table))
    return place / "run.toml"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site of 60 patients, one of whom opted out."""
    rows = [
        {"id": f"p{i}", "age": str(30 + i), "crea": "1.1", "sex": "12"[i % 2], "note": "word " * i, "ward": "w"}
        for i in range(60)
    ]
    place = write_site(tmp_path / "amc", "amc", list(rows[0]), rows, CODEBOOK)
    (place / "excluded.txt").write_text("p0\n")
    return place


def checked(site: Path, run: Path | None = None) -> Checked:
    return check_site(site, load_site(site), run, tell=lambda _: None)


def texts_of(found: Checked) -> dict[str, str]:
    return {line.name: line.text for line in found.lines}


def test_every_check_is_made_whatever_the_others_say(site: Path) -> None:
    (site / "policy.toml").unlink()
    found = checked(site)
    refused = {line.name for line in found.lines if line.code is not None}
    assert {"keys", "roster", "policy", "coordinator"} <= refused and not found.well
    told = texts_of(found)
    assert told["records"].startswith("60 patients, 60 records, 1 opted out")
    assert told["run"] == told["prompts"] == told["memory"] == "no run given"
    assert found.inspection is not None and found.inspection.patients == 60


def test_what_rests_on_something_refused_is_not_looked_at(site: Path, small_model: Path) -> None:
    (site / "registry.csv").unlink()
    found = checked(site, run_toml(site, small_model))
    told = texts_of(found)
    assert told["registry"].startswith("E301") and told["records"] == "not looked at: see registry"
    assert told["features"] == "not looked at: see records" and found.inspection is None
    assert "'small'" in told["run"] and "estimate" in told["memory"]


def test_a_run_is_held_against_policy_records_and_machine(
    site: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = run_toml(site, small_model)
    told = texts_of(checked(site, path))
    config, codebook = load_config(path)
    patients = open_registry(site).registry.patients[1:]
    kept = sum(held_out(patient, config, None) for patient in patients)
    assert 0 < kept < 59 and f"{59 - kept} for training, {kept} held out" in told["records"]
    assert len(Site(site).training(config)) == 59 - kept
    assert told["allowed"].endswith("plain")
    assert told["prompts"].startswith("the longest of 59 has ") and "too long" not in told["prompts"]
    assert told["memory"].startswith("an estimate: about ") and "no GPU" in told["memory"]

    few = texts_of(checked(site, run_toml(site, small_model, grpo={"max_prompt_tokens": 90})))
    assert "are too long and would not be asked" in few["prompts"]
    packed = run_toml(site, small_model)
    packed.write_text(packed.read_text().replace('"float32"', '"bfloat16"').replace('ion = "none"', 'ion = "nf4"'))
    with monkeypatch.context() as patched:
        patched.setattr("transformers.utils.import_utils.is_bitsandbytes_available", lambda: False)
        assert texts_of(checked(site, packed))["memory"].startswith("E405")
    other = codebook.model_copy(update={"title": "other"})
    assert texts_of(checked(site, run_toml(site, small_model, other)))["run"].startswith("E206")
    absent = texts_of(checked(site, run_toml(site, site / "nowhere")))
    assert absent["prompts"] == absent["memory"] == "model not on this machine"
    (site / "policy.toml").write_text('metrics = "plain"\nmax_prompt_tokens = 100\n')
    assert "grpo.max_prompt_tokens 600 > 100" in texts_of(checked(site, path))["allowed"]


def test_the_records_with_the_most_text_are_among_those_sampled() -> None:
    patients = [Patient(str(i), {"sex": "male", "age": "50", "note": "x" * (i == 17) * 900}) for i in range(2000)]
    for seed in range(3):
        asked = sampled_questions(QuestionMaker(CODEBOOK, "full"), patients, seed)
        assert len(asked) <= SAMPLE + LONGEST and "17" in {question.patient for question in asked}
    first, second = (
        {question.patient for question in sampled_questions(QuestionMaker(CODEBOOK, "full"), patients, seed)}
        for seed in (0, 1)
    )
    assert len(first) >= SAMPLE and first != second


def client(*words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "client", *words]
    return subprocess.run(command, capture_output=True, check=False, cwd=ROOT, env={**os.environ, **environment})


def test_no_value_of_a_record_is_in_what_check_prints(tmp_path: Path) -> None:
    rows = sentinels.rows("amc", 30)
    place = sentinels.site_of(tmp_path / "amc", rows, {"metrics": "plain"})
    done, machine = client("check", "--site", str(place)), client("check", "--site", str(place), "--json")
    for each in (done, machine):
        assert each.returncode == 1
        assert sentinels.hits(each.stdout + each.stderr, sentinels.hashes({"amc": 30})) == []
    assert b"30 patients" in done.stdout and b"E310: unreadable: 30 of 30 filled cells" in done.stdout
    assert b"E310: unlisted: 30 of 30" in done.stdout and b"Traceback" not in done.stderr
    told = json.loads(machine.stdout)
    assert not told["ok"] and {each["code"] for each in told["findings"]} >= {310}
    assert "marker, text" in sentinels.hits((place / "registry.csv").read_bytes())


def test_a_site_in_order_is_well_and_exits_with_0(folder: Path, server: Listener) -> None:  # noqa: F811
    site = {"name": "amc", "federation": "sepsis", "coordinator": server.address, "registry": {"path": "registry.csv"}}
    (folder / "site.toml").write_text(tomli_w.dumps(site))
    (folder / "codebook.toml").write_text(CODEBOOK.to_toml())
    lines = "".join(f"p{i},{30 + i},{1 + i % 3},{1 + i % 2},,\n" for i in range(30))
    (folder / "registry.csv").write_text("id,age,crea,sex,note,ward\n" + lines)
    done = client("check", "--site", str(folder))
    assert done.returncode == 0, done.stdout
    assert b"30 patients" in done.stdout and b"[Labs]" in done.stdout
    (folder / "codebook.toml").write_text("title = 1")
    broken = client("check", "--site", str(folder))
    assert broken.returncode == 1 and b"E203" in broken.stdout and server.address.encode() in broken.stdout


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
