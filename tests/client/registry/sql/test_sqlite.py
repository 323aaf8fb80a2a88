"""A query of SQLite gives the cells of its values; only a query is sent; no refusal tells a cell or the password."""

from __future__ import annotations

import csv
import os
import sqlite3
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.registry.cells import cell_text
from client.registry.delimited import read_delimited
from client.registry.load import registry_from
from client.registry.sql import read_query
from common import synthetic
from common.errors import Code, FedReasonError
from tests.client.registry.sql.queries import PASSWORD, ROWS, SENTINEL, VARIABLE, Read, Refusal, grown


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "our registry #1.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("create table patient (id text, age integer, crea real, note blob)")
        connection.executemany(
            "insert into patient values (?, ?, ?, ?)", [("p1", 64, 0.8, None), (SENTINEL, None, None, b"\xff")]
        )
    connection.close()
    return path


def lite(path: Path) -> str:
    return f"sqlite:///{path}"


def test_a_query_gives_columns_and_rows_counted_from_one(read: Read, file: Path) -> None:
    table = read(lite(file), 'select id, age as " years ", crea, 1 as id from patient')
    assert (table.name, table.unit, table.columns) == ("site.toml", "row", ("id", "years", "crea", "id"))
    assert list(table.rows) == [(1, ["p1", "64", "0.8", "1"]), (2, [SENTINEL, "", "", "1"])]


def test_a_dot_in_a_column_name_stays(read: Read, file: Path) -> None:
    assert read(lite(file), 'select id as "patient.id" from patient').columns == ("patient.id",)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 'x'",
        "-- our registry\n/* one; row */ select 'x';",
        "with a as (select 'x') select * from a",
        "values ('x')",
    ],
)
def test_every_form_of_a_query_is_read(read: Read, file: Path, query: str) -> None:
    assert list(read(lite(file), query).rows) == [(1, ["x"])]


def test_percent_signs_and_colons_are_no_parameters(read: Read, file: Path) -> None:
    assert list(read(lite(file), "select '%s %% %(a)s :name ?'").rows) == [(1, ["%s %% %(a)s :name ?"])]


@pytest.mark.parametrize(
    "query",
    [
        "",
        " -- nothing\n",
        "insert into patient (id) values ('p3')",
        "update patient set age = 1",
        "delete from patient",
        "drop table patient",
        "create table other (id text)",
        "pragma writable_schema = 1",
        "attach 'other.sqlite' as other",
        "selected",
        "/**/" * 5000 + "vacuum",
        "select id from patient \0 where age > 60",
    ],
)
def test_what_is_no_query_is_refused_before_it_is_sent(refusal: Refusal, file: Path, query: str) -> None:
    before = file.read_bytes()
    error = refusal(lite(file), query)
    assert error.code == Code.REGISTRY_QUERY and "does not begin with SELECT" in error.found
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("query", "code", "words"),
    [
        ("select * from nowhere", Code.REGISTRY_MISSING, "a table"),
        ("select absent from patient", Code.REGISTRY_COLUMN, "a column"),
        ("select id from patient where", Code.REGISTRY_QUERY, "does not understand"),
        ("select 1; select 2", Code.REGISTRY_QUERY, "more than one statement"),
        ("with new(id) as (values ('p3')) insert into patient (id) select id from new", Code.REGISTRY_QUERY, "writ"),
        ("select id, note from patient", Code.REGISTRY_COLUMN, "column note is neither text"),
        (f"select cast(x'{SENTINEL.encode().hex()}ff' as text)", Code.REGISTRY_QUERY, "cannot convert"),
    ],
)
def test_what_sqlite_refuses_has_a_number(refusal: Refusal, file: Path, query: str, code: Code, words: str) -> None:
    before = file.read_bytes()
    error = refusal(lite(file), query)
    assert error.code == code and words in error.found
    assert file.read_bytes() == before


def test_a_file_that_is_not_there_is_not_made(refusal: Refusal, tmp_path: Path) -> None:
    error = refusal(lite(tmp_path / "none.sqlite"), "select 1")
    assert error.code == Code.REGISTRY_MISSING and VARIABLE in error.fix
    assert not list(tmp_path.iterdir())


def test_a_file_of_another_kind_is_refused(refusal: Refusal, tmp_path: Path) -> None:
    (tmp_path / "registry.csv").write_text(f"id,age\n{SENTINEL},64\n" * 100)
    assert refusal(lite(tmp_path / "registry.csv"), "select * from patient").code == Code.REGISTRY_MISSING


def test_a_file_that_another_program_writes_to_is_read(read: Read, file: Path) -> None:
    writer = sqlite3.connect(file, isolation_level=None)
    writer.execute("pragma journal_mode = wal")
    writer.execute("insert into patient (id) values ('p3')")
    writer.execute("begin immediate")
    writer.execute("delete from patient")
    assert len(list(read(lite(file), "select id from patient").rows)) == 3
    writer.close()


