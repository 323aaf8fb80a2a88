"""Drafts that went wrong: codes for no value, spellings and identifiers are found, doubted or left alone."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from openpyxl import Workbook
from typer.testing import CliRunner

from client.draft.cli import codebook as command
from client.draft.doubts import stand_ins
from client.registry.times import form_of
from common.codebook import load_codebook
from tests.client.draft.cases_draft import drafted, load_text


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


@pytest.mark.parametrize("form", ["%m/%d/%Y %H:%M %p", "%m/%d/%Y %I:%M"])
def test_a_form_that_would_lose_half_of_the_day_is_refused(form: str) -> None:
    with pytest.raises(ValueError, match="AM and PM"):
        form_of(form)
    assert form_of("%m/%d/%Y %I:%M %p") == "%m/%d/%Y %I:%M %p"
