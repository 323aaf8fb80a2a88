"""The CDM in a PostgreSQL of its own, named as a site names it: by the account that may only read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import URL, make_url

from tests.client.registry.omop.cdm import PASSWORD, ROWS, TABLES, VARIABLE, admin
from tests.postgres import missing, postgres


@pytest.fixture(scope="module")
def url() -> Iterator[URL]:
    if missing():
        pytest.skip(missing())
    with postgres() as text:
        url = make_url(text)
        with admin(url).begin() as connection:
            for statement in TABLES.split(";")[:-1]:
                connection.exec_driver_sql(statement)
            for table, rows in ROWS.items():
                marks = ", ".join(["%s"] * len(rows[0]))
                connection.exec_driver_sql(f"insert into {table} values ({marks})", rows)
            connection.exec_driver_sql(f"create role reader login password '{PASSWORD}'")
            connection.exec_driver_sql("grant usage on schema cdm, words to reader")
            connection.exec_driver_sql("grant select on all tables in schema cdm, words to reader")
        yield url


@pytest.fixture(autouse=True)
def environment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name the database as a site does: by the account that may only read."""
    if "url" in request.fixturenames:
        reader = request.getfixturevalue("url").set(username="reader", password=PASSWORD)
        monkeypatch.setenv(VARIABLE, reader.render_as_string(hide_password=False))
