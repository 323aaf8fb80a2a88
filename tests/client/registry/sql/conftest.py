"""A query read as a site reads it, its refusal searched for secrets, and a PostgreSQL to ask."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator

import pytest
from sqlalchemy import URL, make_url

from client.registry.sql import read_query
from client.registry.table import Table
from common.errors import FedReasonError
from tests.client.registry.sql.queries import PASSWORD, SENTINEL, VARIABLE, Read, Refusal, admin
from tests.postgres import missing, postgres


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