def test_a_locked_file_is_refused(refusal: Refusal, file: Path) -> None:
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("begin exclusive")
    error = refusal(f"{lite(file)}?timeout=0.1", "select * from patient")
    holder.close()
    assert error.code == Code.REGISTRY_MISSING and "another program" in error.found


def held(path: Path) -> bool:
    """Whether this process has the file open."""
    links = Path("/proc/self/fd").iterdir()
    return str(path) in {os.readlink(link) for link in links if link.is_symlink()}


def test_the_connection_closes_with_the_last_row_and_on_close_and_on_error(read: Read, file: Path) -> None:
    table = read(lite(file), "select id from patient")
    assert held(file)
    assert len(list(table.rows)) == 2
    assert not held(file)

    untouched = read(lite(file), "select id from patient")
    assert held(file)
    untouched.rows.close()  # type: ignore[attr-defined]
    assert not held(file)

    begun = read(lite(file), "select id from patient")
    next(begun.rows)
    begun.rows.close()  # type: ignore[attr-defined]
    assert not held(file)

    torn = read(lite(file), "select note from patient")
    with pytest.raises(FedReasonError):
        list(torn.rows)
    assert not held(file)


@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(FedReasonError) as caught:
        read_query(VARIABLE, "select 1", name="site.toml")
    assert caught.value.code == Code.REGISTRY_MISSING and f"variable {VARIABLE} is not set" in caught.value.found


@pytest.mark.parametrize(
    "url",
    [
        PASSWORD,
        f"host=db password={PASSWORD}",
        f"postgresql+psycopg://user:{PASSWORD}@host:{PASSWORD}/db",
        f"postgresql+psycopg:/user:{PASSWORD}@host/db",
        f"sqlite://{PASSWORD}/file",
    ],
)
def test_what_is_no_url_is_refused_and_not_told(refusal: Refusal, url: str) -> None:
    error = refusal(url, "select 1")
    assert error.code == Code.REGISTRY_MISSING and VARIABLE in error.found and "%40" in error.fix


@pytest.mark.parametrize("kind", ["postgresql+psycopg", "postgres", "sqlite+nosuch"])
def test_a_driver_that_is_not_installed_is_refused(
    refusal: Refusal, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    error = refusal(f"{kind}://user:{PASSWORD}@127.0.0.1/db", "select 1")
    assert error.code == Code.REGISTRY_MISSING and "not installed" in error.found and "fedreason[postgres]" in error.fix


def test_an_option_of_a_wrong_form_is_refused(refusal: Refusal, file: Path) -> None:
    error = refusal(f"{lite(file)}?timeout={PASSWORD}", "select 1")
    assert error.code == Code.REGISTRY_MISSING and "an option in it" in error.found


@given(
    rows=st.lists(
        st.tuples(
            *[st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(st.characters(codec="utf-8"))] * 2
        )
    )
)
def test_sqlite_cells_are_those_of_its_own_values(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int | float | str | None, ...]]
) -> None:
    path = tmp_path_factory.mktemp("any") / "registry.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("create table t (a, b)")
    connection.executemany("insert into t values (?, ?)", rows)
    connection.commit()
    connection.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, lite(path))
        table = read_query(VARIABLE, "select a, b from t order by rowid", name="t")
    wanted = [["" if value != value else cell_text(value) for value in row] for row in rows]
    assert list(table.rows) == list(enumerate(wanted, 1))


def test_a_table_of_texts_gives_the_patients_of_the_csv(read: Read, tmp_path: Path) -> None:
    codebook = synthetic.codebook()
    synthetic.write_registry(tmp_path, "north", 60, 3)
    with (tmp_path / "registry.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    connection = sqlite3.connect(tmp_path / "registry.sqlite")
    connection.execute(f"create table r ({', '.join(f'{name} text' for name in header)})")
    connection.executemany(f"insert into r values ({', '.join('?' * len(header))})", rows)
    connection.commit()
    connection.close()
    from_file = registry_from(read_delimited(tmp_path / "registry.csv"), codebook)
    assert registry_from(read(lite(tmp_path / "registry.sqlite"), "select * from r"), codebook) == from_file
    assert len(from_file.patients) == 60


def test_a_patient_on_two_rows_is_named_by_row(read: Read, tmp_path: Path, file: Path) -> None:
    columns = ", ".join(f"null as {name}" for name in synthetic.codebook().by_name)
    query = f"select id as patient_id, {columns} from patient union all select '{SENTINEL}', " + ", ".join(
        ["null"] * len(synthetic.codebook().by_name)
    )
    with pytest.raises(FedReasonError, match="rows 2 and 3") as caught:
        registry_from(read(lite(file), query), synthetic.codebook())
    assert SENTINEL not in str(caught.value)


def test_rows_of_sqlite_stream(read: Read, file: Path) -> None:
    series = f"with recursive n(i) as (select 1 union all select i + 1 from n where i < {ROWS}) "
    assert grown(read(lite(file), series + "select i, printf('%0500d', i) as t from n")) < 20
