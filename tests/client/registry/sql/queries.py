"""What the tests of queries share: secrets to look for, a table as long as it takes to see it stream."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import URL, Engine, NullPool, create_engine

from client.registry.table import Table
from common.errors import FedReasonError

SENTINEL = "Q7ZSENTINEL"
PASSWORD = "p4ssSENTINEL"
VARIABLE = "REGISTRY_URL"

Read = Callable[[str | URL, str], Table]
Refusal = Callable[[str | URL, str], FedReasonError]


ROWS = 200_000


def grown(table: Table) -> float:
    """Megabytes by which this process grows while it takes the rows one after another."""

    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

    before = most = resident()
    place = 0
    for place, _ in table.rows:
        if place % 1000 == 0:
            most = max(most, resident())
    assert place == ROWS
    return most - before


def admin(url: URL) -> Engine:
    return create_engine(url, poolclass=NullPool)
