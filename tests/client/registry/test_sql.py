"""A query gives the cells that a CSV export would; it writes nothing, and no refusal tells a cell or the password."""

from __future__ import annotations

import csv
import io
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import URL, Engine, NullPool, create_engine, make_url

from client.registry import sql
from client.registry.cells import cell_text
from client.registry.delimited import read_delimited
from client.registry.load import registry_from
from client.registry.sql import read_query
from client.registry.table import Table
from common import synthetic
from common.errors import Code, FedReasonError
from tests.paths import ROOT
from tests.postgres import missing, postgres

SENTINEL = "Q7ZSENTINEL"
PASSWORD = "p4ssSENTINEL"
VARIABLE = "REGISTRY_URL"

Read = Callable[[str | URL, str], Table]
Refusal = Callable[[str | URL, str], FedReasonError]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Read:
    """Read by a URL, which stands in the environment."""

    def by_url(url: str | URL, query: str) -> Table:
        monkeypatch.setenv(VARIABLE, url if isinstance(url, str) else url.render_as_string(hide_password=False))
        return read_query(VARIABLE, query, name="site.toml")

    return by_url


@pytest.fixture
def refusal(read: Read, caplog: pytest.LogCaptureFixture) -> Refusal:
    """Read until it is refused: by a number, in one line, without a cell or the password in anything that is told."""
    caplog.set_level(logging.DEBUG)

    def of(url: str | URL, query: str) -> FedReasonError:
        with pytest.raises(FedReasonError) as caught:
            list(read(url, query).rows)
        error = caught.value
        told = "".join(traceback.format_exception(error)) + error.found + error.fix + caplog.text
        secrets = [SENTINEL, PASSWORD, *([make_url(url).password or PASSWORD] if isinstance(url, URL) else [])]
        assert [secret for secret in secrets if secret in told] == []
        assert error.__context__ is None
        assert error.found.startswith("site.toml: ") and "\n" not in str(error) and "{" not in str(error)
        return error

    return of


# --- SQLite


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


ROWS = 200_000


def grown(table: Table) -> float:
    """Megabytes by which this process grows while it takes the rows one after another."""

    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    before = most = resident()
    place = 0
    for place, _ in table.rows:
        if place % 1000 == 0:
            most = max(most, resident())
    assert place == ROWS
    return most - before


def test_rows_of_sqlite_stream(read: Read, file: Path) -> None:
    series = f"with recursive n(i) as (select 1 union all select i + 1 from n where i < {ROWS}) "
    assert grown(read(lite(file), series + "select i, printf('%0500d', i) as t from n")) < 20


# --- PostgreSQL


@pytest.fixture(scope="module")
def url() -> Iterator[URL]:
    if missing():
        pytest.skip(missing())
    with postgres() as text:
        url = make_url(text)
        with admin(url).begin() as connection:
            for statement in (
                "create table patient (id text, age int, name text)",
                f"insert into patient values ('p1', 64, '{SENTINEL}'), ('p2', 71, 'other')",
                "create function writes() returns int language sql as "
                f"$$ insert into patient values ('{SENTINEL}', 1, '{SENTINEL}') returning 1 $$",
                "create function fails() returns int language plpgsql as "
                f"$$ begin raise exception 'found {SENTINEL}' using detail = '{SENTINEL}'; end $$",
                "create function talks() returns int language plpgsql as "
                f"$$ begin raise warning '{SENTINEL}'; return 1; end $$",
                f"create role reader login password '{PASSWORD}'",
                "create role idle login",
            ):
                connection.exec_driver_sql(statement)
        yield url


def admin(url: URL) -> Engine:
    return create_engine(url, poolclass=NullPool)


def patients(url: URL) -> int:
    with admin(url).connect() as connection:
        return int(connection.exec_driver_sql("select count(*) from patient").scalar_one())


@pytest.mark.federation
def test_postgres_is_read_in_a_read_only_snapshot(read: Read, url: URL) -> None:
    asked = "select current_setting('transaction_read_only'), current_setting('transaction_isolation')"
    assert list(read(url, asked).rows) == [(1, ["on", "repeatable read"])]
    assert read(url, "/* all */ table patient").columns == ("id", "age", "name")
    assert list(read(url, "(select 'x') union all (select 'y')").rows) == [(1, ["x"]), (2, ["y"])]
    assert list(read(url, "select '%s', ':id' from patient where id like 'p1%'").rows) == [(1, ["%s", ":id"])]


