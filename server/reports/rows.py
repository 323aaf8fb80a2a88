"""What a run store holds, read without changing anything, also while the run goes on."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError, safe_open
from sqlalchemy import create_engine, inspect, select
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from common.errors import Code, FedReasonError
from server.reports.looks import Look, looks_of
from server.rounds.stages import Stages, stages_of
from server.rounds.store import EvaluationRow, FallRow, LookRow, RoundRow, StagesRow, unusable

_Row = TypeVar("_Row", LookRow, FallRow, StagesRow)


@dataclass(frozen=True)
class RunRows:
    """What a run store holds of the rounds that are finished, in order."""

    rounds: Sequence[RoundRow]
    evaluations: Sequence[EvaluationRow]
    looks: Sequence[Look] = ()

    def until(self, number: int) -> RunRows:
        """Return what is of the adapter after a round; of later ones only the looks at what was taken back."""
        return RunRows(
            [row for row in self.rounds if row.round <= number],
            [row for row in self.evaluations if row.round <= number],
            tuple(look for look in self.looks if look.round <= number or look.back_to is not None),
        )

    @property
    def sites(self) -> list[str]:
        """Every site that contributed, refused or was evaluated, if only in what was taken back."""
        named = {site for row in self.rounds for site in (*row.sites, *row.refused)}
        return sorted(named.union((row.site for row in self.evaluations), *(look.undone for look in self.looks)))


def read_rows(folder: Path) -> RunRows:
    """Read a run's rows, but for what its stages took: those of the rounds that its checkpoint holds.

    Raises
    ------
    FedReasonError
        Where the folder holds no run, or its database cannot be read.
    """
    with _reading(folder) as session:
        found = RunRows(
            list(session.scalars(select(RoundRow).order_by(RoundRow.round))),
            list(session.scalars(select(EvaluationRow).order_by(EvaluationRow.round, EvaluationRow.site))),
            looks_of(_kept(session, LookRow), _kept(session, FallRow)),
        )
    last = finished(folder)
    return found if last is None else found.until(last)


def finished(folder: Path) -> int | None:
    """Return the last round that a run's checkpoint holds, None where there is none to read.

    Rows of later rounds are of one under way, of one that ended in an error, or of what the guard took back: `run`
    forgets them when it goes on.
    """
    try:
        with safe_open(folder / "checkpoint.safetensors", framework="numpy") as file:
            return int(file.metadata()["round"])
    except (SafetensorError, OSError, LookupError, ValueError, TypeError):
        return None


def read_stages(folder: Path) -> list[Stages]:
    """Read what the stages of each finished round took; raises as `read_rows`."""
    with _reading(folder) as session:
        rows, last = sorted(_kept(session, StagesRow), key=lambda row: row.round), finished(folder)
    return [stages_of(row.stages) for row in rows if last is None or row.round <= last]


def _kept(session: Session, table: type[_Row]) -> list[_Row]:
    """Return the rows of a table; none where a version before made the store."""
    known = inspect(session.connection()).has_table(table.__tablename__)
    return list(session.scalars(select(table))) if known else []


@contextmanager
def _reading(folder: Path) -> Iterator[Session]:
    """Look at a run's store without changing anything, also while the run goes on."""
    path = folder / "rounds.sqlite"
    if not path.exists():
        raise FedReasonError(Code.CONFIG_MISSING, f"{path} does not exist.", "Name the folder of a started run.")
    connect = partial(sqlite3.connect, f"{path.resolve().as_uri()}?mode=ro", uri=True)
    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)
    try:
        with Session(engine, expire_on_commit=False) as session:
            yield session
    except DatabaseError as error:
        raise unusable(error, path) from None
