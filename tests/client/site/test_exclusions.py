"""Patients who opted out: left out from the next task on, counted and never named; no list, no training."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.site.exclusions import read_exclusions, without_excluded
from common.errors import Code, FedReasonError
from common.questions.question import Patient
from tests.checked import mutated
from tests.privacy_checks.opt_outs import CHECKS

MUTATIONS = mutated(CHECKS)
PATIENTS = [Patient(f"P{number}", {}) for number in range(1, 6)]


def kept(folder: Path, text: str | bytes, *, whole_hospital: bool = False, of: Sequence[Patient] = ()) -> list[str]:
    content = text.encode() if isinstance(text, str) else text
    (folder / "excluded.txt").write_bytes(content)
    left = without_excluded(of or PATIENTS, folder, required=True, whole_hospital=whole_hospital, column=None)
    return [patient.id for patient in left]


def refused(folder: Path) -> FedReasonError:
    with pytest.raises(FedReasonError) as caught:
        without_excluded(PATIENTS, folder, required=True, column=None)
    return caught.value


def test_whoever_a_line_names_is_left_out_and_a_line_that_names_nobody_stops_the_site() -> None:
    assert all(check.passes() for check in CHECKS)


@pytest.mark.parametrize("survives", MUTATIONS)
def test_the_check_above_fails_where_opting_out_is_broken(survives: Callable[[], bool]) -> None:
    assert not survives()


def test_who_opted_out_is_left_out_and_nobody_else(tmp_path: Path) -> None:
    assert kept(tmp_path, "# opted out\nP2\n\n  P4  \n") == ["P1", "P3", "P5"]
    assert kept(tmp_path, "") == ["P1", "P2", "P3", "P4", "P5"]


@pytest.mark.parametrize(
    "text",
    [
        "P2 # by letter of 3 May\n",
        "P2#x\n",
        '"P2"\r\n',
        "'P2'",
        "\ufeffP2\n",
        "\tP2",
        '"P2" # x',
        "p2",
        "\u200bP2\xa0",
        '="P2"',
        "\uff302",
    ],
)
def test_however_a_person_or_a_spreadsheet_writes_the_line_it_counts(tmp_path: Path, text: str) -> None:
    assert kept(tmp_path, text) == ["P1", "P3", "P4", "P5"]


@given(
    st.lists(
        st.text(st.characters(exclude_characters="\0\r\n\v\f\x1c\x1d\x1e\x85\u2028\u2029", codec="utf-8"), min_size=1)
    )
)
def test_whatever_identifier_is_listed_its_patient_is_left_out(
    tmp_path_factory: pytest.TempPathFactory, identifiers: list[str]
) -> None:
    listed = [text for text in (text.strip() for text in identifiers) if text and not text.startswith(("#", "\ufeff"))]
    folder = tmp_path_factory.mktemp("site")
    (folder / "excluded.txt").write_text("\n".join(listed), encoding="utf-8")
    assert not without_excluded([Patient(text, {}) for text in listed], folder, column=None)


def test_a_change_counts_at_once_even_with_the_old_time_and_size(tmp_path: Path) -> None:
    assert kept(tmp_path, "P1\n") == ["P2", "P3", "P4", "P5"]
    before = (tmp_path / "excluded.txt").stat()
    (tmp_path / "excluded.txt").write_text("P2\n")
    os.utime(tmp_path / "excluded.txt", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert read_exclusions(tmp_path, column=None) == {"p2"}


def test_a_line_that_names_nobody_refuses_by_its_number_alone(tmp_path: Path) -> None:
    (tmp_path / "excluded.txt").write_text("# who\nP1\n\nsecret-7 # sentinel\nP3\nP9\n")
    error = refused(tmp_path)
    assert error.code is Code.EXCLUSIONS_UNKNOWN
    assert "2 of 4 lines name nobody" in error.found and "line 4, 6" in error.found
    for text in ("secret", "sentinel", "P1", "P3", "P9"):
        assert text not in str(error)


def test_in_a_list_of_the_whole_hospital_they_are_told_once_by_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="fedreason")
    assert kept(tmp_path, "P1\nsecret-7 # sentinel\nP3 # sentinel\n", whole_hospital=True) == ["P2", "P4", "P5"]
    without_excluded(PATIENTS, tmp_path, whole_hospital=True, column=None)
    assert caplog.text.count("2 patients opted out") == 1
    assert caplog.text.count("1 lines name nobody") == 1
    for text in ("secret", "sentinel", "P1", "P3"):
        assert text not in caplog.text


def test_a_simulation_needs_no_list_and_a_hospital_does(tmp_path: Path) -> None:
    assert read_exclusions(tmp_path, column=None) == frozenset()
    error = refused(tmp_path)
    assert error.code is Code.REGISTRY_MISSING
    assert "excluded.txt" in error.found
    assert "empty" in error.fix


def test_a_list_that_cannot_be_read_refuses(tmp_path: Path) -> None:
    (tmp_path / "excluded.txt").mkdir()
    assert refused(tmp_path).code is Code.REGISTRY_MISSING
    with pytest.raises(FedReasonError):
        read_exclusions(tmp_path, column=None)


def test_a_list_that_is_not_utf8_refuses_and_is_not_quoted(tmp_path: Path) -> None:
    (tmp_path / "excluded.txt").write_bytes(b"P1\nM\xfcller\n")
    error = refused(tmp_path)
    assert error.code is Code.REGISTRY_ENCODING
    assert "ller" not in str(error)


def test_a_list_that_vanishes_refuses(tmp_path: Path) -> None:
    kept(tmp_path, "P1\n")
    (tmp_path / "excluded.txt").unlink()
    assert refused(tmp_path).code is Code.REGISTRY_MISSING
