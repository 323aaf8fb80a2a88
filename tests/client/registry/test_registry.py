"""A hospital's file becomes patients, or is refused by number; no cell is ever told."""

from __future__ import annotations

import csv
import io
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from client.registry.delimited import DELIMITERS, read_delimited
from client.registry.identifiers import Identifiers
from client.registry.load import Registry, registry_from
from common.codebook import ROW, Codebook
from common.errors import Code, FedReasonError
from common.feature import OTHER, Feature

SENTINEL = "Q7ZSENTINEL"

CODEBOOK = Codebook(
    title="test",
    patient="id",
    ignored=("comment",),
    features=(
        Feature(name="age", section="A", label="Age", kind="numeric", low=18, high=110, step=10),
        Feature(name="crea", section="B", label="Creatinine", kind="numeric", low=0, high=30, step=0.5, decimals=1),
        Feature(name="sex", section="A", label="Sex", kind="categorical", categories={"1": "male", "2": "female"}),
    ),
)
HEADER = "id,age,crea,sex\n"


def loaded(folder: Path, content: str | bytes, **options: Any) -> Registry:
    path = folder / "registry.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return registry_from(read_delimited(path), CODEBOOK, **options)


def refusal(folder: Path, content: str | bytes) -> FedReasonError:
    with pytest.raises(FedReasonError) as caught:
        loaded(folder, content)
    return caught.value


def test_values_are_shown_as_the_codebook_says(tmp_path: Path) -> None:
    registry = loaded(tmp_path, HEADER + "p1, 64.6 ,0.79992676,2\np2,NA,,1.0\n")
    assert [(p.id, dict(p.values)) for p in registry.patients] == [
        ("p1", {"age": "65", "crea": "0.8", "sex": "female"}),
        ("p2", {"sex": "male"}),
    ]
    assert registry.report.measured == {"age": 1, "crea": 1, "sex": 2}


def test_what_the_codebook_does_not_know_is_counted_by_feature(tmp_path: Path) -> None:
    registry = loaded(
        tmp_path,
        "id,age,crea,sex,ward,comment\np1,17,abc,3,w,c\np2,nan,1e3,1,w,c\np3,inf,2,x,w,c\np4,,,,w,c\n",
        ignored=["wa*"],
    )
    report = registry.report
    assert registry.patients[2].values == {"crea": "2.0", "sex": OTHER}
    assert (report.outside, report.unreadable, report.unlisted) == (
        {"age": 1, "crea": 1},
        {"age": 1, "crea": 1},
        {"sex": 2},
    )
    assert (report.patients, report.without_values, report.ignored_columns) == (4, 1, 2)
    assert report.lines() == [
        "4 patients, 3 features",
        "patients without any usable value: 1",
        "columns left out: 2",
        "features without any usable value: age",
        "age: 1 not a number, taken as missing",
        "age: 1 outside the bounds, taken as missing",
        "crea: 1 not a number, taken as missing",
        "crea: 1 outside the bounds, taken as missing",
        "sex: 2 not a listed category, shown as '(unlisted)'",
    ]


@given(
    cells=st.lists(
        st.tuples(*[st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=8)] * 3), min_size=1
    ),
    delimiter=st.sampled_from(DELIMITERS),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    mark=st.booleans(),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_delimiter_line_end_and_quoting_change_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    cells: list[tuple[str, ...]],
    delimiter: str,
    line_end: str,
    mark: bool,
    quoting: int,
) -> None:
    text = io.StringIO(newline="")
    quoting = (
        csv.QUOTE_ALL if line_end == "\r" else quoting
    )  # the writer leaves a line feed bare that its reader splits at
    writer = csv.writer(text, delimiter=delimiter, lineterminator=line_end, quoting=quoting)  # type: ignore[arg-type]
    writer.writerows([("a", "b", "c"), *cells])
    path = tmp_path_factory.mktemp("any") / "table.csv"
    path.write_bytes(text.getvalue().encode("utf-8-sig" if mark else "utf-8"))
    table = read_delimited(path)
    assert table.columns == ("a", "b", "c")
    assert [[cell.strip() for cell in row] for _, row in table.rows] == [
        [cell.strip() for cell in row] for row in cells if any(row)
    ]


def test_the_delimiter_seen_most_often_outside_quotes_in_the_header_wins(tmp_path: Path) -> None:
    path = tmp_path / "registry.csv"
    path.write_text('id;"age, in years, at entry";crea, mg/dl\np;6;7\n')
    assert read_delimited(path).columns == ("id", "age, in years, at entry", "crea, mg/dl")


