"""Whatever a file holds, it is read or refused by number, and no cell of it is told: in no message, warning or log."""

from __future__ import annotations

import io
import logging
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from client.draft.table import draft
from client.registry.config import RegistryConfig
from client.registry.load import registry_from
from client.registry.numerals import Numerals
from client.registry.source import open_source
from common.codebook import Codebook, load_codebook
from common.errors import Code, FedReasonError
from common.feature import Feature
from tests.examples import examples

SENTINEL = "Q7ZSENTINEL"
CODEBOOK = Codebook(
    title="test",
    patient="id",
    ignored=("note", "day"),
    features=(
        Feature(name="age", section="A", label="Age", kind="numeric", low=18, high=110, step=10, words={"old": "old"}),
        Feature(name="sex", section="A", label="Sex", kind="categorical", categories={"1": "male", "2": "female"}),
        Feature(
            name="drugs", section="A", label="Drugs", kind="categorical", categories={"a": "a", "b": "b"}, separator=";"
        ),
        Feature(name="text", section="B", label="Text", kind="text"),
    ),
)
HEADER = ["id", "age", "sex", "drugs", "text", "note", "day"]
ROWS: list[list[str | int]] = [
    [f"{SENTINEL}{i}", SENTINEL if i % 5 == 0 else 40 + i, 1 + i % 2, "a;b", SENTINEL, SENTINEL, f"2026-01-{i + 1:02d}"]
    for i in range(20)
]
TABLE: list[list[str | int]] = [[*HEADER], *ROWS]
fuzz = examples(80)


def delimited() -> bytes:
    return "\n".join(",".join(map(str, row)) for row in TABLE).encode()


def workbook() -> bytes:
    book, content = openpyxl.Workbook(), io.BytesIO()
    for row in TABLE:
        book.active.append(row)
    book.save(content)
    return content.getvalue()


def parquet() -> bytes:
    columns = {name: [str(row[place]) for row in ROWS] for place, name in enumerate(HEADER)}
    content = io.BytesIO()
    pq.write_table(pa.table(columns), content, row_group_size=7, compression="none")
    return content.getvalue()


WHOLE = {".csv": delimited(), ".xlsx": workbook(), ".parquet": parquet()}


@contextmanager
def overheard() -> Iterator[list[str]]:
    """Everything that is logged, at any level, and every warning."""
    told: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(self.format(record))

    listener, root = Listener(), logging.getLogger()
    level = root.level
    root.addHandler(listener)
    root.setLevel(logging.DEBUG)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield told
        told += [str(warning.message) for warning in warned]
    finally:
        root.removeHandler(listener)
        root.setLevel(level)


def told_of(work: Callable[[], list[str]]) -> str:
    """All that is told while reading; anything but a numbered refusal goes through."""
    with overheard() as told:
        try:
            told += work()
        except FedReasonError as error:
            told.append("".join(traceback.format_exception(error)) + error.found + error.fix)
    return "\n".join(told)


def read(config: RegistryConfig) -> list[str]:
    with closing(open_source(config)) as table:
        return registry_from(table, CODEBOOK, numerals=Numerals(config.decimal, config.thousands)).report.lines()


def drafted(config: RegistryConfig) -> list[str]:
    with closing(open_source(config)) as table:
        return draft(table, patient=None, decimal=config.decimal, title="test").told()


def check(folder: Path, suffix: str, content: bytes, **options: object) -> None:
    path = folder / f"registry{suffix}"
    path.write_bytes(content)
    config = RegistryConfig.model_validate({"path": path, **options})
    for work in (read, drafted):
        told = told_of(lambda work=work: work(config))  # type: ignore[misc]
        assert SENTINEL not in told and told


PIECES = [
    *(b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b'"', b'"""', b"\n", b"\r", b",", b";", b"\t", b"=", b"[", b"{"),
    *(b"nan", b"inf", b"1e999", b"-1", b"<", b">", b"&", b"&#0;", b"]]>", b't="s"', b't="e"', b't="d"', b"<v>99</v>"),
    *(b'r="XFD9"', b"<!DOCTYPE x [<!ENTITY a 'b'>]>", SENTINEL.encode(), "é한".encode("utf-16"), b"9" * 400),
]


@st.composite
def mutated(draw: st.DrawFn, whole: bytes) -> bytes:
    """Return the content with some pieces cut out, put in, repeated, exchanged, or all behind a place cut off."""
    content = whole
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        end = draw(st.integers(start, min(len(content), start + 60)))
        piece = draw(st.sampled_from(PIECES) | st.binary(max_size=6))
        content = draw(
            st.sampled_from(
                [
                    content[:start],
                    content[:start] + content[end:],
                    content[:start] + piece + content[start:],
                    content[:start] + piece + content[end:],
                    content[:start] + piece + content[start + len(piece) :],
                    content[:end] + content[start:],
                ]
            )
        )
    return content


def test_what_is_whole_is_read_and_tells_counts(tmp_path: Path) -> None:
    for suffix, content in WHOLE.items():
        path = tmp_path / f"registry{suffix}"
        path.write_bytes(content)
        assert read(RegistryConfig(path=path))[0] == "20 patients, 4 features"
        check(tmp_path, suffix, content)


