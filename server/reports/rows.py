"""What a run store holds, read without changing anything, also while the run goes on."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sqlalchemy import create_engine, inspect, select
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from common.errors import Code, FedReasonError
from server.reports.looks import Look, looks_of
from server.rounds.stages import Stages, read_stages
from server.rounds.store import EvaluationRow, FallRow, LookRow, RoundRow, StagesRow


@dataclass(frozen=True)
class RunRows:
    """Everything that a run store holds, in order."""

    rounds: Sequence[RoundRow]
    evaluations: Sequence[EvaluationRow]
    looks: Sequence[Look] = ()
    stages: Sequence[Stages] = ()

    @property
    def sites(self) -> list[str]:
        """Every site that contributed, refused or was evaluated."""
        named = {site for row in self.rounds for site in (*row.sites, *row.refused)}
        return sorted(named | {row.site for row in self.evaluations})


def read_rows(folder: Path) -> RunRows:
    """Read a run's rows without changing anything, also while the run goes on.

    Raises
    ------
    FedReasonError
        Where the folder holds no run, or its database cannot be read.
    """
    path = folder / "rounds.sqlite"
    if not path.exists():
        raise FedReasonError(Code.CONFIG_MISSING, f"{path} does not exist.", "Name the folder of a started run.")
    connect = partial(sqlite3.connect, f"{path.resolve().as_uri()}?mode=ro", uri=True)
    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)
    try:
        with Session(engine, expire_on_commit=False) as session:
            known = set(inspect(session.connection()).get_table_names())
            looks = list(session.scalars(select(LookRow))) if LookRow.__tablename__ in known else []
            falls = list(session.scalars(select(FallRow))) if FallRow.__tablename__ in known else []
            stages = (
                list(session.scalars(select(StagesRow).order_by(StagesRow.round)))
                if StagesRow.__tablename__ in known
                else []
            )
            return RunRows(
                list(session.scalars(select(RoundRow).order_by(RoundRow.round))),
                list(session.scalars(select(EvaluationRow).order_by(EvaluationRow.round, EvaluationRow.site))),
                looks_of(looks, falls),
                [read_stages(row.stages) for row in stages],
            )
    except DatabaseError:
        raise FedReasonError(Code.RUN_CHECKPOINT, f"{path} cannot be read.", "Put it back from a backup.") from None
