"""Identifiers and opt-outs that went wrong: who is one patient, and who is none, is one rule."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openpyxl import Workbook
from sqlalchemy import create_engine, text

from client.inspection.check import Line, check_site
from client.registry.folding import folded, identity, lost, plain
from client.site.config import ExclusionsConfig, RegistryConfig, SiteConfig, load_site
from client.site.exclusions import opted_out, without_excluded
from client.site.opened import read_registry
from client.site.split import held_out
from client.training.workplace import Workplace
from common.errors import Code, FedReasonError
from common.questions.question import Patient
from simulation.prepare import write_site
from tests.client.registry.cases_ids import BOOK, read, refusal, refused
from tests.small import small_config

# --- Identifiers ---


@pytest.mark.parametrize(
    ("written", "plainly"),
    [
        (" 123\u00a0", "123"),
        ("\ufeff123", "123"),
        ("12\u200b3", "123"),
        ("123.0", "123"),
        ("123.", "123"),
        ("123,00", "123"),
        ('="0012"', "0012"),
        ("'0012", "0012"),
        ("\uff11\uff12\uff13", "123"),
        ("A\u2013001", "A-001"),
        ("P  12", "P 12"),
        ("1e5", "1e5"),
        ("1,000", "1,000"),
        ("2E7", "2E7"),
        ("12345678901234567890", "12345678901234567890"),
        ("550E8400-E29B-41D4-A716-446655440000", "550E8400-E29B-41D4-A716-446655440000"),
    ],
)
def test_what_nobody_sees_or_means_is_no_part_of_an_identifier(written: str, plainly: str) -> None:
    assert plain(written) == plainly


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("00123", "123", True),
        ("124.0", "0124", True),
        ("P12", "p12 ", True),
        ("000", "0", True),
        ("550E8400-E29B-41D4-A716-446655440000", "550e8400-e29b-41d4-a716-446655440000", True),
        ("9007199254740993", "9007199254740992", False),
        ("1e5", "100000", False),
        ("123.5", "123", False),
        ("1,000", "1", False),
        ("A001", "A1", False),
        ("12 3", "123", False),
    ],
)
def test_identifiers_are_compared_folded(one: str, other: str, alike: bool) -> None:
    assert (folded(one) == folded(other)) is alike


@given(st.text(max_size=12))
def test_folding_twice_is_folding_once(written: str) -> None:
    assert plain(plain(written)) == plain(written)
    assert identity(identity(written)) == identity(written)
    assert folded(folded(written)) == folded(written)


@given(st.integers(0, 10**25), st.integers(0, 10**25))
def test_no_two_numbers_fold_together(one: int, other: int) -> None:
    assert (folded(str(one)) == folded(str(other))) is (one == other)


@given(st.from_regex(r"[A-Za-z1-9][A-Za-z0-9_-]{0,12}", fullmatch=True))
def test_an_ordinary_identifier_is_known_by_itself_so_that_its_patient_stays_on_its_side(written: str) -> None:
    config = small_config("tiny")
    assert identity(written) == written
    assert held_out(Patient(identity(written), {}), config, None) == held_out(Patient(written, {}), config, None)


@pytest.mark.parametrize("written", ["1.23457E+11", "1E+05", "1.2345678901234568e+17", "9007199254740992.0"])
def test_a_number_that_lost_digits_is_refused(tmp_path: Path, written: str) -> None:
    assert lost(written)
    refusal(refused(tmp_path, f"id,age\n1,50\n{written},51\n"), Code.REGISTRY_IDENTIFIER, "line 3", "lost digits")


@pytest.mark.parametrize("whole", ["9007199254740993", "1e5", "2E7", "12345.0", "P1.5", "1234567890123456789012"])
def test_a_whole_number_or_a_code_lost_none(whole: str) -> None:
    assert not lost(whole)


@pytest.mark.parametrize(("one", "other"), [("00123", "123"), ("p12", "P12"), ("0", "000")])
def test_two_that_fold_together_are_refused_and_not_merged(tmp_path: Path, one: str, other: str) -> None:
    error = refused(tmp_path, f"id,age\nx,50\n{one},51\n{other},52\n")
    refusal(error, Code.REGISTRY_IDENTIFIER, "lines 3 and 4")
    assert "123" not in str(error) and "12" not in str(error).replace("r.csv", "")


def test_so_are_they_where_patients_have_several_rows(tmp_path: Path) -> None:
    book = BOOK.model_copy(update={"record": "visit"})
    error = refused(tmp_path, "id,visit,age\n007,1,50\n7,2,51\n", book)
    refusal(error, Code.REGISTRY_IDENTIFIER, "identifier id", "lines 2 and 3")
    error = refused(tmp_path, "id,visit,age\n7,v1,50\n7,V1,51\n", book)
    refusal(error, Code.REGISTRY_IDENTIFIER, "identifier visit")


def test_one_way_to_write_it_and_a_decimal_point_are_the_same_identifier(tmp_path: Path) -> None:
    refusal(refused(tmp_path, "id,age\n123,50\n123.0,51\n"), Code.REGISTRY_DUPLICATE_PATIENT, "lines 2 and 3")
    refusal(refused(tmp_path, "id,age\n123,50\n\u200b,51\n"), Code.REGISTRY_DUPLICATE_PATIENT, "line 3 has none")
    book = BOOK.model_copy(update={"record": "visit"})
    found = read(tmp_path, "id,visit,age\n123,a,50\n123.0,b,51\n", book)
    assert [(patient.id, len(patient.visits)) for patient in found.patients] == [("123", 1)]


def test_a_patient_is_known_alike_from_text_workbook_and_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheet = Workbook()
    assert sheet.active is not None
    for row in (["id", "age"], [123, 50], ["00124", 51], [125.0, 52], ["P1", 53]):
        sheet.active.append(row)
    sheet.save(tmp_path / "r.xlsx")
    engine = create_engine(f"sqlite:///{tmp_path}/r.db")
    with engine.begin() as database:
        database.execute(text("create table r (id, age)"))
        database.execute(text("insert into r values (123, 50), ('00124', 51), (125.0, 52), ('P1', 53)"))
    monkeypatch.setenv("REGISTRY_URL", f"sqlite:///{tmp_path}/r.db")
    sources = (
        RegistryConfig(path=tmp_path / "r.xlsx"),
        RegistryConfig(url_variable="REGISTRY_URL", query="select id, age from r"),
    )
    expected = read(tmp_path, "id,age\n123,50\n124,51\n125,52\nP1,53\n").patients
    for source in sources:
        found = read_registry(SiteConfig(name="amc", registry=source), BOOK).patients
        assert [patient.id for patient in found] == [patient.id for patient in expected]


# --- Opt-outs ---


@pytest.mark.parametrize(
    "listed",
    [
        "00123\n124.0\n",
        "patient_id\n123\n124\n",
        "MRN;withdrawn;reason\r\n00123;2026-05-03;125\r\n124;2026-05-03;126\r\n",
        "date,patient_id\n2026-05-03,123\n2026-05-03,0124\n",
        "123\t2026-05-03\n124\t2026-05-04\n",
        "# by letter\n'00123'\n\u00a0124\u200b # by telephone\n",
        "123, 124\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_whoever_is_listed_is_left_out(tmp_path: Path, listed: str, encoding: str) -> None:
    patients = read(tmp_path, "id,age\n123,50\n124,51\n125,52\n126,53\n").patients
    (tmp_path / "excluded.txt").write_bytes(listed.encode(encoding))
    assert [patient.id for patient in without_excluded(patients, tmp_path, column=None)] == ["125", "126"]


def test_a_number_of_the_list_that_lost_digits_is_refused_whatever_the_list_is(tmp_path: Path) -> None:
    (tmp_path / "excluded.txt").write_text("1.23457E+11\nP1\n")
    for whole_hospital in (False, True):
        with pytest.raises(FedReasonError) as caught:
            without_excluded([Patient("P1", {})], tmp_path, whole_hospital=whole_hospital, column=None)
        refusal(caught.value, Code.EXCLUSIONS_UNKNOWN, "line 1", "lost digits")


@pytest.mark.parametrize("name", ["excluded.csv", "excluded.xlsx", "excluded.txt.txt", "Excluded.TXT", "excluded"])
def test_a_list_under_another_name_is_refused_and_not_passed_over(tmp_path: Path, name: str) -> None:
    (tmp_path / "excluded.txt").touch()
    (tmp_path / "excluded.txt~").touch()
    assert without_excluded([Patient("P1", {})], tmp_path, column=None)
    (tmp_path / name).touch()
    with pytest.raises(FedReasonError) as caught:
        without_excluded([Patient("P1", {})], tmp_path, column=None)
    refusal(caught.value, Code.EXCLUSIONS_UNKNOWN, name)


@pytest.mark.parametrize("content", [b"PK\x03\x04\x00\x00", "P1\n".encode("utf-16-le"), b"\xff\xfeP"])
def test_a_list_that_is_no_text_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "excluded.txt").write_bytes(content)
    with pytest.raises(FedReasonError) as caught:
        without_excluded([Patient("P1", {})], tmp_path, column=None)
    refusal(caught.value, Code.REGISTRY_ENCODING)


def test_a_heading_counts_as_one_only_where_it_names_nobody_and_stands_first(tmp_path: Path) -> None:
    (tmp_path / "excluded.txt").write_text("id\nP1\n")
    assert opted_out([Patient("P1", {}), Patient("id", {})], tmp_path, column=None).gone == {"id", "p1"}
    assert opted_out([Patient("P1", {})], tmp_path, column=None).unknown == ()
    (tmp_path / "excluded.txt").write_text("P1\nid\n")
    assert opted_out([Patient("P1", {})], tmp_path, column=None).unknown == (2,)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    rows = [{"id": f"{i:04d}", "age": str(30 + i)} for i in range(1, 41)]
    return write_site(tmp_path / "amc", "amc", ["id", "age"], rows, BOOK)


def lines_of(folder: Path, config: SiteConfig | None = None) -> dict[str, Line]:
    found = check_site(folder, config or load_site(folder), None, tell=lambda _: None)
    return {line.name: line for line in found.lines}


def test_check_refuses_on_the_line_of_the_opt_outs_and_tells_the_lines_of_the_list(site: Path) -> None:
    (site / "excluded.txt").write_text("# withdrawn\n7\n4711\n0009.0\n")
    told = lines_of(site)
    assert told["opt-outs"].code == Code.EXCLUSIONS_UNKNOWN
    assert "1 of 3 lines name nobody in the registry: line 3" in told["opt-outs"].text
    assert "4711" not in told["opt-outs"].text
    assert ", 2 opted out," in told["records"].text
    (site / "excluded.txt").write_text("7\n0009.0\n")
    assert lines_of(site)["opt-outs"] == Line("opt-outs", "excluded.txt has 2 lines, 2 patients opted out")
    (site / "excluded.txt").write_text("# nobody\n")
    assert lines_of(site)["opt-outs"].text == "excluded.txt is empty"


def test_a_list_of_the_whole_hospital_is_counted_and_doubted_where_it_names_nobody_at_all(site: Path) -> None:
    config = load_site(site).model_copy(update={"exclusions": ExclusionsConfig(whole_hospital=True)})
    (site / "excluded.txt").write_text("7\n4711\n")
    line = lines_of(site, config)["opt-outs"]
    assert line.code is None and not line.warning and "1 lines name nobody" in line.text
    (site / "excluded.txt").write_text("4711\n4712\n")
    assert lines_of(site, config)["opt-outs"].warning


def test_check_counts_whom_the_column_of_the_registrys_name_lists(site: Path) -> None:
    (site / "excluded.txt").write_text("subject_id;ID\n4711;7\n4712;8\n")
    told = lines_of(site)
    assert told["opt-outs"].text == "excluded.txt has 2 lines, 2 patients opted out"
    assert ", 2 opted out," in told["records"].text


def test_the_list_is_not_judged_by_a_registry_that_cannot_be_read(site: Path) -> None:
    (site / "excluded.txt").write_text("4711\n")
    (site / "registry.csv").write_text("id,age\n")
    line = lines_of(site)["opt-outs"]
    assert line.warning and line.code is None and "is not known" in line.text


def test_a_site_computes_nothing_while_its_list_names_a_stranger(site: Path) -> None:
    (site / "excluded.txt").write_text("0007\n4711\n")
    with pytest.raises(FedReasonError) as caught:
        _ = Workplace(site).patients
    refusal(caught.value, Code.EXCLUSIONS_UNKNOWN)
    (site / "excluded.txt").write_text("7\n")
    assert len(Workplace(site).patients) == 39