@pytest.mark.parametrize("suffix", WHOLE)
@fuzz
@given(data=st.data())
def test_a_mutated_file_is_read_or_refused_and_never_told(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, data: st.DataObject
) -> None:
    check(tmp_path_factory.mktemp("any"), suffix, data.draw(mutated(WHOLE[suffix])))


@fuzz
@given(content=st.binary(max_size=300), suffix=st.sampled_from([*WHOLE, ".tsv", ".xlsm"]))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str) -> None:
    check(tmp_path_factory.mktemp("any"), suffix, content)


@fuzz
@given(
    content=mutated(WHOLE[".csv"]),
    encoding=st.sampled_from(["utf-8", "utf-16", "cp1252", "cp949", "utf-7", "shift_jis", "ascii", "hex", "idna"]),
    decimal=st.sampled_from([".", ","]),
)
def test_a_mutated_csv_in_any_encoding(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, encoding: str, decimal: str
) -> None:
    check(tmp_path_factory.mktemp("any"), ".csv", content, encoding=encoding, decimal=decimal)


def parts(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as book:
        return {name: book.read(name) for name in book.namelist()}


PARTS = parts(WHOLE[".xlsx"])


@fuzz
@given(data=st.data(), header_rows=st.integers(1, 3))
def test_a_workbook_of_which_one_part_is_mutated_absent_or_another_one(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, header_rows: int
) -> None:
    chosen = data.draw(st.sampled_from(sorted(PARTS)))
    other = st.one_of(mutated(PARTS[chosen]), st.sampled_from(sorted(PARTS.values())), st.none())
    changed = PARTS | {chosen: data.draw(other)}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as book:
        for name, part in changed.items():
            if part is not None:
                book.writestr(name, part)
    check(tmp_path_factory.mktemp("any"), ".xlsx", content.getvalue(), header_rows=header_rows)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([2**60], pa.timestamp("ms")),
        pa.array([2**62], pa.timestamp("us")),
        pa.array([0], pa.timestamp("us", tz="No/Where")),
        pa.array([2**30], pa.date32()),
        pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]),
    ],
    ids=["year", "year of a timestamp", "time zone", "date", "text"],
)
def test_a_parquet_value_that_is_none_is_refused(tmp_path: Path, column: pa.Array) -> None:
    pq.write_table(pa.table({"id": [SENTINEL], "age": column}), tmp_path / "registry.parquet")
    check(tmp_path, ".parquet", (tmp_path / "registry.parquet").read_bytes())


TOML = CODEBOOK.to_toml().encode()
KEYS = [line.partition(b" =")[0] for line in TOML.splitlines() if b" =" in line]
VALUES = [
    b"1",
    b"-1.5",
    b"nan",
    b"inf",
    b"true",
    b'""',
    b'"x"',
    b"[]",
    b"{}",
    b"[{}]",
    b"{a = {}}",
    b"1979-05-27",
    b"[[1], 2]",
]


@st.composite
def exchanged(draw: st.DrawFn) -> bytes:
    """Return the codebook with some values exchanged for another kind, keys renamed or lines left out."""
    lines = TOML.splitlines()
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(lines) - 1))
        key = lines[place].partition(b" =")[0]
        line = st.sampled_from([b"", b"[[features]]", *(key + b" = " + value for value in VALUES)])
        lines[place] = draw(line | st.sampled_from(KEYS).map(lambda other: other + b" = 1"))
    return b"\n".join(lines)


@fuzz
@given(content=mutated(TOML) | exchanged() | st.binary(max_size=200))
@example(content=b"title = " + b"[" * 5000)
@example(content=b"title = " + b"9" * 5000)
def test_a_mutated_codebook_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "codebook.toml").write_bytes(content)
    (folder / "registry.csv").write_bytes(WHOLE[".csv"])

    def work() -> list[str]:
        codebook = load_codebook(folder / "codebook.toml")
        with closing(open_source(RegistryConfig(path=folder / "registry.csv"))) as table:
            return registry_from(table, codebook).report.lines()

    told = told_of(work)
    assert told and (SENTINEL not in told or SENTINEL.encode() in content)


def _message() -> list[str]:
    raise FedReasonError(Code.REGISTRY_TORN, SENTINEL, "")


def _cause() -> list[str]:
    try:
        return [str(float(SENTINEL))]
    except ValueError as error:
        raise FedReasonError(Code.REGISTRY_TORN, "a row is torn.", "") from error


def _log() -> list[str]:
    logging.getLogger("openpyxl").debug("cell %s", SENTINEL)
    return []


def _warning() -> list[str]:
    warnings.warn(SENTINEL, stacklevel=1)
    return []


@pytest.mark.parametrize("leak", [_message, _cause, _log, _warning])
def test_a_cell_in_a_message_its_cause_a_log_or_a_warning_would_be_heard(leak: Callable[[], list[str]]) -> None:
    assert SENTINEL in told_of(leak)
