"""A raw REDCap export as one row a record: events, instances of repeating forms and data access groups resolved.

A plain column holds the first value over the record's rows, a feature named `[event][field][instance]` the value there.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import chain
from sys import intern

from client.registry.folding import plain
from client.registry.redcap.address import Address, address_of
from client.registry.redcap.cleaning import cleaning, identifying, is_code
from client.registry.redcap.config import RedcapConfig
from client.registry.redcap.dictionary import Dictionary, read_dictionary, refused
from client.registry.table import Table
from common.errors import Code, FedReasonError

EVENT, INSTANCE, GROUP = "redcap_event_name", "redcap_repeat_instance", "redcap_data_access_group"

_Row = tuple[int, Sequence[str]]


def open_redcap(
    export: Table,
    config: RedcapConfig,
    wanted: Collection[str],
    absent: Mapping[str, Callable[[str], bool]] | None = None,
    decimal: str = ".",
) -> Table:
    """Turn an export into a table of records; `wanted` are the columns that the codebook describes.

    Where a record has several rows, what a column calls `absent` is as good as a blank; `decimal` is the sign that
    numbers have throughout, whatever their validation says.

    The export's own columns keep their places, and those that are addressed come behind them. Only where there are
    events or repeating forms a record may have several rows; the whole export is then read when the first row is taken.
    Cells that the dictionary says identify a person are blanked, but for the record's.

    Raises
    ------
    FedReasonError
        CODEBOOK_SOURCE for a bad dictionary, CODEBOOK_REFERENCE where a flagged identifier is wanted, REGISTRY_COLUMN
        where the export lacks the record's, event's, instance's or group's column; while the rows are taken,
        REGISTRY_EMPTY where none belongs to the site's group.
    """
    dictionary = read_dictionary(config.dictionary)
    addresses = [address for name in wanted if (address := address_of(name)) and address.column in export.columns]
    columns = {*wanted, *(address.column for address in addresses)}
    _refuse_identifiers(dictionary, columns)
    _refuse_faulty(dictionary, columns)
    needed = {dictionary.record.name: "names the record"}
    if any(address.event is not None for address in addresses):
        needed[EVENT] = "names the event, which the codebook asks for"
    if any(address.instance is not None for address in addresses):
        needed[INSTANCE] = "numbers the instances, which the codebook asks for"
    if config.group is not None:
        needed[GROUP] = "names the data access group, which site.toml asks for"
    _require(export, needed)
    rows: Iterator[_Row] = _own_rows(export, dictionary, config.group, decimal)
    if not {EVENT, INSTANCE}.isdisjoint(export.columns):
        rows = _merged(rows, export.columns, dictionary.record.name, addresses, absent or {})
    return replace(export, columns=(*export.columns, *(address.name for address in addresses)), rows=rows)


def _own_rows(
    export: Table, dictionary: Dictionary, group: str | None, decimal: str
) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of the site's group, cleaned."""
    steps = cleaning(dictionary, export.columns, decimal)
    member = export.columns.index(GROUP) if group is not None else -1
    read = kept = 0
    with closing(export):
        for place, raw in export.rows:
            read += 1
            if group is not None and not is_code(raw[member].strip(), group):
                continue
            kept += 1
            cells = [cell.strip() for cell in raw]
            for step in steps:
                step(cells)
            yield place, cells
    if read and not kept:
        raise FedReasonError(
            Code.REGISTRY_EMPTY,
            f"{export.name}: none of {read:,} rows belongs to the data access group '{group}'.",
            f"Write registry.redcap.group in site.toml as the column {GROUP} of a raw export does.",
        )


def _merged(
    rows: Iterator[_Row],
    columns: Sequence[str],
    record: str,
    addresses: Sequence[Address],
    absent: Mapping[str, Callable[[str], bool]],
) -> Iterator[_Row]:
    """Yield every record at the place of its first row; a record's rows need not stand together."""
    nothing = [absent.get(name, operator.not_) for name in (*columns, *(address.name for address in addresses))]
    place_of = {name: place for place, name in enumerate(columns)}
    name, event, instance = (place_of.get(column, -1) for column in (record, EVENT, INSTANCE))
    sources = [(place_of[address.column], address.event, address.instance) for address in addresses]
    merged: dict[str, tuple[int, list[str]]] = {}
    for place, cells in rows:
        here = plain(cells[instance])
        there = (
            cells[source] if (at is None or cells[event] == at) and (number is None or here == str(number)) else ""
            for source, at, number in sources
        )
        values = merged.setdefault(plain(cells[name]), (place, [""] * (len(columns) + len(sources))))[1]
        for column, cell in enumerate(chain(cells, there)):
            if not values[column] and not nothing[column](cell):
                values[column] = intern(cell)
    yield from merged.values()


def _refuse_identifiers(dictionary: Dictionary, wanted: Collection[str]) -> None:
    flagged = sorted(identifying(dictionary, wanted))
    if flagged:
        raise FedReasonError(
            Code.CODEBOOK_REFERENCE,
            f"The codebook describes {', '.join(flagged)}, which identifies a person by {dictionary.path}.",
            "Take it out of the codebook; a flag or validation that is wrong is corrected in REDCap.",
        )


def _refuse_faulty(dictionary: Dictionary, wanted: Collection[str]) -> None:
    """Refuse what a row of the dictionary that cannot be read describes: whether its boxes were seen is not known."""
    for field in dictionary.fields:
        if field.fault and any(map(field.holds, wanted)):
            raise refused(
                dictionary.path,
                field.line,
                f"(field {field.name}), which the codebook describes, {field.fault}",
                "Correct it in REDCap and download the dictionary again, or take the field out of the codebook.",
            )


def _require(export: Table, needed: Mapping[str, str]) -> None:
    for name, what in needed.items():
        if export.columns.count(name) != 1:
            raise FedReasonError(
                Code.REGISTRY_COLUMN,
                f"{export.name} does not have one column {name}; it {what}.",
                "Export all records and fields in REDCap as 'CSV / Microsoft Excel (raw data)': docs/redcap.md.",
            )
