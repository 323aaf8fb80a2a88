"""A federation's folder with runs in it, and its pages served from a thread of the test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.config import RunConfig
from common.web.accounts import Accounts
from server.dashboard.site import Site
from server.provisioning.federation import Federation
from tests.common.web.served import served
from tests.small import small_config

TOKEN = "a token for programs, as long as it takes"
PASSWORD = "four plain random words"


@dataclass
class Desk:
    """Pages that are served: the link of whoever started them, and who answers."""

    link: str
    site: Site
    told: list[str]

    @property
    def base(self) -> str:
        """Address of the first page, without the slash."""
        return self.link.partition("/enter")[0]


@contextmanager
def opened(federation: Federation, *, configs: Path | None = None) -> Iterator[Desk]:
    """Serve a federation's pages until the block is left."""
    accounts = Accounts(federation.folder / "dashboard-accounts.json")
    accounts.add("kim", PASSWORD)
    told: list[str] = []
    site = Site(federation, configs or federation.folder / "configs", told.append)
    with served(site.pages(accounts, TOKEN)) as link:
        try:
            yield Desk(link, site, told)
        finally:
            site.jobs.end()


def run_of(name: str, sites: int = 3, *, private: bool = False) -> RunConfig:
    """Return a run of some sites, fewer of which make the quorum."""
    federation = {"name": "fed", "sites": sites, "quorum": max(1, sites - 1), "deadline": 600.0}
    noise = {"privacy": {"clip_norm": 1.0, "noise_multiplier": 1.0, "delta": 1e-5}} if private else {}
    return small_config(Path("none"), name=name, federation=federation, **noise)
