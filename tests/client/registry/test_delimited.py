"""A delimited file of any size is read a line at a time, and is closed with its last row or by who asks for it."""

from __future__ import annotations

import codecs
import csv
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.registry.delimited import read_delimited
from common.errors import Code, FedReasonError
from tests.client.registry.handles import open_files
from tests.examples import examples

SENTINEL = "Q7ZSENTINEL"
LONG = "id,text\n" + "".join(f"p{i},{'ä' * (i % 7)}é한\n" for i in range(5000))


def written(folder: Path, content: bytes) -> Path:
    path = folder / "registry.csv"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
)
@pytest.mark.parametrize("stated", ["utf-8", "cp949"])
def test_a_byte_order_mark_says_the_encoding_whatever_is_stated(
    tmp_path: Path, mark: bytes, encoding: str, stated: str
) -> None:
    rows = [["id", "sex"], ["1", "männlich"], ["2", "여자"]]
    path = written(tmp_path, mark + "\r\n".join("\t".join(row) for row in rows).encode(encoding))
    table = read_delimited(path, encoding=stated)
    assert [list(table.columns), *(cells for _, cells in table.rows)] == rows


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
@examples(40)
@given(data=st.data())
def test_a_byte_that_cannot_be_decoded_is_named_wherever_it_is(
    tmp_path_factory: pytest.TempPathFactory, mark: bytes, data: st.DataObject
) -> None:
    whole = mark + LONG.encode()
    at = data.draw(st.integers(len(mark), len(whole)))
    broken = whole[:at] + b"\xff" + whole[at:]
    with pytest.raises(UnicodeDecodeError) as decoding:
        broken[len(mark) :].decode()
    path = written(tmp_path_factory.mktemp("any"), broken)
    with pytest.raises(FedReasonError) as refusal:
        list(read_delimited(path).rows)
    assert refusal.value.code is Code.REGISTRY_ENCODING
    assert f"not UTF-8: byte {len(mark) + decoding.value.start} " in refusal.value.found
    assert refusal.value.__context__ is None  # it would carry the bytes


@pytest.mark.parametrize(
    ("encoding", "bad"), [("cp949", b"\xff"), ("utf-16-le", b"\x00\xdc"), ("shift_jis", b"\xa0"), ("ascii", b"\x80")]
)
def test_the_place_is_right_in_other_encodings_too(tmp_path: Path, encoding: str, bad: bytes) -> None:
    text = "".join(c for c in LONG if encoding != "ascii" or c.isascii())
    start = text.encode(encoding, errors="ignore")
    path = written(tmp_path, start + bad + "\nlast,1\n".encode(encoding))
    with pytest.raises(FedReasonError, match=f"byte {len(start)} "):
        list(read_delimited(path, encoding=encoding).rows)


def test_a_character_cut_at_the_end_is_named(tmp_path: Path) -> None:
    content = LONG.encode()[:-2]
    with pytest.raises(FedReasonError, match=f"byte {len(content) - 2} "):
        list(read_delimited(written(tmp_path, content)).rows)


@pytest.mark.parametrize("encoding", ["hex", "rot13", "idna", "undefined", "utf-16"])
def test_what_is_no_encoding_of_this_file_is_refused(tmp_path: Path, encoding: str) -> None:
    path = written(tmp_path, f"id,text\np1,{SENTINEL}..\n".encode() * 99 + b"\xff")
    with pytest.raises(FedReasonError) as refusal:
        list(read_delimited(path, encoding=encoding).rows)
    assert refusal.value.code is Code.REGISTRY_ENCODING
    assert SENTINEL not in str(refusal.value) and refusal.value.__context__ is None


def test_a_long_cell_is_read_and_one_beyond_all_measure_is_told_as_such(tmp_path: Path) -> None:
    """A discharge letter in an ignored column is no torn file; a quote that never closes takes no more than this."""
    table = read_delimited(written(tmp_path, f'id,text\np1,"{"x" * 200_000}"\n'.encode()))
    ((_, cells),) = table.rows
    assert len(cells[1]) == 200_000
    table = read_delimited(written(tmp_path, f'id,text\np1,"{"x" * (16 * 1024 * 1024 + 1)}"\n'.encode()))
    with pytest.raises(FedReasonError) as told:
        list(table.rows)
    assert told.value.code == Code.REGISTRY_TORN and "more than 16 million characters" in str(told.value)


def test_rows_come_before_the_torn_one_and_nothing_after_it(tmp_path: Path) -> None:
    rows = read_delimited(written(tmp_path, b"id,age\np1,64\n\np2,65\np3\np4,66\n")).rows
    assert [next(rows), next(rows)] == [(2, ["p1", "64"]), (4, ["p2", "65"])]
    with pytest.raises(FedReasonError, match="the row at line 5 has not as many fields as the header"):
        next(rows)
    assert next(rows, None) is None


@pytest.mark.parametrize("rows", [0, 1, 5000])
def test_the_file_is_closed_with_the_last_row_or_when_asked(tmp_path: Path, rows: int) -> None:
    path = written(tmp_path, LONG.encode())
    with closing(read_delimited(path)) as table:
        assert str(path) in open_files()
        for _ in range(rows):
            next(table.rows)
    assert str(path) not in open_files()
    table = read_delimited(path)
    assert len(list(table.rows)) == 5000 and str(path) not in open_files()


@pytest.mark.parametrize("content", [b"\n\n", b"id,age\np1\n", b"id,age\n\xff\n", b'id,"age\n'])
def test_the_file_is_closed_after_a_refusal(tmp_path: Path, content: bytes) -> None:
    path = written(tmp_path, content)
    with pytest.raises(FedReasonError) as refusal:
        list(read_delimited(path).rows)
    assert refusal.value.code in (Code.REGISTRY_EMPTY, Code.REGISTRY_TORN, Code.REGISTRY_ENCODING)
    assert str(path) not in open_files()


@pytest.mark.long
def test_a_large_file_is_read_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *(f"c{i}" for i in range(700))])
        for i in range(10_000):
            writer.writerow([i, *(f"{i % 97}.{j}" for j in range(700))])
    program = f"""
import resource
from pathlib import Path
from client.registry.delimited import read_delimited
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = sum(1 for _ in read_delimited(Path({str(path)!r})).rows)
print(rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    rows, kilobytes = map(int, told.split())
    assert rows == 10_000 and kilobytes < 8_000 < path.stat().st_size / 1000 / 4