def test_a_missing_file_or_a_folder_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(FedReasonError) as caught:
            registry_from(read_delimited(path), CODEBOOK)
        assert caught.value.code == Code.REGISTRY_MISSING
        assert str(path) in caught.value.found


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_byte_that_is_not_utf8_is_named_by_its_offset(tmp_path: Path, mark: bytes) -> None:
    content = mark + HEADER.encode() + b"p1,64,1,\xe9\n"
    error = refusal(tmp_path, content)
    assert error.code == Code.REGISTRY_ENCODING
    assert f"byte {content.index(0xE9)} " in error.found
    assert error.__context__ is None  # it would carry the whole file


@pytest.mark.parametrize("content", ["", "\ufeff", "\n \r\n", '""\n', HEADER, HEADER + "\n\n"])
def test_a_file_without_patients_is_refused(tmp_path: Path, content: str) -> None:
    assert refusal(tmp_path, content).code == Code.REGISTRY_EMPTY


def test_all_missing_columns_are_named_and_none_of_the_file(tmp_path: Path) -> None:
    error = refusal(tmp_path, f"id,{SENTINEL},sex\np1,64,1\n")
    assert error.code == Code.REGISTRY_COLUMN
    assert "2 of the 4" in error.found and "age, crea" in error.found and SENTINEL not in str(error)


def test_a_column_of_the_codebook_may_stand_only_once(tmp_path: Path) -> None:
    error = refusal(tmp_path, "id,age,crea,sex,age\np1,64,1,1,63\n")
    assert (error.code, "age, columns 2 and 5" in error.found) == (Code.REGISTRY_COLUMN, True)


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ("p1,64,1,1\np2,64,1", 3),
        ("p1,64,1,1\np2,64,1,1,1\np3,64,1,1\n", 3),
        ("\np1,64,1,1\n\np2,64\n", 5),
        ('"p\n1",64,1,1\np2\n', 4),
        ('p1,64,1,1\np2,"64,1,1\np3,64,1,1\np4,64,1,1\n', 3),
        ('p1,64,1,1\np2,"64"5,1,1\n', 3),
    ],
)
def test_a_torn_row_is_named_by_the_line_at_which_it_begins(tmp_path: Path, rows: str, line: int) -> None:
    for text in (HEADER + rows, (HEADER + rows).replace("\n", "\r\n")):
        error = refusal(tmp_path, text)
        assert error.code == Code.REGISTRY_TORN
        assert f"line {line} " in error.found


def test_a_column_that_nobody_described_is_refused_by_its_place(tmp_path: Path) -> None:
    table = f"id,age,crea,sex,{SENTINEL},comment,b\np1,64,1,1,w,c,d\n"
    error = refusal(tmp_path, table)
    assert error.code == Code.REGISTRY_UNDESCRIBED
    assert "2 of 7 columns: number 5, 7" in error.found and SENTINEL not in str(error)
    assert loaded(tmp_path, table, ignored=["*"]).report.ignored_columns == 3


def test_a_patient_may_have_several_rows_where_the_codebook_tells_them_apart(tmp_path: Path) -> None:
    path = tmp_path / "visits.csv"
    path.write_text("id,visit,age,crea,sex\np1,a,64,1,1\np2,b,70,1,2\np1,c,65,2,1\n")
    codebook = CODEBOOK.model_copy(update={"record": "visit"})
    registry = registry_from(read_delimited(path), codebook)
    assert [(p.id, [dict(r.values)["age"] for r in p.records]) for p in registry.patients] == [
        ("p1", ["64", "65"]),
        ("p2", ["70"]),
    ]
    assert registry.report.lines()[0] == "2 patients with 3 records, 3 features"
    path.write_text("id,visit,age,crea,sex\np1,a,64,1,1\np2,a,70,1,2\n")
    with pytest.raises(FedReasonError, match=r"E306.*identifier visit: .* lines 2 and 3"):
        registry_from(read_delimited(path), codebook)


def test_rows_may_stand_for_the_patients(tmp_path: Path) -> None:
    path = tmp_path / "registry.csv"
    path.write_text("age,crea,sex\n64,1,1\n70,1,2\n")
    codebook = CODEBOOK.model_copy(update={"patient": ROW})
    assert [p.id for p in registry_from(read_delimited(path), codebook).patients] == ["2", "3"]


def test_a_patient_on_two_rows_or_without_identifier_is_named_by_line_only(tmp_path: Path) -> None:
    error = refusal(tmp_path, HEADER + f"{SENTINEL},64,1,1\np2,64,1,1\n {SENTINEL} ,65,1,1\n,66,1,1\nNA,67,1,1\n")
    assert error.code == Code.REGISTRY_DUPLICATE_PATIENT
    assert "lines 2 and 4; line 5, 6 has none" in error.found
    assert SENTINEL not in str(error)