WRITES = {
    "a function": "select writes()",
    "a second statement": "select 1; insert into patient values ('x')",
    "a second statement after the transaction": "select 1; commit; insert into patient values ('x')",
    "with": "with new as (insert into patient values ('x') returning id) select id from new",
    "into": "select * into other from patient",
    "a lock": "select * from patient for update",
    "a sequence": "select setval(pg_get_serial_sequence('pg_catalog.pg_class', 'oid'), 1), writes()",
}


@pytest.mark.federation
@pytest.mark.parametrize("query", WRITES.values(), ids=WRITES.keys())
def test_nothing_that_writes_is_run(refusal: Refusal, url: URL, query: str) -> None:
    before = patients(url)
    assert refusal(url, query).code == Code.REGISTRY_QUERY
    assert patients(url) == before


@pytest.mark.federation
def test_a_function_that_writes_is_told_as_such(refusal: Refusal, url: URL) -> None:
    assert "would write" in refusal(url, "select writes()").found


@pytest.mark.federation
def test_without_the_read_only_transaction_the_function_would_have_run(
    read: Read, url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql, "_SNAPSHOT", {})
    assert list(read(url, "select writes()").rows) == [(1, ["1"])]


@pytest.mark.federation
@pytest.mark.parametrize(
    ("query", "code", "words"),
    [
        ("select * from nowhere", Code.REGISTRY_MISSING, "a table"),
        ("select * from nowhere.patient", Code.REGISTRY_MISSING, "a table"),
        ("select absent from patient", Code.REGISTRY_COLUMN, "a column"),
        ("select id from patient where", Code.REGISTRY_QUERY, "does not understand"),
        ("select absent(id) from patient", Code.REGISTRY_QUERY, "does not understand"),
        ("select 1; select 2", Code.REGISTRY_QUERY, "more than one statement"),
        ("select cast(name as int) from patient", Code.REGISTRY_QUERY, "cannot convert"),
        ("select cast(name as date) from patient", Code.REGISTRY_QUERY, "cannot convert"),
        ("select 1 / (age - 64) from patient", Code.REGISTRY_QUERY, "cannot convert"),
        ("select 'infinity'::timestamp", Code.REGISTRY_QUERY, "cannot convert"),
        ("select '12345-06-07'::date", Code.REGISTRY_QUERY, "cannot convert"),
        ("select fails()", Code.REGISTRY_QUERY, "refuses the query (RaiseException)"),
        ("select id, name::bytea as note from patient", Code.REGISTRY_COLUMN, "column note is neither"),
        ("select id, array[name] as note from patient", Code.REGISTRY_COLUMN, "column note is neither"),
        ("select id, to_json(name) as note from patient", Code.REGISTRY_COLUMN, "column note is neither"),
        ("select id, to_jsonb(age) as note from patient", Code.REGISTRY_COLUMN, "column note is neither"),
        ("select id, row(name, 1) as note from patient", Code.REGISTRY_COLUMN, "column note is neither"),
        ("select id, interval '1 day' as note from patient", Code.REGISTRY_COLUMN, "column note is neither"),
    ],
)
def test_what_postgres_refuses_has_a_number(refusal: Refusal, url: URL, query: str, code: Code, words: str) -> None:
    error = refusal(url, query)
    assert error.code == code and words in error.found


@pytest.mark.federation
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"password": PASSWORD}, "refuses the user or the password"),
        ({"username": "nobody", "password": PASSWORD}, "refuses the user or the password"),
        ({"username": "idle"}, "refuses the user or the password"),
        ({"database": "nowhere"}, "no such database"),
        ({"port": 1}, "cannot be reached"),
        ({"port": 99999}, "cannot be reached"),
        ({"query": {PASSWORD: "1"}}, "cannot be reached"),
        ({"host": f"{PASSWORD}@nowhere.invalid"}, "cannot be reached"),
    ],
    ids=str,
)
def test_a_connection_that_fails_has_a_number(
    refusal: Refusal, url: URL, change: dict[str, object], words: str
) -> None:
    error = refusal(url.set(**change), "select 1")  # type: ignore[arg-type]
    assert error.code == Code.REGISTRY_MISSING and words in error.found


