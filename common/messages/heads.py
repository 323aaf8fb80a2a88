"""Heads of the sites' ledgers, by which the sites notice one that was rolled back.

Each site tells the head of its own ledger and the last it heard of every other; the coordinator passes on what was
told, and whoever finds more of its own ledger there than it has on its disk stops. A head is a count of releases and a
hash, and says nothing about patients.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import Field, TypeAdapter

MOST_SITES = 200
"""Most ledgers of which something is told or kept."""
_Name = Annotated[str, Field(min_length=1, max_length=64)]


class Head(NamedTuple):
    """Number and hash of the last line, for which the whole ledger stands."""

    sequence: Annotated[int, Field(ge=0, lt=2**53, strict=True)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


START = Head(0, "0" * 64)
"""Of a ledger without a line."""

Heads = Mapping[str, Head]
"""By the site whose ledger it is."""
Seen = Mapping[str, Heads]
"""By the site whose ledger it is, and the site that saw it."""

_HEADS: TypeAdapter[dict[str, Head]] = TypeAdapter(Annotated[dict[_Name, Head], Field(max_length=MOST_SITES)])
_SEEN: TypeAdapter[dict[str, dict[str, Head]]] = TypeAdapter(
    Annotated[dict[_Name, Annotated[dict[_Name, Head], Field(max_length=MOST_SITES)]], Field(max_length=MOST_SITES)]
)


def read_heads(value: Any) -> dict[str, Head]:
    """Return heads from parsed JSON; ValueError where it is something else."""
    return _HEADS.validate_python(value)


def read_seen(value: Any) -> dict[str, dict[str, Head]]:
    """Return what sites saw from parsed JSON; ValueError where it is something else."""
    return _SEEN.validate_python(value)


class Gathered:
    """What the sites have told in this run, for the next task.

    Parameters
    ----------
    roster
        Names of the sites whose ledgers are passed on, so that none fills the task with others; None for all.
    """

    def __init__(self, roster: Collection[str] | None = None) -> None:
        self._roster = roster
        self._seen: dict[str, dict[str, Head]] = {}

    def take(self, site: str, heads: Heads) -> None:
        """Keep what a site told; of each ledger, the last it saw."""
        for name, head in heads.items():
            if self._roster is not None and name not in self._roster:
                continue
            self._seen.setdefault(name, {})[site] = head

    def seen(self) -> Seen:
        """Return it, each head of a ledger once, with one site that saw it: the ledger's own where it did."""
        told = {}
        for name, seen in self._seen.items():
            by_head = {seen[site]: site for site in (*sorted(seen.keys() - {name}), *(seen.keys() & {name}))}
            told[name] = {site: head for head, site in by_head.items()}
        return told
