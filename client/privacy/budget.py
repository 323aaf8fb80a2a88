"""Which ledger a site charges: its own, or that of another site folder which uses the same records.

A registry is recognised by its place (a file's path; a database's host, port and name) and, where it is a file, by its
bytes.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from client.privacy.chain import LEDGER, Chain, ledger_folder, read_chain, site_keys
from client.privacy.claims import Claim, claim, require_unclaimed, witnesses
from client.privacy.ledger import Ledger
from client.privacy.takeover import has_own_lines, take_over
from client.site.anchor import ANCHOR, read_anchor, require_reaches
from client.site.config import SiteConfig, load_site
from common.errors import Code, FedReasonError

_HASHED = 2**28
_PORTS = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306, "mssql": 1433, "oracle": 1521}
_LIBPQ = {"host": "PGHOST", "port": "PGPORT", "dbname": "PGDATABASE"}
_HERE = "127.0.0.1"
_HOST_AND_PORT = re.compile(r"([^:/,]+):(\d+)")


def ledger_home(folder: Path, config: SiteConfig) -> Path:
    """Return the site folder whose ledger a site charges.

    Raises
    ------
    FedReasonError
        CONFIG_VALUE where site.toml names a folder that keeps no ledger of its own.
    """
    if config.ledger is None or config.ledger.resolve() == folder.resolve():
        return folder
    home = config.ledger.resolve()
    if not (home / "site.toml").is_file() or load_site(home).ledger is not None:
        raise FedReasonError(
            Code.CONFIG_VALUE,
            f"{folder / 'site.toml'}: ledger = {config.ledger} is no site folder with a ledger of its own.",
            "Name the site folder that first used this registry.",
        )
    return home


def open_ledger(folder: Path, config: SiteConfig) -> Ledger:
    """Open the ledger that a site charges, and write down that it counts for this site's registry.

    What the site spent in a ledger of its own, before it named another's, is charged to that one first. A simulated
    site has one as well, and claims nothing: its records are nobody's, or split over many.

    Raises
    ------
    FedReasonError
        LEDGER_OTHER where another ledger counts for the registry; all of `Ledger.opened`.
    """
    home = ledger_home(folder, config)
    if config.federation is None:
        return Ledger.opened(home)
    anchor = read_anchor(home / ANCHOR, site_keys(home))
    require_unclaimed(marks_of(config), None if anchor is None else anchor.ledger)
    ledger = Ledger.opened(home, witnesses())
    if home != folder:
        take_over(folder, ledger, witnesses())
    claim_registry(folder, config, ledger)
    return ledger


def claim_registry(folder: Path, config: SiteConfig, ledger: Ledger) -> None:
    """Write down that a ledger counts for a site's registry as it is now: its file may have been exported anew.

    Raises
    ------
    FedReasonError
        LEDGER_OTHER where another one does.
    """
    if config.federation is not None:
        claim(marks_of(config), Claim(ledger=ledger.name, site=ledger_home(folder, config)))


def require_ledger(folder: Path, config: SiteConfig) -> str:
    """Check what `open_ledger` would, without writing anything; returns what was seen, for a person."""
    home = ledger_home(folder, config)
    anchor = read_anchor(home / ANCHOR, site_keys(home))
    require_unclaimed(marks_of(config), None if anchor is None else anchor.ledger)
    told = f"{len(_whole(home).entries):,} lines"
    if home == folder:
        return told
    own = f"; what {folder} spent in its own is charged there" if has_own_lines(folder) and _whole(folder) else ""
    return f"{told}, of {home}{own}"


def _whole(home: Path) -> Chain:
    """Read the ledger of a site folder, which must go as far as its anchors saw it; nothing is written."""
    keys = site_keys(home)
    anchor = read_anchor(home / ANCHOR, keys)
    chain = read_chain(ledger_folder(home), keys)
    if anchor is not None:
        outside = witnesses() / f"{anchor.ledger}.json"
        for path, seen in ((home / ANCHOR, anchor), (outside, read_anchor(outside, keys))):
            if seen is not None:
                require_reaches(chain.heads, seen.head, ledger_folder(home) / LEDGER, str(path))
    return chain


def marks_of(config: SiteConfig) -> Iterator[str]:
    """Yield what a site's registry, and its series, are recognised by; no value of a record is in it."""
    for source in (config.registry, config.registry.series):
        if source is None:
            continue
        if source.path is not None:
            yield f"path:{os.path.realpath(source.path)}"
            try:
                yield f"content:{_content(source.path)}"
            except OSError:
                continue
        elif url := os.environ.get(source.url_variable or "", "").strip():
            yield from (f"database:{name}" for name in _database(url))


def _content(path: Path) -> str:
    """Return the size of a file and the hash of its bytes, of a very large one's first."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        left = min(size, _HASHED)
        while left > 0 and (part := file.read(min(left, 2**20))):
            digest.update(part)
            left -= len(part)
    return f"{size}:{digest.hexdigest()}"


def _database(url: str) -> list[str]:
    """Name a database without the account and the driver: two ways to log in lead to the same records.

    A socket, and no host at all, are this machine; where the program was started tells which file of SQLite it is, and
    nothing else. It used to name this machine's other databases as well: that mark counts beside the new one.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return [hashlib.sha256(url.encode()).hexdigest()]
    kind, query = parsed.get_backend_name(), parsed.normalized_query
    if kind == "sqlite":
        return [f"{kind}:{os.path.realpath((parsed.database or '').removeprefix('file:'))}"]

    def told(key: str, stated: object) -> str:
        """Return what the driver takes: of the options, of the URL, of libpq's environment."""
        environment = os.environ.get(_LIBPQ[key], "") if kind == "postgresql" else ""
        return ",".join(query.get(key, ())) or str(stated or "") or environment

    host, port, name = told("host", parsed.host).lower(), told("port", parsed.port), told("dbname", parsed.database)
    if one := _HOST_AND_PORT.fullmatch(host):
        host, port = one.groups()
    before = [f"{kind}:{os.path.realpath(name)}"] if name and not (host or port) else []
    place = _HERE if host in ("", "localhost", "::1") or host.startswith(("/", "@")) else host
    return [f"{kind}:{place}:{port or _PORTS.get(kind)}:{name}", *before]
