"""A site's registry, read and held against the codebook: light, so that what is wrong with it is told at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from client.registry.load import Registry, registry_from
from client.registry.numerals import Numerals, absent_of
from client.registry.series import read_series
from client.registry.source import open_registry_source, open_source
from client.site.config import SiteConfig, load_site
from common.codebook import Codebook, load_codebook
from common.errors import Code, FedReasonError
from common.logs import logger, place_of

_log = logger("site")


@dataclass(frozen=True)
class Opened:
    """site.toml, the codebook and the patients.

    `state` is that of the registry's files before they were read; None where it cannot be told, as of a database.
    """

    config: SiteConfig
    codebook: Codebook
    registry: Registry
    state: tuple[int, ...] | None = None


def open_registry(folder: Path) -> Opened:
    """Read the registry of a site folder and log what became of its cells, in counts."""
    config = load_site(folder)
    return _opened(config, load_codebook(config.codebook))


def reopened(folder: Path, opened: Opened) -> Opened:
    """Return a registry as it is now: itself where its files are as they were, else read anew.

    Only the records are: what the codebook and site.toml say stays until the process starts again.
    """
    if opened.state is not None and opened.state == _state(opened.config):
        return opened
    _log.info("%s: the registry of %s is read again", opened.config.name, folder)
    return _opened(opened.config, opened.codebook)


def _opened(config: SiteConfig, codebook: Codebook) -> Opened:
    state = _state(config)
    registry = read_registry(config, codebook)
    for line in registry.report.lines():
        _log.info("%s: %s", config.name, line)
    return Opened(config, codebook, registry, state)


def _state(config: SiteConfig) -> tuple[int, ...] | None:
    """Return by what a change of the registry's files is noticed; None where a source is no file that can be seen."""
    source = config.registry
    paths = [part.path for part in (source, source.series) if part is not None]
    if source.redcap is not None:
        paths.append(source.redcap.dictionary)
    told: list[int] = []
    for path in paths:
        try:
            found = None if path is None else path.stat()
        except OSError:
            return None
        if found is None:
            return None
        told += (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return tuple(told)


@contextmanager
def reading_records() -> Iterator[None]:
    """Have whatever nobody foresaw while records are read refused by one number, as all that is wrong with them.

    Raises
    ------
    FedReasonError
        SITE_CLOSED in place of an exception that is none of ours; it says where, and nothing of what was read.
    """
    try:
        yield
    except FedReasonError:
        raise
    except Exception as error:
        raise FedReasonError(
            Code.SITE_CLOSED,
            f"The registry, or the list of those who opted out, cannot be read: unexpected {place_of(error)}.",
            "Look for what is unusual in the file named in site.toml, and report this line: it holds no value.",
        ) from None


def read_registry(config: SiteConfig, codebook: Codebook) -> Registry:
    """Read what site.toml names as the registry, with its series."""
    with reading_records():
        return _read(config, codebook)


def _read(config: SiteConfig, codebook: Codebook) -> Registry:
    source, series = config.registry, None
    if source.series is not None:
        with closing(open_source(source.series)) as table:
            series = read_series(table, source.series, codebook, missing=source.missing)
    numerals = Numerals(source.decimal, source.thousands)
    absent = {
        each.name: absent_of(each, codebook.missing, source.missing, numerals).__contains__
        for each in codebook.features
    }
    with closing(open_registry_source(source, codebook.columns, absent)) as table:
        return registry_from(
            table,
            codebook,
            numerals=numerals,
            ignored=source.ignored,
            missing=source.missing,
            series=series,
        )
