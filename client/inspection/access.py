"""Who else on this machine can read the records, or change what the site goes by: by the modes of files and folders.

Private keys are not looked at here: the preflight refuses those that others can enter (E703).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from client.policy.policy import POLICY_FILE
from client.policy.signature import OFFICER_KEY
from client.site.config import SiteConfig
from client.site.exclusions import EXCLUSIONS_FILE
from common.identity.kit import CA

_READ_BY_ALL, _WRITTEN_BY_OTHERS, _WRITTEN_BY_ALL = 0o004, 0o022, 0o002
_MOST_NAMED = 5


def exposed(folder: Path, config: SiteConfig) -> list[str]:
    """Return what others can read or change, each with the command that ends it; nothing where there are no modes."""
    if os.name != "posix":
        return []
    records = [path for path in _records(folder, config) if path.exists()]
    rules = (folder / name for name in ("site.toml", POLICY_FILE, OFFICER_KEY, EXCLUSIONS_FILE, CA))
    changed = [path for path in (*rules, config.codebook, *records) if path.exists()]
    return [
        *_told("everybody on this machine can read", "chmod o-rwx", (p for p in records if _readable(p))),
        *_told("others can change", "chmod go-w", (p for p in dict.fromkeys(changed) if _mode(p) & _WRITTEN_BY_OTHERS)),
        *_told("everybody can replace what is in", "chmod o-w", _open_folders(changed)),
    ]


def _records(folder: Path, config: SiteConfig) -> Iterator[Path]:
    """Yield the files that hold records, or say whom they are of."""
    sources = (config.registry, config.registry.series)
    yield from (source.path for source in sources if source is not None and source.path is not None)
    yield from (folder / EXCLUSIONS_FILE, folder / "state")


def _readable(path: Path) -> bool:
    """Whether everybody can read a file or folder: all of the folders above it must let them in, too."""
    return bool(_mode(path) & _READ_BY_ALL) and all(_mode(parent) & stat.S_IXOTH for parent in path.resolve().parents)


def _open_folders(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the folders in which everybody can put another file in a path's place; the sticky bit forbids that."""
    folders = dict.fromkeys(chain.from_iterable(path.resolve().parents for path in paths))
    for folder in folders:
        mode = _mode(folder)
        if mode & _WRITTEN_BY_ALL and not mode & stat.S_ISVTX:
            yield folder


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except OSError:
        return 0


def _told(what: str, command: str, paths: Iterable[Path]) -> list[str]:
    found = [str(path) for path in paths]
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    named = " ".join(found[:_MOST_NAMED])
    return [f"{what} {', '.join(found[:_MOST_NAMED])}{more}: {command} {named}"] if found else []
