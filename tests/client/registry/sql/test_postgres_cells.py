"""A query of PostgreSQL gives the cells that its CSV export would."""

from __future__ import annotations

import csv
import io
from contextlib import closing
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import URL

from client.registry.delimited import read_delimited
from client.registry.load import registry_from
from client.registry.sql import read_query
from common import synthetic
from tests.client.registry.sql.queries import VARIABLE, Read, admin
from tests.examples import examples

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
@examples(25)
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