@pytest.mark.federation
def test_a_user_without_rights_is_refused(refusal: Refusal, url: URL) -> None:
    reader = url.set(username="reader", password=PASSWORD)
    assert "may not read" in refusal(reader, "select * from patient").found
    with admin(url).execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql("create database closed")
        connection.exec_driver_sql("revoke connect on database closed from public")
    assert "may not read" in refusal(reader.set(database="closed"), "select 1").found


@pytest.mark.federation
def test_a_time_limit_of_the_url_holds(refusal: Refusal, url: URL) -> None:
    limited = url.update_query_dict({"options": "-c statement_timeout=100"})
    error = refusal(limited, "select pg_sleep(30)::text")
    assert error.code == Code.REGISTRY_MISSING and "stopped before it ended" in error.found


@pytest.mark.federation
def test_a_date_that_the_driver_cannot_take_apart_is_refused(refusal: Refusal, url: URL) -> None:
    german = url.update_query_dict({"options": "-c DateStyle=German -c TimeZone=Asia/Seoul"})
    error = refusal(german, "select timestamptz '2231-07-19 04:17:53' as at")
    assert error.code == Code.REGISTRY_QUERY and "2231" not in "".join(traceback.format_exception(error))


@pytest.mark.federation
def test_a_warning_of_the_database_is_not_told(read: Read, url: URL, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    assert list(read(url, "select talks(), name from patient where id = 'p1'").rows) == [(1, ["1", SENTINEL])]
    assert SENTINEL not in caplog.text


@pytest.mark.federation
def test_the_leak_check_finds_what_a_driver_says(refusal: Refusal, url: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "_words", lambda error: (Code.REGISTRY_QUERY, str(error.orig).splitlines()[0], ""))
    with pytest.raises(AssertionError, match=SENTINEL):
        refusal(url, "select cast(name as int) from patient")


def connections(url: URL, name: str) -> int:
    with admin(url).connect() as connection:
        found = connection.exec_driver_sql(f"select count(*) from pg_stat_activity where application_name = '{name}'")
        return int(found.scalar_one())


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.federation
@pytest.mark.parametrize("way", ["end", "close", "close before the first", "forget", "error"])
def test_no_connection_stays(read: Read, url: URL, way: str) -> None:
    named = url.update_query_dict({"application_name": way})
    last = "'x'" if way == "error" else "'1'"
    table = read(
        named, f"select i, cast(case when i = 5000 then {last} else '1' end as int) from generate_series(1, 5000) i"
    )
    assert connections(url, way) == 1
    if way == "end":
        assert len(list(table.rows)) == 5000
    elif way == "error":
        with pytest.raises(FedReasonError, match="E308"):
            list(table.rows)
    elif way == "close":
        next(table.rows)
    if way.startswith("close"):
        table.close()
    del table
    assert wait_until(lambda: connections(url, way) == 0)


@pytest.mark.federation
def test_a_connection_that_breaks_ends_no_table_early(read: Read, url: URL) -> None:
    table = read(url.update_query_dict({"application_name": "broken"}), "select i from generate_series(1, 100000) i")
    next(table.rows)
    with admin(url).connect() as connection:
        connection.exec_driver_sql(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'broken'"
        )
    with pytest.raises(FedReasonError, match="E301") as caught:
        list(table.rows)
    assert caught.value.__context__ is None


WIDE = f"select i, lpad(i::text, 500) as t from generate_series(1, {ROWS}) i"


TAKE = f"""
import re, sys
from client.registry import sql
if sys.argv[1] == "whole":
    sql._STREAM = {{"no_parameters": True}}
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1000
sum(1 for _ in sql.read_query("{VARIABLE}", "select 1 as i", name="site.toml").rows)
before = peak()
assert sum(1 for _ in sql.read_query("{VARIABLE}", sys.argv[2], name="site.toml").rows) == {ROWS}
print(peak() - before)
"""


@pytest.mark.federation
@pytest.mark.parametrize(("way", "least", "most"), [("stream", 0, 20), ("whole", 60, 1000)])
def test_rows_of_postgres_stream_and_the_check_finds_a_result_that_came_whole(
    url: URL, way: str, least: float, most: float
) -> None:
    """In a process of its own, whose memory holds nothing that earlier tests have let go of."""
    environment = {**os.environ, VARIABLE: url.render_as_string(hide_password=False)}
    done = subprocess.run(
        [sys.executable, "-c", TAKE, way, WIDE], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert least <= float(done.stdout) < most


EXPORTED = st.tuples(
    st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    st.none() | st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**15), max_value=10**15),
    st.none() | st.floats(),
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | st.booleans(),
    st.none() | st.dates(),
    st.none() | st.datetimes(),
)


