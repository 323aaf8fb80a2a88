"""A codebook drafted from records loads and fits them, and holds nothing that few patients share."""

from __future__ import annotations

import csv
import random
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from client.draft.cli import codebook as command
from client.draft.column import LEAST
from client.draft.name import read_name
from client.draft.table import Draft, draft
from client.inspection.blind import ask, blind_rules
from client.registry.delimited import read_delimited
from client.registry.load import Registry, registry_from
from client.registry.numerals import Numerals
from client.registry.quantity import by_ratio
from client.registry.table import Table
from common.codebook import ROW, Codebook, load_codebook
from common.errors import Code, FedReasonError
from common.feature import Feature
from tests.examples import examples
from tests.paths import DATA

SENTINEL = "Q7ZSENTINEL"


def drafted(columns: dict[str, list[str]], *, patient: str | None = ROW, decimal: str = ".") -> Draft:
    return draft(table(columns), patient=patient, decimal=decimal, title="Test")


def table(columns: dict[str, list[str]]) -> Table:
    rows = zip(*columns.values(), strict=True)
    return Table("a table", tuple(columns), iter(list(enumerate(map(list, rows), start=2))))


def feature(cells: list[str], name: str = "x", decimal: str = ".") -> Feature | str:
    """What is made of one column, or why nothing."""
    found = drafted({name: cells, "other": ["a", "b"] * (len(cells) // 2)}, decimal=decimal)
    return found.codebook.by_name.get(name) or dict(found.left_out)[name]


def loaded(found: Draft, folder: Path) -> Codebook:
    (folder / "codebook.toml").write_text(found.text())
    return load_codebook(folder / "codebook.toml")


def registry(rows: int = 400, seed: int = 1) -> dict[str, list[str]]:
    """Columns as hospitals name and fill them."""
    draws = random.Random(seed)

    def each(draw: Callable[[int], str]) -> list[str]:
        return [draw(i) for i in range(rows)]

    return {
        "patient_id": each(lambda i: f"{SENTINEL}{i:05d}"),
        "Last name": each(lambda i: draws.choice(["Kim", "Lee"])),
        "admitted": each(lambda i: f"2026-01-{draws.randint(10, 28)}"),
        "note": each(lambda i: f"{SENTINEL} came in by foot {draws.random()}"),
        "sex": each(lambda i: draws.choice("12")),
        "ward": each(lambda i: SENTINEL if i in (3, 30) else draws.choice(["ICU", "ward"])),
        "Creatinine (mg/dL)": each(lambda i: "neg" if i % 9 == 0 else f"{draws.lognormvariate(0, 0.5):.2f}"),
        "temp_celsius": each(lambda i: "-99" if i % 7 == 0 else f"{draws.gauss(37.2, 0.8):.1f}"),
        "base_excess": each(lambda i: f"{draws.gauss(-2, 5):.1f}"),
        "organisms": each(lambda i: ";".join(sorted(draws.sample("123", draws.randint(1, 2))))),
        "empty": each(lambda i: "n/a"),
    }


def test_a_draft_says_what_every_column_is() -> None:
    found = drafted(registry(), patient=None)
    book = found.codebook
    assert (book.patient, book.private, found.rows) == ("patient_id", True, 400)
    assert "-99" in book.missing and "n/a" in book.missing
    creatinine, temperature = book.by_name["Creatinine (mg/dL)"], book.by_name["temp_celsius"]
    assert (creatinine.label, creatinine.unit, creatinine.words) == ("Creatinine", "mg/dL", {"neg": "neg"})
    assert (creatinine.low, creatinine.high, creatinine.decimals) == (0, 5, 2)
    assert (creatinine.scale, creatinine.step) == ("log", 1.1)  # the logarithms have a deviation of 0.5
    assert (temperature.label, temperature.unit) == ("Temp", "°C")
    assert (temperature.low, temperature.high, temperature.step, temperature.decimals) == (20, 50, 0.2, 1)
    assert temperature.scale == "linear"
    excess = book.by_name["base_excess"]
    assert (excess.low, excess.high) == (-20, 20)
    assert book.by_name["sex"].categories == {"1": "1", "2": "2"}
    assert set(book.by_name["ward"].categories) == {"ICU", "ward"}
    assert (book.by_name["organisms"].separator, set(book.by_name["organisms"].categories)) == (";", {"1", "2", "3"})
    assert dict(found.left_out) == {
        "Last name": "by its name it tells who the patient is",
        "admitted": "dates or times",
        "note": "free text",
        "empty": "empty",
    }


def test_a_draft_loads_and_fits_the_table_it_is_from(tmp_path: Path) -> None:
    columns = registry()
    found = drafted(columns, patient=None)
    book = loaded(found, tmp_path)
    assert book == found.codebook
    report = registry_from(table(columns), book).report
    assert (report.patients, report.unreadable, report.unlisted) == (400, {}, {"ward": 2})
    assert all(count < 5 for count in report.outside.values()) and report.measured["organisms"] == 400


def test_nothing_that_few_patients_share_is_written() -> None:
    assert SENTINEL not in drafted(registry(), patient=None).text()


def test_the_sentinel_would_be_found_where_enough_patients_share_it() -> None:
    columns = registry()
    columns["ward"] = [SENTINEL if i < LEAST else cell for i, cell in enumerate(columns["ward"])]
    assert SENTINEL in drafted(columns, patient=None).text()


@pytest.mark.parametrize(("patients", "written"), [(LEAST - 1, False), (LEAST, True)])
def test_a_code_counts_by_patients_and_not_by_rows(patients: int, written: bool) -> None:
    visits = 5
    columns = {
        "id": [f"p{i}" for i in range(60) for _ in range(visits)],
        "visit_no": [f"v{i}" for i in range(60 * visits)],
        "ward": ["rare" if i < patients else "ab"[i % 2] for i in range(60) for _ in range(visits)],
    }
    book = drafted(columns, patient="id").codebook
    assert book.record == "visit_no" and book.ignored == ()
    assert ("rare" in book.by_name["ward"].categories) is written


def test_a_sign_for_no_value_among_several_codes_is_none_of_them() -> None:
    columns = {"organisms": ["1", "2", "1;2", "2;NA", "1;-99"] * 40, "lactate": ["-99", "3.1", "2.5", "1.7", "4"] * 40}
    book = drafted(columns).codebook
    assert set(book.by_name["organisms"].categories) == {"1", "2"} and {"NA", "-99"} <= set(book.missing)


_TOKENS = st.sampled_from(
    ["a", "b", "1", "2", "1;NA", "2;-99", "-99", "NA", "<0.5", "1;2", "a, b", "3.25", "1e400", "(unlisted)", "x; y|z"]
)
_CELLS = st.one_of(
    st.lists(_TOKENS, min_size=30, max_size=30),
    st.lists(st.floats(-1e6, 1e6).map(lambda x: f"{x:.3g}"), min_size=30, max_size=30),
    st.lists(st.integers(-3, 40).map(str), min_size=30, max_size=30),
    st.lists(st.text(st.characters(codec="utf-8"), max_size=3) | _TOKENS, min_size=30, max_size=30),
)


@examples(80)
@given(
    columns=st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=6).map(str.strip), _CELLS, min_size=1),
    decimal=st.sampled_from([".", ","]),
)
def test_any_table_gives_a_draft_that_fits_it_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, columns: dict[str, list[str]], decimal: str
) -> None:
    try:
        found = drafted(columns, decimal=decimal)
    except FedReasonError as error:
        assert error.code is Code.CODEBOOK_SOURCE
        return
    book = loaded(found, tmp_path_factory.mktemp("any"))
    assert book == found.codebook
    for each in book.features:
        for code in (*each.categories, *each.words):
            whole = code.lstrip("-").isdigit()  # may stand there as 1.0
            assert (
                whole
                or sum(code in (cell, cell.replace(decimal, ".")) or code in cell for cell in columns[each.name])
                >= LEAST
            )
    try:
        assert registry_from(table(columns), book, numerals=Numerals(decimal)).report.patients == 30
    except FedReasonError as error:
        assert error.code is Code.REGISTRY_UNUSABLE


