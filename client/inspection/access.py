"""Who else on this machine can read the records, or change what the site goes by: by the modes of files and folders.

Private keys are not looked at here: the preflight refuses those that others can enter (E703).
"""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import stat
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from client.policy.policy import POLICY_FILE
from client.policy.signature import OFFICER_KEY
from client.site.config import SiteConfig
from client.site.exclusions import EXCLUSIONS_FILE
from common.access import user_name
from common.identity.kit import CA

_EVERYBODY = "everybody on this machine"
_MOST_NAMED = 5
_UP = 3
"""By how much a group's bits stand above those of others."""


def exposed(folder: Path, config: SiteConfig) -> list[str]:
    """Return what others can read or change, each with what ends it; nothing where there are no modes."""
    if os.name != "posix":
        return []
    ours = {os.geteuid(), folder.stat().st_uid}
    records = [path for path in _records(folder, config) if path.exists()]
    rules = (folder / name for name in ("site.toml", POLICY_FILE, OFFICER_KEY, EXCLUSIONS_FILE, CA))
    changed = [path for path in dict.fromkeys((*rules, config.codebook, *records)) if path.exists()]
    return [
        *_told("can read", "-rwx", ((who, path) for path in records if (who := _readers(path, ours))), ours),
        *_told("can change", "-w", (("others", path) for path in changed if _written(path, ours)), ours),
        *_told("can replace what is in", "-w", _open_folders(changed, ours), ours),
    ]


def _records(folder: Path, config: SiteConfig) -> Iterator[Path]:
    """Yield the files that hold records, or say whom they are of."""
    sources = (config.registry, config.registry.series)
    yield from (source.path for source in sources if source is not None and source.path is not None)
    yield from (folder / EXCLUSIONS_FILE, folder / "state")


def _readers(path: Path, ours: Collection[int]) -> str:
    """Return who else can read a file or folder, "" where nobody can: all folders above it must let them in, too.

    Where others' bits do not, whoever is in the group of that file or folder goes by the group's.
    """
    own = path.stat()
    way = [(own, stat.S_IROTH), *((parent.stat(), stat.S_IXOTH) for parent in path.resolve().parents)]
    closed = {found.st_gid for found, bit in way if not found.st_mode & bit}
    if any(found.st_gid in closed and not found.st_mode & bit << _UP for found, bit in way):
        return ""
    if not all(_shared(group, {own.st_uid, *ours}) for group in closed):
        return ""
    return " and ".join(f"the group {_group_name(group)}" for group in sorted(closed)) or _EVERYBODY


def _written(path: Path, ours: Collection[int]) -> bool:
    """Whether others can write a file or folder."""
    found = path.stat()
    by_group = found.st_mode & stat.S_IWGRP and _shared(found.st_gid, {found.st_uid, *ours})
    return bool(found.st_mode & stat.S_IWOTH or by_group)


def _open_folders(paths: Sequence[Path], ours: Collection[int]) -> Iterator[tuple[str, Path]]:
    """Yield who can put another file in a path's place, and in which folder; the sticky bit forbids that."""
    owners = {path.stat().st_uid for path in paths}
    for folder in dict.fromkeys(chain.from_iterable(path.resolve().parents for path in paths)):
        found = folder.stat()
        if found.st_mode & stat.S_ISVTX:
            continue
        if found.st_mode & stat.S_IWOTH:
            yield _EVERYBODY, folder
        elif found.st_mode & stat.S_IWGRP and _shared(found.st_gid, {found.st_uid, *owners, *ours}):
            yield f"the group {_group_name(found.st_gid)}", folder


def _shared(group: int, owners: Collection[int]) -> bool:
    """Whether others than the owners and root are in a group, or that cannot be known.

    A group that was made with a user bears the user's name. Of another one, a directory need not tell the members.
    """
    try:
        found = grp.getgrgid(group)
        user = pwd.getpwnam(found.gr_name)
    except KeyError:
        return True
    members = {*found.gr_mem, *(each.pw_name for each in pwd.getpwall() if each.pw_gid == group)}
    return user.pw_gid != group or bool({*members, user.pw_name} - {user_name(owner) for owner in (0, *owners)})


def _group_name(group: int) -> str:
    try:
        return grp.getgrgid(group).gr_name
    except KeyError:
        return str(group)


def _told(what: str, bits: str, found: Iterable[tuple[str, Path]], ours: Collection[int]) -> Iterator[str]:
    """Yield a sentence for each who and owner, with the command that takes these bits from them.

    Of somebody else's file the command could take the site's own right with theirs: then its owner has to see to it.
    """
    alike: defaultdict[tuple[str, int | None], list[Path]] = defaultdict(list)
    for who, path in found:
        uid = path.stat().st_uid
        alike[who, None if uid in ours else uid].append(path)
    for (who, owner), paths in alike.items():
        named = ", ".join(map(str, paths[:_MOST_NAMED]))
        more = f" and {len(paths) - _MOST_NAMED} more" if len(paths) > _MOST_NAMED else ""
        whose = f"chmod {'o' if who == _EVERYBODY else 'go'}{bits} {shlex.join(map(str, paths[:_MOST_NAMED]))}"
        if owner is not None:
            whose = f"have {user_name(owner)}, whose it is, leave that to the account of this site alone"
        yield f"{who} {what} {named}{more}: {whose}"