@pytest.mark.federation
@settings(max_examples=25, deadline=None)
@given(rows=st.lists(EXPORTED, min_size=1))
def test_cells_are_those_of_the_csv_that_postgres_exports(url: URL, rows: list[tuple[object, ...]]) -> None:
    import psycopg

    with psycopg.connect(url.set(drivername="postgresql").render_as_string(hide_password=False)) as connection:
        connection.execute("drop table if exists e")
        connection.execute(
            "create table e (n serial, t text, d numeric, f float8, i int8, b bool, day date, at timestamp)"
        )
        with connection.cursor() as cursor:
            cursor.executemany("insert into e (t, d, f, i, b, day, at) values (%s, %s, %s, %s, %s, %s, %s)", rows)
            query = "select t, d, f, i, b::int, day, to_char(at, 'YYYY-MM-DD\"T\"HH24:MI:SS.US') from e order by n"
            with cursor.copy(f"copy ({query}) to stdout with csv") as copy:
                exported = list(csv.reader(io.StringIO(b"".join(copy).decode(), newline="")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, url.render_as_string(hide_password=False))
        with closing(read_query(VARIABLE, "select t, d, f, i, b, day, at from e order by n", name="e")) as table:
            read = list(table.rows)
    for (_, (t, d, f, i, b, day, at)), (*wanted, stamp) in zip(read, exported, strict=True):
        assert [t, d, i, b, day] == [wanted[0], wanted[1], *wanted[3:]]
        assert (f and float(f)) == ("" if wanted[2] in ("", "NaN") else float(wanted[2]))
        assert (at and datetime.fromisoformat(at)) == (stamp and datetime.fromisoformat(stamp))


@pytest.mark.federation
def test_columns_of_their_own_types_give_the_patients_of_the_csv(read: Read, url: URL, tmp_path: Path) -> None:
    codebook = synthetic.codebook()
    synthetic.write_registry(tmp_path, "south", 80, 5)
    numeric = [feature.name for feature in codebook.features if feature.kind == "numeric"]
    points = [feature.name for feature in codebook.features if "0" in feature.categories]
    types = (
        dict.fromkeys(numeric[::2], "numeric") | dict.fromkeys(numeric[1::2], "float8") | dict.fromkeys(points, "int")
    )
    assert set(types.values()) == {"numeric", "float8", "int"}
    with (tmp_path / "registry.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    kinds = [types.get(name, "text") for name in header]
    made = ", ".join(f"{name} {kind}" for name, kind in zip(header, kinds, strict=True))
    marks = ", ".join(f"cast(%s::text as {kind})" for kind in kinds)
    with admin(url).begin() as connection:
        connection.exec_driver_sql(f"create table r ({made})")
        connection.exec_driver_sql(f"insert into r values ({marks})", [tuple(c or None for c in row) for row in rows])
    from_file = registry_from(read_delimited(tmp_path / "registry.csv"), codebook)
    assert registry_from(read(url, "select * from r"), codebook) == from_file
    assert len(from_file.patients) == 80


@pytest.mark.federation
def test_a_database_in_another_encoding_is_read(read: Read, url: URL) -> None:
    with admin(url).execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql("create database latin encoding 'LATIN1' template template0 locale 'C'")
    with admin(url.set(database="latin")).begin() as connection:
        connection.exec_driver_sql("create table t as select 'Größe é'::text as größe")
    table = read(url.set(database="latin"), "select größe from t")
    assert (table.columns, list(table.rows)) == (("größe",), [(1, ["Größe é"])])


@pytest.mark.federation
def test_no_server_outlives_a_test_that_is_killed() -> None:
    if missing():
        pytest.skip(missing())
    program = (
        "import time; from tests.postgres import postgres\n"
        "with postgres() as url: print(url, flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    url = make_url(process.stdout.readline().strip())
    with admin(url).connect() as connection:
        data = Path(connection.exec_driver_sql("show data_directory").scalar_one())
    assert data.is_dir()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert wait_until(lambda: not data.parent.exists())
    with pytest.raises(Exception, match="refused"):
        admin(url).connect()
