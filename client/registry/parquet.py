"""Parquet files, read in batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from client.registry.cells import cell_text
from client.registry.table import Table
from common.errors import Code, FedReasonError

_BATCH = 4096


def read_parquet(path: Path, *, decimal: str = ".") -> Table:
    """Open a Parquet file; its rows are read as they are taken.

    Columns of lists, structures, bytes or durations are left out, and counted.

    Raises
    ------
    FedReasonError
        REGISTRY_MISSING where it cannot be read; REGISTRY_TORN, here or while the rows are taken, where it is no whole
        Parquet file.
    """
    try:
        file = pq.ParquetFile(path)
    except FileNotFoundError:
        raise FedReasonError(
            Code.REGISTRY_MISSING, f"{path} does not exist.", "Check `registry.path` in site.toml."
        ) from None
    except pa.ArrowException as error:
        raise _torn(path, error) from None
    except OSError as error:
        raise FedReasonError(
            Code.REGISTRY_MISSING, f"{path} cannot be read ({type(error).__name__}).", "It must be a readable file."
        ) from None
    columns = [field.name for field in file.schema_arrow if _single(field.type)]
    notes = []
    if others := len(file.schema_arrow) - len(columns):
        notes.append(f"{others:,} columns of lists, structures, bytes or durations were not read")
    rows = _rows(path, file, columns, decimal)
    next(rows)
    return Table(str(path), tuple(name.strip() for name in columns), rows, unit="row", notes=notes)


def _single(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    not_single = (pa.types.is_nested, pa.types.is_binary, pa.types.is_large_binary, pa.types.is_duration)
    return not any(is_kind(value) for is_kind in not_single)


def _rows(path: Path, file: pq.ParquetFile, columns: list[str], decimal: str) -> Iterator[tuple[int, list[str]]]:
    """Yield nothing once the file is held, so that closing it lets go, then the rows."""
    place = 0
    with file:
        yield place, []
        try:
            for batch in file.iter_batches(_BATCH, columns=columns):
                for cells in zip(*map(_values, batch.columns), strict=True):
                    place += 1
                    yield place, [cell_text(cell, decimal) or "" for cell in cells]
            return
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
            kind = error
    raise _torn(path, kind)


def _values(column: pa.Array) -> list[Any]:
    """Return a column's values; of few bits by the shortest number that they stand for, as who wrote them sees it."""
    values: list[Any] = column.to_pylist()
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    few = {pa.float16(): np.float16, pa.float32(): np.float32}.get(kind)
    if few is None:
        return values
    return [value if value is None or value.is_integer() else float(str(few(value))) for value in values]


def _torn(path: Path, error: Exception) -> FedReasonError:
    return FedReasonError(
        Code.REGISTRY_TORN,
        f"{path} is not a whole Parquet file ({type(error).__name__}).",
        "Export or copy it again: nothing was read.",
    )