@examples(100)
@given(
    numbers=st.lists(
        st.floats(-1e7, 1e7).map(lambda x: f"{x:.4g}") | st.integers(-50, 50).map(str), min_size=20, max_size=60
    )
)
def test_bounds_lie_outside_the_middle_and_are_no_ones_extreme(numbers: list[str]) -> None:
    found = feature(numbers[: len(numbers) // 2 * 2])
    if isinstance(found, str) or found.kind != "numeric":
        return
    values = sorted(map(float, numbers[: len(numbers) // 2 * 2]))
    assert found.low is not None and found.high is not None
    assert found.low < values[1] and values[-2] < found.high
    assert found.high != values[-1] and (found.low != values[0] or found.low == 0)
    for bound in (found.low, found.high, found.step):
        assert f"{abs(bound or 0):e}"[0] in "0125" or abs(bound or 0) < 10**-found.decimals * 1.5


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        ([f"{i}.1.2026" for i in range(1, 41)], "dates or times"),
        ([f"202601{i:02d}" for i in range(1, 29)], "dates or times"),
        ([f"{i % 24}:30" for i in range(40)], "dates or times"),
        ([str(i) for i in range(700, 740)], "an identifier: running or long whole numbers that never repeat"),
        ([str(i * i) for i in range(400, 460)], "an identifier: running or long whole numbers that never repeat"),
        (["7"] * 40, "one value only"),
        (["7.5"] * 40, "one value only"),
        (["x"] * 40, "one value only"),
        ([f"text {i}" for i in range(40)], "codes or words that few patients share"),
        (["1.5"] * 9 + [""] * 31, f"fewer than {LEAST} patients have a value"),
    ],
)
def test_what_is_no_feature_is_left_out_for_a_reason(cells: list[str], told: str) -> None:
    assert feature(cells) == told


def test_commas_are_decimals_or_separate_codes_as_is_said() -> None:
    cells = [f"{i % 4 + 1},{i % 3 + 1}" if i % 2 else str(i % 4 + 1) for i in range(120)]
    listed, number = feature(cells), feature([*cells, "<0,5"] * LEAST + ["1"] * LEAST, decimal=",")
    assert isinstance(listed, Feature) and isinstance(number, Feature)
    assert (listed.kind, listed.separator) == ("categorical", ",")
    assert (number.kind, number.decimals, number.words) == ("numeric", 1, {"<0.5": "<0.5"})


def test_words_that_read_the_same_once_they_have_a_point_are_one_word() -> None:
    cells = [*map(str, range(50)), *map(str, range(50)), *["<0,5 MG"] * LEAST, *["<0.5 mg"] * LEAST]
    found = feature(cells, decimal=",")
    assert isinstance(found, Feature) and found.words.keys() == {"<0.5 MG", "<0.5 mg"}
    assert len(set(found.words.values())) == 1


@pytest.mark.parametrize(
    ("column", "name"),
    [
        ("Creatinine (mg/dL)", ("Record", "Creatinine", "mg/dL")),
        ("crea_mg_dl", ("Record", "Crea", "mg/dL")),
        ("HR [bpm]", ("Record", "HR", "bpm")),
        ("Labs / Platelets (10^9/L)", ("Labs", "Platelets", "10^9/L")),
        ("Day 1 / Labs / sodium", ("Day 1 / Labs", "Sodium", "")),
        ("bilirubin_umol_l", ("Record", "Bilirubin", "µmol/L")),
        ("bp_min", ("Record", "Bp min", "")),
        ("Age (at entry)", ("Record", "Age (at entry)", "")),
        ("fio2_pct", ("Record", "Fio2", "%")),
    ],
)
def test_label_and_unit_are_read_from_a_columns_name(column: str, name: tuple[str, str, str]) -> None:
    assert read_name(column) == name


# --- The command ---


def written(path: Path, columns: dict[str, list[str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([list(columns), *zip(*columns.values(), strict=True)])
    return path


def told(*words: object) -> tuple[str, BaseException | None]:
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.output, result.exception


def test_the_command_writes_a_private_file_and_tells_counts_alone(tmp_path: Path) -> None:
    source, out = written(tmp_path / "r.csv", registry()), tmp_path / "codebook.toml"
    output, error = told("--from", source, "--out", out, "--title", "Sepsis")
    assert error is None and "400 rows, 6 features: 3 categorical, 3 numeric" in output
    assert not any(word in output for word in (SENTINEL, "ICU", "ward", "neg", "Creatinine"))
    assert stat.S_IMODE(out.stat().st_mode) == 0o600 and load_codebook(out).title == "Sepsis"


def test_an_existing_file_is_replaced_only_when_told(tmp_path: Path) -> None:
    source, out = written(tmp_path / "r.csv", registry()), tmp_path / "codebook.toml"
    out.write_text("mine")
    _, error = told("--from", source, "--out", out)
    assert isinstance(error, FedReasonError) and error.code is Code.CODEBOOK_SOURCE and out.read_text() == "mine"
    assert told("--from", source, "--out", out, "--replace")[1] is None and out.read_text() != "mine"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--patient", "nobody"], Code.REGISTRY_COLUMN),
        (["--encoding", "utf-16-be"], Code.REGISTRY_ENCODING),
        (["--out", "/no/such/folder/codebook.toml"], Code.CODEBOOK_SOURCE),
    ],
)
def test_what_cannot_be_drafted_is_refused_by_number(tmp_path: Path, options: list[str], code: Code) -> None:
    source = written(tmp_path / "r.csv", {"patient_id": ["a"], "sex": [SENTINEL]})
    _, error = told("--from", source, "--out", tmp_path / "codebook.toml", *options)
    assert isinstance(error, FedReasonError) and error.code is code and SENTINEL not in str(error)


@pytest.mark.parametrize("options", [["--encoding", "klingon"], ["--decimal", ";"], ["--header-row", "0"]])
def test_an_option_that_makes_no_sense_is_a_usage_error(tmp_path: Path, options: list[str]) -> None:
    source = written(tmp_path / "r.csv", registry())
    output, error = told("--from", source, "--out", tmp_path / "codebook.toml", *options)
    assert isinstance(error, SystemExit) and error.code == 2 and "Traceback" not in output


def test_a_table_of_few_patients_or_without_identifier_gives_no_draft(tmp_path: Path) -> None:
    for columns, words in (
        ({"patient_id": ["a", "b"], "sex": [SENTINEL, "2"]}, "10 patients of 2 rows"),
        ({"sex": ["1", SENTINEL]}, "no column that is named like an identifier"),
    ):
        with pytest.raises(FedReasonError, match=words) as refusal:
            drafted(columns, patient=None)
        assert refusal.value.code is Code.CODEBOOK_SOURCE and SENTINEL not in str(refusal.value)


# --- Real tables ---


@pytest.mark.real_data
def test_a_redcap_dictionary_is_told_from_a_table(tmp_path: Path) -> None:
    source, out = DATA / "redcap" / "redcapr_clinical-trial-1_dictionary.csv", tmp_path / "codebook.toml"
    if not source.exists():
        pytest.skip("the real tables are not on this machine")
    output, error = told("--from", source, "--out", out, "--title", "Trial")
    assert error is None and "identifies the record" in output
    assert load_codebook(out).title == "Trial" and not load_codebook(out).private


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("file", "patient", "features"),
    [
        ("support2/support2_sepsis_dev.csv", None, 45),
        ("physionet2019/physionet2019_wide_dev.csv", None, 44),
        ("heart_failure/S1Data.csv", ROW, 13),
    ],
)
def test_a_draft_of_a_real_table_fits_it(tmp_path: Path, file: str, patient: str | None, features: int) -> None:
    if not (DATA / file).exists():
        pytest.skip("the real tables are not on this machine")
    found = draft(read_delimited(DATA / file), patient=patient, decimal=".", title="Real")
    book = loaded(found, tmp_path)
    assert len(book.features) == features
    read: Registry = registry_from(read_delimited(DATA / file), book)
    numeric = [each.name for each in book.features if each.kind == "numeric"]
    assert read.report.unreadable == {}
    assert all(read.report.outside.get(name, 0) <= 0.01 * read.report.measured[name] + 1 for name in numeric)


@pytest.mark.parametrize(
    ("unit", "low", "high", "decimals", "ratio"),
    [
        ("mg/dL", 0, 30, 1, True),
        ("µg/L", 0.05, 200, 2, True),
        ("10^9/L", 0, 500, 0, True),
        ("per microlitre", 1000, 3_000_000, 0, True),
        ("unit per liter", 1, 5000, 0, True),
        ("mL/day", 0, 15000, 0, True),
        ("days", 0, 365, 0, True),
        ("mmol/L", 95, 200, 0, False),
        ("mmol/L", 0.1, 40, 1, True),
        ("g/dL", 1.5, 25, 1, False),
        ("mg/L", -1, 300, 1, False),
        ("mmHg", 10, 1000, 0, False),
        ("years", 0, 120, 0, False),
        ("%", 0, 100, 0, False),
        ("", 0, 1000, 0, False),
    ],
)
def test_unit_and_bounds_tell_what_is_compared_by_ratio(
    unit: str, low: float, high: float, decimals: int, ratio: bool
) -> None:
    assert by_ratio(unit, low, high, decimals) is ratio


def test_a_drafted_scale_is_that_of_unit_and_bounds_whatever_the_records_are() -> None:
    draws = random.Random(2)
    skewed = [f"{draws.lognormvariate(0, 1):.2f}" for _ in range(300)]
    columns = dict.fromkeys(("crp_mg_l", "score"), skewed)
    columns["sodium_mmol_l"] = [f"{draws.gauss(138, 5):.0f}" for _ in range(300)]
    book = drafted(columns).codebook
    assert {name: feature.scale for name, feature in book.by_name.items()} == {
        "crp_mg_l": "log",
        "score": "linear",
        "sodium_mmol_l": "linear",
    }
    assert (book.by_name["crp_mg_l"].step, book.by_name["crp_mg_l"].decimals) == (1.25, 2)
    assert book.by_name["sodium_mmol_l"].step == 1
    for item in book.features:
        found = blind_rules(item, ask(item, columns[item.name], 2000))
        assert found is not None and (found.over_chance < 0.12 or item.name == "score")


def test_the_review_list_of_a_draft_speaks_of_step_scale_and_decimals() -> None:
    text = drafted(registry(), patient=None).text()
    opening = text[: text.index("title")]
    assert all(word in opening for word in ("step ", 'scale = "log"', "decimals "))
