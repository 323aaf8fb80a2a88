"""A site's registry, read and held against the codebook: light, so that what is wrong with it is told at once."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from client.registry.load import Registry, registry_from
from client.registry.numerals import Numerals
from client.registry.series import read_series
from client.registry.source import open_registry_source, open_source
from client.site.config import SiteConfig, load_site
from common.codebook import Codebook, load_codebook
from common.logs import logger

_log = logger("site")


@dataclass(frozen=True)
class Opened:
    """site.toml, the codebook and the patients."""

    config: SiteConfig
    codebook: Codebook
    registry: Registry


def open_registry(folder: Path) -> Opened:
    """Read the registry of a site folder and log what became of its cells, in counts."""
    config = load_site(folder)
    codebook = load_codebook(config.codebook)
    registry = read_registry(config, codebook)
    for line in registry.report.lines():
        _log.info("%s: %s", config.name, line)
    return Opened(config, codebook, registry)


def read_registry(config: SiteConfig, codebook: Codebook) -> Registry:
    """Read what site.toml names as the registry, with its series."""
    source, series = config.registry, None
    if source.series is not None:
        with closing(open_source(source.series)) as table:
            series = read_series(table, source.series, codebook, missing=source.missing)
    with closing(open_registry_source(source, codebook.columns, codebook.missing)) as table:
        return registry_from(
            table,
            codebook,
            numerals=Numerals(source.decimal, source.thousands),
            ignored=source.ignored,
            missing=source.missing,
            series=series,
        )
