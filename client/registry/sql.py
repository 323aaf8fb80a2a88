"""A registry in a database: the site's own query, read in a read-only transaction, a row at a time.

The URL, with its password, comes from the environment. What a driver says may quote the password or a cell (PostgreSQL
does): no refusal holds any of it, but is chosen by SQLSTATE and told in words of this file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Generator, Sequence
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, NullPool, Select, create_engine, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, NoSuchModuleError, OperationalError, ProgrammingError

from client.registry.cells import cell_text
from client.registry.table import Table
from common.errors import Code, FedReasonError

_QUERY = re.compile(
    r"""
    (?> \s | -- [^\n]* \n | /\* .*? \*/ | \( )*+    # blanks, comments, an opening parenthesis
    (?: select | with | values | table ) \b
    [^\0]*                                          # PostgreSQL would end the query there, and its conditions with it
    """,
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)
_STREAM = {"stream_results": True, "yield_per": 500, "no_parameters": True}
_SNAPSHOT = {"postgresql": {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}}
_JSON = {"postgresql": {114, 3802}}
"""Types that a driver takes apart: a cell of JSON could look like a text."""

Rows = Generator[tuple[int, Sequence[str]], None, None]
Query = str | Callable[[Connection], Select[Any]]


def read_query(url_variable: str, query: Query, *, name: str, decimal: str = ".") -> Table:
    """Run a query and give its rows as they are taken; the connection closes with the last of them, or with `close`.

    On PostgreSQL the transaction is read-only and repeatable read; SQLite opens its file read-only. On other databases
    nothing more than the first word of the query and a rollback at the end keep it from writing: give it an account
    that cannot. Time limits are options of the driver, in the URL.

    Parameters
    ----------
    url_variable
        Name of the environment variable that holds the SQLAlchemy URL.
    query
        One statement that begins with SELECT, WITH, VALUES or TABLE; sent as it is, without parameters. Or what makes
        a statement, after a look at the database in the transaction that then runs it.
    name
        What messages call it.

    Raises
    ------
    FedReasonError
        Here or while the rows are taken: REGISTRY_MISSING where database or table cannot be reached or read,
        REGISTRY_COLUMN for a column that is not there or cannot be text, REGISTRY_QUERY for any other query that
        the database refuses or that would write.
    """
    rows = _refused(_rows(url_variable, query, name, decimal), url_variable, name)
    _, columns = next(rows)
    return Table(name, tuple(columns), rows, unit="row")


def _refused(rows: Rows, url_variable: str, name: str) -> Rows:
    """Give the rows; whatever a driver raises becomes a refusal that holds nothing of it, not even as its context."""
    try:
        yield from rows
        return
    except FedReasonError:
        raise
    except Exception as error:
        code, found, fix = _words(error)
    raise FedReasonError(code, f"{name}: {found}.", fix.format(variable=url_variable))


def _rows(url_variable: str, query: Query, name: str, decimal: str) -> Rows:
    """Give the column names as row 0, then every row, counted from 1."""
    if isinstance(query, str) and not _QUERY.fullmatch(query):
        raise FedReasonError(
            Code.REGISTRY_QUERY,
            f"{name}: the query does not begin with SELECT, WITH, VALUES or TABLE, or holds a zero character.",
            "The registry is only read: write one query, and nothing that changes the database.",
        )
    engine = _engine(url_variable, name)
    dialect = engine.dialect.name
    with engine.connect() as connection:
        connection.execution_options(**_SNAPSHOT.get(dialect, {}))
        if isinstance(query, str):
            result = connection.exec_driver_sql(query, execution_options=_STREAM)
        else:
            result = connection.execute(query(connection), execution_options=_STREAM)
        described = (result.cursor and result.cursor.description) or ()
        columns = [str(column[0]).strip() for column in described]
        for column, about in zip(columns, described, strict=True):
            if about[1] in _JSON.get(dialect, ()):
                raise _no_text(name, column)
        yield 0, columns
        for place, row in enumerate(result, 1):
            cells = [cell_text(cell, decimal) for cell in row]
            if None in cells:
                raise _no_text(name, columns[cells.index(None)])
            yield place, cells  # type: ignore[misc]


def _no_text(name: str, column: str) -> FedReasonError:
    return FedReasonError(
        Code.REGISTRY_COLUMN,
        f"{name}: column {column} is neither text, number, date, yes nor no.",
        "Leave it out of the query, or convert it there.",
    )


def _engine(url_variable: str, name: str) -> Engine:
    text = os.environ.get(url_variable, "").strip()
    if not text:
        raise FedReasonError(
            Code.REGISTRY_MISSING,
            f"{name}: the environment variable {url_variable} is not set.",
            "Give it the URL of the database: dialect+driver://user:password@host:port/database.",
        )
    try:
        url = make_url(text)
        if url.get_backend_name() == "sqlite":
            url = _read_only_file(url)
        return create_engine(url, poolclass=NullPool, hide_parameters=True)
    except (ImportError, NoSuchModuleError):
        found = f"the driver that {url_variable} asks for is not installed"
        fix = "PostgreSQL has postgresql+psycopg://, with pip install 'fedreason[postgres]'; else see SQLAlchemy."
    except (ArgumentError, ValueError):
        found = f"{url_variable} is not the URL of a database, or an option in it has a wrong form"
        fix = f"It is dialect+driver://user:password@host:port/database; {_SIGNS}."
    raise FedReasonError(Code.REGISTRY_MISSING, f"{name}: {found}.", fix)


def _read_only_file(url: URL) -> URL:
    path = url.database or ":memory:"
    path = path if path.startswith("file:") else f"file:{quote(path)}"
    return url.set(database=path).update_query_dict({"mode": "ro", "uri": "true"})


_ANY = ""
_SIGNS = "signs in a password, such as @ or /, are written %40 or %2F"
_WORDS: dict[str, tuple[Code, str, str]] = {
    "08": (
        Code.REGISTRY_MISSING,
        "the database cannot be reached, or the connection broke",
        f"Start it, and check host, port and options in {{variable}}; {_SIGNS}.",
    ),
    "28": (
        Code.REGISTRY_MISSING,
        "the database refuses the user or the password",
        f"Correct them in {{variable}}; {_SIGNS}.",
    ),
    "3D": (
        Code.REGISTRY_MISSING,
        "there is no such database, or it cannot be opened",
        "Check the end of {variable}.",
    ),
    "42501": (
        Code.REGISTRY_MISSING,
        "the user of the database may not read what the query reads",
        "Ask for the right to connect and to SELECT there.",
    ),
    "42P01": (
        Code.REGISTRY_MISSING,
        "a table of the query is not in the database",
        "Check its name and schema, and the database in {variable}.",
    ),
    "42703": (
        Code.REGISTRY_COLUMN,
        "a column of the query is not in its tables",
        "Correct the query. In PostgreSQL a name with capitals stands in double quotes.",
    ),
    "25006": (
        Code.REGISTRY_QUERY,
        "the query would write",
        "The registry is only read: take out what changes the database, functions that do so among it.",
    ),
    "42": (
        Code.REGISTRY_QUERY,
        "the database does not understand the query, or it is more than one statement",
        "Write one statement, and try it in a client of the database.",
    ),
    "0A": (
        Code.REGISTRY_QUERY,
        "the query does what a query that only reads cannot",
        "Take out what changes the database, then try it in a client of the database.",
    ),
    "22": (
        Code.REGISTRY_QUERY,
        "the query meets a value that it cannot convert, or that is out of range",
        "Find it in a client of the database; convert it to text there, or leave it out.",
    ),
    "57014": (
        Code.REGISTRY_MISSING,
        "the query was stopped before it ended",
        "Make it faster, or raise the time limit (statement_timeout).",
    ),
    "40": (Code.REGISTRY_MISSING, "the database gave up the query for another one", "Start it again."),
    "53": (Code.REGISTRY_MISSING, "the database has no memory, disk or connection left", "Start it again later."),
    "55": (Code.REGISTRY_MISSING, "another program holds the database or its table", "Start it again later."),
    "57": (Code.REGISTRY_MISSING, "the database stops or is starting", "Start it again when it runs."),
    _ANY: (
        Code.REGISTRY_QUERY,
        "the database or its driver refuses the query",
        "Check the options in {variable}, and try the query in a client of the database, which says why.",
    ),
}
"""What is told, by SQLSTATE or by its class, the first two characters (PostgreSQL, appendix A)."""

_SAID = (
    (r"password authentication failed|no password supplied|role \".*\" does not exist|no pg_hba.conf entry", "28"),
    (r"database \".*\" does not exist|SQLITE_(CANTOPEN|NOTADB|CORRUPT)", "3D"),
    (r"invalid connection option", "08"),
    (r"permission denied for database", "42501"),
    (r"too many clients|too many connections|connection slots", "53"),
    (r"database system is (starting up|shutting down)", "57"),
    (r"SQLITE_READONLY", "25006"),
    (r"SQLITE_(BUSY|LOCKED)", "55"),
    (r"SQLITE_ERROR no such table", "42P01"),
    (r"SQLITE_ERROR no such column", "42703"),
    (r"SQLITE_ERROR", "42"),
    (r"Could not decode to UTF-8", "22"),
)
"""SQLSTATE by what SQLite says, and libpq of a connection that fails: neither gives one."""


def _words(error: Exception) -> tuple[Code, str, str]:
    state = _state(error)
    code, found, fix = next(_WORDS[key] for key in (state, state[:2], _ANY) if key in _WORDS)
    if found == _WORDS[_ANY][1]:
        found += f" ({type(getattr(error, 'orig', None) or error).__name__})"
    return code, found, fix


def _state(error: Exception) -> str:
    """SQLSTATE of an error, or '' where nothing tells it."""
    if not isinstance(error, DBAPIError):
        return _ANY
    cause: Any = error.orig
    given = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    if given:
        return str(given)
    said = f"{getattr(cause, 'sqlite_errorname', '')} {cause}"
    for pattern, state in _SAID:
        if re.search(pattern, said):
            return state
    by_class: dict[type[DBAPIError], str] = {OperationalError: "08", DataError: "22", ProgrammingError: "42"}
    return by_class.get(type(error), _ANY)
