"""A query of PostgreSQL writes nothing, leaves no connection, streams, and no refusal tells a cell or the password."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from sqlalchemy import URL, make_url

from bench.waiting import until
from client.registry import sql
from common.errors import Code, FedReasonError
from tests.client.registry.sql.queries import PASSWORD, ROWS, SENTINEL, VARIABLE, Read, Refusal, admin
from tests.paths import ROOT
from tests.postgres import missing


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
    until(lambda: connections(url, way) == 0)


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
    until(lambda: not data.parent.exists())
    with pytest.raises(Exception, match="refused"):
        admin(url).connect()
