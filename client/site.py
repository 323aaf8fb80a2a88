"""A site's own files: site.toml says where its registry and codebook are and which metrics may leave."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from common.errors import Code
from common.toml import Strict, read_toml, validated


class RegistryConfig(Strict):
    """Where the registry is; the path is relative to the site folder."""

    path: Path


class SiteConfig(Strict):
    """Content of site.toml.

    `metrics` "none" lets no count leave; "plain" sends reward and accuracy counts and is for simulations, where
    nothing leaves the machine.
    """

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9._-]+$")
    codebook: Path = Path("codebook.toml")
    registry: RegistryConfig
    metrics: Literal["none", "plain"] = "none"
    device: str = "auto"
    threads: int | None = Field(default=None, ge=1)


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
    registry = site.registry.model_copy(update={"path": folder / site.registry.path})
    return site.model_copy(update={"codebook": folder / site.codebook, "registry": registry})
