"""What a run store holds, read without changing anything, also while the run goes on."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

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
    """Everything that a run store holds, in order."""

    rounds: Sequence[RoundRow]
    evaluations: Sequence[EvaluationRow]
    looks: Sequence[Look] = ()

    def until(self, number: int) -> RunRows:
        """Return what is of the adapter after a round; of later ones only the looks at what was taken back."""
        return RunRows(
            [row for row in self.rounds if row.round <= number],
            [row for row in self.evaluations if row.round <= number],
            [look for look in self.looks if look.round <= number or look.back_to is not None],
        )

    @property
    def sites(self) -> list[str]:
        """Every site that contributed, refused or was evaluated."""
        named = {site for row in self.rounds for site in (*row.sites, *row.refused)}
        return sorted(named | {row.site for row in self.evaluations})


def read_rows(folder: Path) -> RunRows:
    """Read a run's rows, but for what its stages took.

    Raises
    ------
    FedReasonError
        Where the folder holds no run, or its database cannot be read.
    """
    with _reading(folder) as session:
        return RunRows(
            list(session.scalars(select(RoundRow).order_by(RoundRow.round))),
            list(session.scalars(select(EvaluationRow).order_by(EvaluationRow.round, EvaluationRow.site))),
            looks_of(_kept(session, LookRow), _kept(session, FallRow)),
        )


def read_stages(folder: Path) -> list[Stages]:
    """Read what the stages of each round took; raises as `read_rows`."""
    with _reading(folder) as session:
        return [stages_of(row.stages) for row in sorted(_kept(session, StagesRow), key=lambda row: row.round)]


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
