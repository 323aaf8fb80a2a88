"""A site's own file: site.toml says where registry, codebook and coordinator are. policy.toml says what may leave."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import Field, field_validator, model_validator

from client.registry.config import RegistryConfig, SourceConfig
from common.config import FolderName
from common.errors import Code, FedReasonError
from common.toml import Strict, read_toml, validated

Rollouts = Literal["transformers", "vllm"]


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
    (http://host:port). `models` is the folder that a run's relative base model starts from. `hours` are the times of
    day at which the GPU may be used, such as "20:00-06:00"; none means always. `keep_contents` says of how many
    messages that left the content is kept on this machine's disk. `rollouts` says what completions are sampled by.
    `ledger` names another site folder that uses the same records: its ledger then counts for both. `exclusions` is
    about the list of opt-outs, `log` about the log of training. `devices` stands in place of `device` where several
    compute, each in a process of its own with so many `threads`.
    """

    name: FolderName
    federation: str | None = None
    coordinator: str | None = None
    proxy: str | None = None
    codebook: Path = Path("codebook.toml")
    models: Path = Path()
    registry: RegistryConfig
    device: str = "auto"
    devices: tuple[Annotated[str, Field(pattern=r"^(cpu|cuda:\d+)$")], ...] = ()
    threads: int | None = Field(default=None, ge=1)
    rollouts: Rollouts = "transformers"
    hours: tuple[Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$")], ...] = ()
    keep_contents: int = Field(default=20, ge=0)
    ledger: Path | None = None
    exclusions: ExclusionsConfig = ExclusionsConfig()
    log: LogConfig = LogConfig()

    @property
    def own_devices(self) -> tuple[str, ...]:
        """The devices of this machine, one or several."""
        return self.devices or (self.device,)

    @model_validator(mode="after")
    def _one_way_to_say_where(self) -> Self:
        if self.devices and self.device != "auto":
            raise ValueError("say device or devices, not both")
        if twice := [device for device in self.devices if device != "cpu" and self.devices.count(device) > 1]:
            raise ValueError(f"{twice[0]} stands there twice")
        if len(self.devices) > 1 and self.rollouts == "vllm":
            raise ValueError('rollouts = "vllm" samples on one device: say one, or rollouts = "transformers"')
        return self


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
    paths = {"codebook": folder / site.codebook, "models": folder / site.models.expanduser(), "ledger": ledger}
    return site.model_copy(update={**paths, "registry": registry})


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
