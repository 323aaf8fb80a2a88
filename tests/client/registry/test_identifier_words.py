"""What is no identifier is none anywhere: words for nothing, numbers with thousands, lines that name nobody."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.registry.cells import cell_text
from client.registry.folding import folded, identity, plain
from client.site.exclusions import opted_out, without_excluded
from client.training.workplace import Workplace
from common.errors import Code, FedReasonError
from common.questions.question import Patient
from simulation.prepare import write_site
from tests.client.registry.cases_ids import BOOK, read, refused

# --- Words for nothing ---


@pytest.mark.parametrize(
    "word",
    [
        "NaN",
        "nan",
        "null",
        "NULL",
        "NA",
        "na",
        "n/a",
        "none",
        "None",
        "#N/A",
        "<NA>",
        "NaT",
        "unknown",
        "UNK",
        "-",
        "?",
    ],
)
def test_a_word_for_nothing_is_no_identifier(tmp_path: Path, word: str) -> None:
    error = refused(tmp_path, f"id,age\n1,50\n{word},51\n2,52\n{word},53\n")
    assert error.code is Code.REGISTRY_DUPLICATE_PATIENT and "line 3, 5 has none" in error.found


def test_rows_without_an_identifier_are_not_one_patient_with_many_visits(tmp_path: Path) -> None:
    book = BOOK.model_copy(update={"record": "visit"})
    error = refused(tmp_path, "id,visit,age\nNaN,1,50\nNaN,2,51\n3,3,52\n", book)
    assert error.code is Code.REGISTRY_DUPLICATE_PATIENT and "line 2, 3 has none" in error.found
    error = refused(tmp_path, "id,visit,age\n1,null,50\n", book)
    assert error.code is Code.REGISTRY_DUPLICATE_PATIENT and "line 2 has none" in error.found


@pytest.mark.parametrize("name", ["Nan-1", "NA12", "noneman", "K", "0"])
def test_an_identifier_that_only_begins_like_one_is_kept(tmp_path: Path, name: str) -> None:
    assert [patient.id for patient in read(tmp_path, f"id,age\nx1,50\n{name},51\n").patients] == ["x1", name]


@pytest.mark.parametrize("code", ["999", "999.0", "9"])
def test_a_number_that_means_no_value_elsewhere_is_somebodys_identifier_and_told(tmp_path: Path, code: str) -> None:
    book = BOOK.model_copy(update={"missing": ("", code, "-99", "none of us")})
    content = "id,age\n" + "".join(f"{number},50\n" for number in range(1, 1201))
    found = read(tmp_path, content, book)
    assert len(found.patients) == 1200
    (remark,) = found.report.remarks
    assert remark.startswith(f"line {int(float(code)) + 1} may be no patient") and "missing" in remark
    rows = BOOK.model_copy(update={"missing": ("", code), "patient": "#", "ignored": ("id",)})
    assert read(tmp_path, content, rows).report.remarks == ()
    for nobody in ("-99", "none of us"):
        assert refused(tmp_path, f"id,age\n1,50\n{nobody},51\n", book).code is Code.REGISTRY_DUPLICATE_PATIENT


def test_such_a_number_on_several_rows_is_no_patient_and_on_one_told(tmp_path: Path) -> None:
    book = BOOK.model_copy(update={"missing": ("", "999", "998", "997"), "record": "visit"})
    rows = "id,visit,age\n1,1,50\n1,2,51\n999,3,52\n998,4,53\n999.0,5,54\n998,6,55\n997,7,56\n"
    error = refused(tmp_path, rows, book)
    assert error.code is Code.REGISTRY_DUPLICATE_PATIENT
    assert "lines 4, 6 have the same number" in error.found and "lines 5, 7 have" in error.found
    assert "line 8" not in error.found and not any(number in str(error) for number in ("999", "998"))
    found = read(tmp_path, "id,visit,age\n1,1,50\n1,2,51\n999,3,52\n998,4,53\n", book)
    (remark,) = found.report.remarks
    assert len(found.patients) == 3 and remark.startswith("line 4, 5 may be no patient")


# --- Thousands ---


@pytest.mark.parametrize("other", ["10.000", "10,000", "10'000", "10 000", "10.000.000", "10.000,0"])
def test_a_number_with_thousands_is_not_the_one_before_its_sign(tmp_path: Path, other: str) -> None:
    assert folded(other) != folded("10") and folded(other) != folded("10.0")
    found = read(tmp_path, f'id;age\n10;50\n"{other}";51\n')
    assert [patient.id for patient in found.patients] == ["10", plain(other)]
    (tmp_path / "excluded.txt").write_text("10\n")
    assert [patient.id for patient in without_excluded(found.patients, tmp_path, column=None)] == [plain(other)]


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.sampled_from(".,' "))
def test_no_number_with_thousands_meets_another_number(one: int, other: int, sign: str) -> None:
    grouped = f"{one:,}".replace(",", sign)
    assert one == other or folded(grouped) != folded(str(other))
    assert one < 1000 or folded(grouped) != folded(grouped.split(sign)[0])


@pytest.mark.parametrize("value", [123.0, Decimal("123"), Decimal("123.0"), Decimal("123.000"), Decimal("123.0000")])
@pytest.mark.parametrize("decimal", [".", ","])
def test_a_whole_number_of_a_source_is_the_same_identifier_however_many_zeros_it_keeps(
    value: float | Decimal, decimal: str
) -> None:
    text = cell_text(value, decimal) or ""
    assert identity(text) == "123" and folded(text.strip()) == "123"


# --- Lines of the list ---


def told(folder: Path, content: str) -> FedReasonError:
    (folder / "excluded.txt").write_text(content)
    with pytest.raises(FedReasonError) as caught:
        without_excluded([Patient("1", {}), Patient("2", {})], folder, column=None)
    assert caught.value.code is Code.EXCLUSIONS_UNKNOWN
    return caught.value


@pytest.mark.parametrize(
    ("first", "like"),
    [
        ("sep=;", "names its separator"),
        ('"sep=,"', "names its separator"),
        ("SEP = ;", "names its separator"),
        ("Patient-Nr.", "a line of headings"),
        ("Pat.-Nr.;Datum", "a line of headings"),
        ("Patientennummer", "a line of headings"),
        ("Fallnummer", "a line of headings"),
        ("N° patient", "a line of headings"),
        ("Numéro de dossier", "a line of headings"),
        ("MRN #", "a line of headings"),
        ("Studien-ID (Widerruf)", "a line of headings"),
        ("환자번호", "a line of headings"),
        ("Excluded patients", "a line of headings"),
        ("As of last Monday", "a title"),
        ("// by letter", "a remark"),
        ("-- by letter", "a remark"),
    ],
)
def test_a_line_that_names_nobody_is_told_by_what_it_looks_like(tmp_path: Path, first: str, like: str) -> None:
    error = told(tmp_path, f"{first}\n1\n")
    assert "1 of 2 lines name nobody in the registry: line 1" in error.found
    assert (
        like in error.fix
        and "delete it, or begin it with #" in error.fix
        and (first not in str(error) or first == "sep=;")
    )


def test_an_identifier_that_names_nobody_looks_like_nothing(tmp_path: Path) -> None:
    for line in ("P-17", "17", "kim", "Fall17", "patient 17"):
        assert "looks like" not in told(tmp_path, f"{line}\n1\n").fix


def test_headings_are_known_below_the_line_that_names_the_separator(tmp_path: Path) -> None:
    error = told(tmp_path, "sep=;\ndate;patient_id\n2026;1\n")
    assert "1 of 2 lines name nobody in the registry: line 1." in error.found
    (tmp_path / "excluded.txt").write_text("#sep=;\ndate;patient_id\n2;1\n")
    staying = without_excluded([Patient("1", {}), Patient("2", {})], tmp_path, column=None)
    assert [patient.id for patient in staying] == ["2"]


@pytest.mark.parametrize(
    ("content", "gone"),
    [
        ("record_id,mrn\n17,7700103\n", {"17"}),
        ("record_id,mrn\n17,103\n", {"17", "103"}),  # one too many
        ("mrn;Record ID\n103;17\n", {"17", "103"}),
        ("record_id;patient_id\n1;150\n2;151\n", {"1", "2", "150", "151"}),  # a running number of the same name
        ("No,patient_id\n1,150\n2,151\n", {"1", "2", "150", "151"}),
        ("study_id;subject_no;Datum\n17;150;2024-01-01\n", {"17", "150"}),
        ("nr;id\n123;124\n", {"123", "124"}),
    ],
)
@pytest.mark.parametrize("whole_hospital", ["true", "false"])
def test_whoever_stands_in_any_column_called_an_identifier_is_left_out_the_registrys_own_beside_others(
    tmp_path: Path, content: str, gone: set[str], whole_hospital: str
) -> None:
    rows = [{"record_id": str(number), "age": "50"} for number in range(1, 200)]
    book = BOOK.model_copy(update={"patient": "record_id"})
    site = write_site(tmp_path / "amc", "amc", ["record_id", "age"], rows, book)
    with (site / "site.toml").open("a") as config:
        config.write(f"\n[exclusions]\nwhole_hospital = {whole_hospital}\n")
    (site / "excluded.txt").write_text(content)
    assert {row["record_id"] for row in rows} - {patient.id for patient in Workplace(site).patients} == gone


def test_a_running_number_called_as_the_registrys_column_keeps_nobody_who_opted_out(tmp_path: Path) -> None:
    (tmp_path / "excluded.txt").write_text("id;patient_id\n1;150\n2;151\n")
    patients = [Patient(identifier, {}) for identifier in ("1", "2", "3", "150", "151", "152")]
    assert [patient.id for patient in without_excluded(patients, tmp_path, column="id")] == ["3", "152"]


def test_in_the_registrys_own_column_alone_a_line_names_somebody(tmp_path: Path) -> None:
    (tmp_path / "excluded.txt").write_text("id;mrn\n1;2\n17;2\n")
    found = opted_out([Patient("1", {}), Patient("2", {})], tmp_path, column="id")
    assert (found.gone, found.unknown) == ({"1", "2"}, (3,))


def test_a_running_number_that_is_a_patients_hides_no_line_that_names_nobody(tmp_path: Path) -> None:
    error = told(tmp_path, "No,patient_id\n1,2\n2,1510\n")
    assert "1 of 2 lines name nobody in the registry: line 3." in error.found


@pytest.mark.parametrize("heading", ["Fallnummer", "Case 1"])
def test_a_heading_is_known_by_the_registrys_name_whatever_that_is(tmp_path: Path, heading: str) -> None:
    (tmp_path / "excluded.txt").write_text(f"Datum;{heading}\n2;1\n")
    found = opted_out([Patient("1", {}), Patient("2", {})], tmp_path, column=heading)
    assert (found.lines, found.gone, found.unknown) == (1, {"1"}, ())
