"""A site's own file: site.toml says where registry, codebook and coordinator are. policy.toml says what may leave."""

from __future__ import annotations

import codecs
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import AfterValidator, Field, field_validator, model_validator

from client.registry.omop.config import OmopConfig
from client.registry.redcap.config import RedcapConfig
from client.registry.times import form_of, zone_of
from common.errors import Code, FedReasonError
from common.toml import Strict, read_toml, validated


def _codec(name: str) -> str:
    try:
        codecs.lookup(name)
    except LookupError:
        raise ValueError(f"there is no encoding {name!r}; try utf-8, latin-1, cp1252 or cp949") from None
    return name


Rollouts = Literal["transformers", "vllm"]


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


class ExclusionsConfig(Strict):
    """What the list of patients who opted out is: `whole_hospital` where most of it is of nobody in the registry."""

    whole_hospital: bool = False


class LogConfig(Strict):
    """What the log of training at this site holds beside its lines; all of it stays here.

    `tensorboard` also writes event files. `completions` says of how many of a run's latest rounds the completions are
    kept: they are patient data.
    """

    tensorboard: bool = False
    completions: int = Field(default=0, ge=0)

    @field_validator("tensorboard")
    @classmethod
    def _installed(cls, value: bool) -> bool:
        if value and find_spec("tensorboard") is None:
            raise ValueError("the package tensorboard is not installed here: pip install 'fedreason[tensorboard]'")
        return value


class SiteConfig(Strict):
    """Content of site.toml.

    `federation` and `coordinator` (host:port) are absent in a simulation. `proxy` is an outbound HTTP proxy
    (http://host:port). `hours` are the times of day at which the GPU may be used, such as "20:00-06:00"; none means
    always. `keep_contents` says of how many messages that left the content is kept on this machine's disk. `rollouts`
    says what completions are sampled by. `ledger` names another site folder that uses the same records: its ledger then
    counts for both. `exclusions` is about the list of opt-outs, `log` about the log of training.
    """

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$")
    federation: str | None = None
    coordinator: str | None = None
    proxy: str | None = None
    codebook: Path = Path("codebook.toml")
    registry: RegistryConfig
    device: str = "auto"
    threads: int | None = Field(default=None, ge=1)
    rollouts: Rollouts = "transformers"
    hours: tuple[Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$")], ...] = ()
    keep_contents: int = Field(default=20, ge=0)
    ledger: Path | None = None
    exclusions: ExclusionsConfig = ExclusionsConfig()
    log: LogConfig = LogConfig()


_Source = TypeVar("_Source", bound=SourceConfig)


def load_site(folder: Path) -> SiteConfig:
    """Read `site.toml` of a site folder; its paths come back resolved against the folder.

    Raises
    ------
    FedReasonError
        Where it cannot be read, holds an unknown key or a bad value.
    """
    path = folder / "site.toml"
    table, text = read_toml(path, missing=Code.CONFIG_MISSING, syntax=Code.CONFIG_SYNTAX)
    site = validated(SiteConfig, table, path=path, text=text, unknown=Code.CONFIG_UNKNOWN_KEY, value=Code.CONFIG_VALUE)
    registry = _in_folder(site.registry, folder)
    if registry.series is not None:
        registry = registry.model_copy(update={"series": _in_folder(registry.series, folder)})
    if registry.redcap is not None:
        dictionary = folder / registry.redcap.dictionary
        registry = registry.model_copy(update={"redcap": registry.redcap.model_copy(update={"dictionary": dictionary})})
    ledger = None if site.ledger is None else folder / site.ledger.expanduser()
    return site.model_copy(update={"codebook": folder / site.codebook, "registry": registry, "ledger": ledger})


def _in_folder(source: _Source, folder: Path) -> _Source:
    return source if source.path is None else source.model_copy(update={"path": folder / source.path})


def require_source(config: SourceConfig) -> str:
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