def test_many_repeated_patients_are_told_in_one_line(tmp_path: Path) -> None:
    error = refusal(tmp_path, HEADER + "p1,64,1,1\n" * 500)
    assert "lines 2 and 3, 2 and 4" in error.found and "and 489 more" in error.found and len(str(error)) < 500


@pytest.mark.parametrize("rows", ["p1,,,\n", "p1,999,abc,\n", "p1,,,9\n"])
def test_a_registry_without_any_usable_value_is_refused(tmp_path: Path, rows: str) -> None:
    assert refusal(tmp_path, HEADER + rows).code == Code.REGISTRY_UNUSABLE


_PIECES = st.sampled_from(
    [
        "id",
        "age",
        "crea",
        "sex",
        HEADER,
        ",",
        ";",
        "\t",
        '"',
        "\n",
        "\r",
        "\r\n",
        "\0",
        "\ufeff",
        " ",
        "1",
        "1e999",
        "_",
        "٣",
    ]
)


@given(
    content=st.one_of(
        st.binary(max_size=200),
        st.binary(max_size=200).map(lambda tail: HEADER.encode() + tail),
        st.lists(_PIECES, max_size=40).map(lambda parts: "".join(parts).encode()),
        st.lists(_PIECES, max_size=40).map(lambda parts: (HEADER + "".join(parts)).encode()),
    )
)
@example(content=b'""')
@example(content=HEADER.encode() + b"p1,1_0,1_0,1_0\n")
def test_any_bytes_give_a_registry_or_a_numbered_refusal(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    try:
        registry = loaded(tmp_path_factory.mktemp("any"), content)
    except FedReasonError as error:
        assert Code.REGISTRY_MISSING <= error.code <= Code.REGISTRY_IDENTIFIER
    else:
        assert registry.patients


def _told(folder: Path, content: bytes, logs: pytest.LogCaptureFixture) -> str:
    """Everything that reading this file says: report or traceback, and logs."""
    try:
        said = "\n".join(loaded(folder, content).report.lines())
    except FedReasonError as error:
        said = "".join(traceback.format_exception(error)) + error.found + error.fix
    return said + logs.text


LEAKY = {
    "an unlisted category": f"p1,64,1,{SENTINEL}\n",
    "an unreadable number": f"p1,{SENTINEL},1,1\n",
    "an identifier twice": f"{SENTINEL},64,1,1\n" * 2,
    "a torn row": f"p1,64,1,1\n{SENTINEL},{SENTINEL}\n",
    "an unclosed quote": f'p1,64,1,"{SENTINEL}\n',
    "text after a quote": f'p1,64,1,"{SENTINEL}"{SENTINEL}\n',
    "a wrong byte": f"p1,64,1,{SENTINEL}\xff\n",
    "nothing usable": f"{SENTINEL},,,{SENTINEL}\n",
}


@pytest.mark.parametrize("rows", LEAKY.values(), ids=LEAKY.keys())
def test_no_cell_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture, rows: str) -> None:
    assert SENTINEL not in _told(tmp_path, (HEADER + rows).encode("latin-1"), caplog)


def test_no_cell_is_told_of_a_file_without_header(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert SENTINEL not in _told(tmp_path, f"{SENTINEL},64,1,1\n{SENTINEL},65,1,1\n".encode(), caplog)


def test_the_leak_check_finds_an_identifier_in_a_message(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Identifiers.take

    def leaky(self: Identifiers, place: int, cells: Sequence[str]) -> tuple[str, str]:
        return take(self, cells[0], cells)  # type: ignore[arg-type]

    monkeypatch.setattr(Identifiers, "take", leaky)
    assert SENTINEL in _told(tmp_path, (HEADER + LEAKY["an identifier twice"]).encode(), caplog)


@pytest.mark.long
def test_thousands_of_patients_of_fifty_features_load(tmp_path: Path) -> None:
    features = tuple(
        Feature(name=f"f{i}", section="S", label=f"F{i}", kind="numeric", low=0, high=1e9, step=0.1, decimals=3)
        for i in range(50)
    )
    codebook = Codebook(title="large", patient="id", features=features)
    path = tmp_path / "large.csv"
    rows = (f"p{i}," + ",".join(f"{(i * 50 + j) / 7:.6f}" for j in range(50)) for i in range(2_000))
    path.write_text("\n".join(["id," + ",".join(codebook.by_name), *rows]))
    assert len(registry_from(read_delimited(path), codebook).patients) == 2_000
