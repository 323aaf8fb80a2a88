"""Which reader a registry needs: by what site.toml says, and by the file's suffix."""

from __future__ import annotations

import os
from pathlib import Path

from client.registry.delimited import read_delimited
from client.registry.table import Table
from client.site import RegistryConfig
from common.errors import Code, FedReasonError

_WORKBOOKS = frozenset({".xlsx", ".xlsm"})
_PARQUET = frozenset({".parquet", ".pq"})


def open_source(config: RegistryConfig) -> Table:
    """Open the registry of a site; its rows are read as they are taken.

    Raises
    ------
    FedReasonError
        What the reader of that kind of source refuses.
    """
    if config.path is None:
        from client.registry.sql import read_query

        assert config.url_variable is not None and config.query is not None
        return read_query(config.url_variable, config.query, name=f"the query on {config.url_variable}")
    suffix = config.path.suffix.lower()
    if suffix in _WORKBOOKS:
        from client.registry.workbook import read_workbook

        return read_workbook(config.path, sheet=config.sheet, header_row=config.header_row)
    if suffix in _PARQUET:
        from client.registry.parquet import read_parquet

        return read_parquet(config.path)
    return read_delimited(config.path, encoding=config.encoding)


def require_source(config: RegistryConfig) -> str:
    """Return where the registry is, for a person; nothing of it is read.

    Raises
    ------
    FedReasonError
        REGISTRY_MISSING where the file cannot be opened, or the variable that names the database is not set.
    """
    if config.path is None:
        if not os.environ.get(config.url_variable or "", "").strip():
            raise FedReasonError(
                Code.REGISTRY_MISSING,
                f"The environment variable {config.url_variable} is not set.",
                "It holds the database's URL, as in postgresql+psycopg://reader:password@host/database.",
            )
        return f"a query on {config.url_variable}"
    return _file(config.path)


def _file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        what = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({type(error).__name__})"
        raise FedReasonError(
            Code.REGISTRY_MISSING, f"{path} {what}.", "Check `registry.path` in site.toml and the file's permissions."
        ) from None
    return f"{path}, {size:,} bytes"
