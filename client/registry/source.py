"""Which reader a registry needs: by what site.toml says, and by the file's suffix."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from client.registry.config import RegistryConfig, SourceConfig
from client.registry.delimited import read_delimited
from client.registry.table import Table

_WORKBOOKS = frozenset({".xlsx", ".xlsm"})
_PARQUET = frozenset({".parquet", ".pq"})


def open_registry_source(
    config: RegistryConfig, wanted: Collection[str], absent: Mapping[str, Callable[[str], bool]] | None = None
) -> Table:
    """Open the registry of a site with the wanted columns; its rows are read as they are taken.

    `absent` is what means that a column has no value, where several rows become one record.

    Raises
    ------
    FedReasonError
        What the reader of that kind of source refuses.
    """
    if config.omop is not None:
        from client.registry.omop.source import open_omop

        assert config.url_variable is not None
        return open_omop(config.url_variable, config.omop, name=f"the OMOP CDM of {config.url_variable}")
    if config.redcap is not None:
        from client.registry.redcap.records import open_redcap

        return open_redcap(open_source(config), config.redcap, wanted, absent, decimal=config.decimal)
    return open_source(config)


def open_source(config: SourceConfig) -> Table:
    """Open a table of a site as it stands; its rows are read as they are taken.

    Raises
    ------
    FedReasonError
        What the reader of that kind of source refuses.
    """
    if config.path is None:
        from client.registry.sql import read_query

        assert config.url_variable is not None and config.query is not None
        name = f"the query on {config.url_variable}"
        return read_query(config.url_variable, config.query, name=name, decimal=config.decimal)
    suffix = config.path.suffix.lower()
    if suffix in _WORKBOOKS:
        from client.registry.workbook import read_workbook

        return read_workbook(
            config.path,
            sheet=config.sheet,
            header_row=config.header_row,
            header_rows=config.header_rows,
            blank_rows=config.blank_rows,
            decimal=config.decimal,
        )
    if suffix in _PARQUET:
        from client.registry.parquet import read_parquet

        return read_parquet(config.path, decimal=config.decimal)
    return read_delimited(
        config.path, encoding=config.encoding, header_row=config.header_row, header_rows=config.header_rows
    )
