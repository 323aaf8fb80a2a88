"""Where a site's registry is and how its cells are written: `[registry]` of site.toml."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from client.registry.omop.config import OmopConfig
from client.registry.redcap.config import RedcapConfig
from client.registry.times import form_of, zone_of
from common.toml import Strict


def _codec(name: str) -> str:
    try:
        codecs.lookup(name)
    except LookupError:
        raise ValueError(f"there is no encoding {name!r}; try utf-8, latin-1, cp1252 or cp949") from None
    return name


class SourceConfig(Strict):
    """Where a table is: a file, its path relative to the site folder, or a query on a database.

    `decimal` and `thousands` say how numbers are written that are given as text. `header_row` and `header_rows`, the
    first row of names and how many there are, belong to files, `encoding` to CSV files; `sheet`, and whether the table
    goes on below `blank_rows`, to workbooks. `url_variable` names the environment variable with the database's
    URL: no password stands in this file.
    """

    path: Path | None = None
    encoding: Annotated[str, AfterValidator(_codec)] = "utf-8"
    decimal: Literal[".", ","] = "."
    thousands: Literal[",", ".", "'", " "] | None = None
    sheet: str | None = None
    header_row: int = Field(default=1, ge=1)
    header_rows: int = Field(default=1, ge=1, le=5)
    blank_rows: Literal["end", "skip"] = "end"
    url_variable: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    query: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.url_variable is None):
            raise ValueError("either path or url_variable names the registry")
        if (self.url_variable is None) == self._has_query:
            raise ValueError("url_variable and what is asked of the database belong together")
        if self.thousands == self.decimal:
            raise ValueError("thousands and decimal are different signs")
        return self

    @property
    def _has_query(self) -> bool:
        return self.query is not None


class SeriesConfig(SourceConfig):
    """The table of time-stamped values: one value a row.

    `record` is its column with the codebook's `record`, or with its `patient` where there is none; `items` says which
    feature an item stands for. Rows of other items are passed over. `times` says what numbers in the time's column
    count, or how its texts are written; `timezone` is where times without a zone were taken.
    """

    record: str = Field(min_length=1)
    time: str = Field(min_length=1)
    times: Annotated[str, AfterValidator(form_of)] | None = None
    timezone: Annotated[str, AfterValidator(zone_of)] | None = None
    item: str = Field(min_length=1)
    value: str = Field(min_length=1)
    items: dict[str, str] = Field(min_length=1)


class RegistryConfig(SourceConfig):
    """Where the registry is, and what only this site's has: `ignored` names columns that the codebook does not know.

    `missing` has, by feature, what means here that there is no value, beside the codebook's own codes.
    `redcap` makes one row a patient of a REDCap export, `omop` of an OMOP database, `series` adds values with times.
    """

    ignored: tuple[str, ...] = ()
    missing: dict[str, tuple[str, ...]] = {}
    series: SeriesConfig | None = None
    redcap: RedcapConfig | None = None
    omop: OmopConfig | None = None

    @property
    def _has_query(self) -> bool:
        return (self.query is None) != (self.omop is None)

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if self.redcap is not None and self.path is None:
            raise ValueError("redcap belongs to an export: path")
        if self.omop is not None and (self.decimal != "." or self.thousands):
            raise ValueError("decimal and thousands belong to numbers given as text; an OMOP CDM has none")
        return self
