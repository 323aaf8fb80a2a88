"""A run's folder: rounds in `rounds.sqlite`, adapter and optimizer in a checkpoint that is replaced atomically."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from sqlalchemy import JSON, URL, create_engine, delete, event, select
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from common.arrays import Vector, adapter_of
from common.cli import disk_full, is_disk_full
from common.config import RunConfig
from common.errors import Code, FedReasonError
from common.identity.keys import sync_folder
from common.sqlite import passing
from server.rounds.attempts import FILE as ATTEMPTS
from server.rounds.attempts import begun
from server.rounds.claim import ANEW, claim_text, require_same
from server.rounds.claim import FILE as CLAIM

_LOCK_SECONDS = 15.0


class _Base(DeclarativeBase):
    pass


class RoundRow(_Base):
    """One finished round: who replied, what moved, the adapter after it."""

    __tablename__ = "rounds"
    round: Mapped[int] = mapped_column(primary_key=True)
    seconds: Mapped[float]
    sites: Mapped[list[str]] = mapped_column(JSON)
    refused: Mapped[dict[str, int]] = mapped_column(JSON)
    bytes_up: Mapped[int]
    bytes_down: Mapped[int]
    counts: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    gradient_norm: Mapped[float]
    adapter_sha256: Mapped[str]


class EvaluationRow(_Base):
    """Held-out counts of one site after one round (round 0: before training)."""

    __tablename__ = "evaluations"
    round: Mapped[int] = mapped_column(primary_key=True)
    site: Mapped[str] = mapped_column(primary_key=True)
    counts: Mapped[dict[str, Any]] = mapped_column(JSON)


class StagesRow(_Base):
    """What each stage of a round took, by site (`server.rounds.stages`); none of a round of a version before."""

    __tablename__ = "stages"
    round: Mapped[int] = mapped_column(primary_key=True)
    stages: Mapped[dict[str, Any]] = mapped_column(JSON)


class LookRow(_Base):
    """What the guard found of an adapter that it let pass: the shares that sites agreed on, and the counts of each."""

    __tablename__ = "looks"
    round: Mapped[int] = mapped_column(primary_key=True)
    shares: Mapped[dict[str, float]] = mapped_column(JSON)
    counts: Mapped[dict[str, Any]] = mapped_column(JSON)
    disagreeing: Mapped[list[str]] = mapped_column(JSON)


class FallRow(_Base):
    """An adapter that the guard took back: its shares, the best ones that were lost, and who took part since `back_to`.

    `counts` are what each site said of it; empty where no site would compute with it. `sites` says how many rounds and
    evaluations that were taken back hold each site's part; a version before named those of the rounds alone.
    """

    __tablename__ = "falls"
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    round: Mapped[int]
    back_to: Mapped[int]
    shares: Mapped[dict[str, float]] = mapped_column(JSON)
    lost: Mapped[dict[str, float]] = mapped_column(JSON)
    counts: Mapped[dict[str, Any]] = mapped_column(JSON)
    disagreeing: Mapped[list[str]] = mapped_column(JSON)
    sites: Mapped[dict[str, list[int]] | list[str]] = mapped_column(JSON)


@dataclass(frozen=True)
class Checkpoint:
    """Where a run stands after `round`; `redone` says how often a later round was done and taken back."""

    round: int
    adapter: Vector
    optimizer: dict[str, NDArray[Any]]
    redone: dict[int, int] = field(default_factory=dict)


class RunStore:
    """Reads and writes one run folder; `opened` is the way in."""

    def __init__(self, folder: Path, config: RunConfig) -> None:
        self.folder, self.config = folder, config
        self._database = folder / "rounds.sqlite"
        self._engine = create_engine(URL.create("sqlite", database=str(self._database)))
        event.listen(self._engine, "connect", _use_full_sync)
        with self._session() as session:
            _Base.metadata.create_all(session.connection())

    @classmethod
    @contextmanager
    def opened(cls, folder: Path, config: RunConfig) -> Iterator[RunStore]:
        """Open a run folder for this process alone.

        Raises
        ------
        FedReasonError
            Where another process works in it, or it belongs to another configuration.
        """
        with locked(folder):
            _claim(folder, config)
            store = cls(folder, config)
            try:
                yield store
            finally:
                store._engine.dispose()

    @contextmanager
    def _session(self) -> Iterator[Session]:
        """Work with the database; what is written stays where nothing goes wrong.

        Raises
        ------
        FedReasonError
            Where there is no space, another program holds the database, or it is damaged.
        """
        try:
            with Session(self._engine, expire_on_commit=False) as session, session.begin():
                yield session
        except DatabaseError as error:
            if type(error) not in (DatabaseError, OperationalError):
                raise
            raise unusable(error, self._database) from None

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    @property
    def _good(self) -> Path:
        return self.folder / "good.safetensors"

    def save(self, checkpoint: Checkpoint, *, good: bool = False) -> None:
        """Replace the checkpoint, or the last good one; a crash leaves the old or the new one, never a torn one.

        Raises
        ------
        FedReasonError
            Where there is no space; the old one stays.
        """
        tensors: dict[str, NDArray[Any]] = {"adapter": checkpoint.adapter}
        tensors |= {f"optimizer.{name}": value for name, value in checkpoint.optimizer.items()}
        about = {"round": str(checkpoint.round), "config": self.config.sha256, "redone": json.dumps(checkpoint.redone)}
        content, path = save(tensors, metadata=about), self._good if good else self._checkpoint
        fresh = path.with_suffix(".new")
        try:
            fresh.write_bytes(content)
            replace_durably(fresh, path)
        except OSError as error:
            fresh.unlink(missing_ok=True)
            if is_disk_full(error):
                raise disk_full(error) from None
            raise

    def load(self) -> Checkpoint | None:
        """Return the last checkpoint, None before the first, and forget rounds recorded after it.

        Raises
        ------
        FedReasonError
            Where the file is damaged, or belongs to another configuration; as `record` does.
        """
        if not self._checkpoint.exists():
            return None
        found = self._read(self._checkpoint)
        with self._session() as session:
            for row in (RoundRow, EvaluationRow, LookRow, StagesRow):
                session.execute(delete(row).where(row.round > found.round))
            falls = list(session.scalars(select(FallRow).order_by(FallRow.number)))
            if falls:  # the last may have been written down, and the run not put back
                last = falls.pop()
                again = sum(fall.back_to < last.round <= fall.round for fall in falls)
                if again >= found.redone.get(last.round, 0):
                    session.delete(last)
        return found

    def _read(self, path: Path) -> Checkpoint:
        try:
            with safe_open(path, framework="numpy") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                about = file.metadata()
            number, of = int(about["round"]), about["config"]
            redone = {int(again): int(times) for again, times in json.loads(about.get("redone", "{}")).items()}
            adapter = adapter_of(tensors.pop("adapter"))
        except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError):
            raise FedReasonError(
                Code.RUN_CHECKPOINT,
                f"{path} is damaged.",
                f"Put it back from a backup, or {ANEW}",
            ) from None
        if of != self.config.sha256:
            raise FedReasonError(
                Code.RUN_OTHER_CONFIG,
                f"{path} is of another configuration ({of[:12]}, now {self.config.sha256[:12]}).",
                "Put back the checkpoint of this run.",
            )
        state = {name.removeprefix("optimizer."): value for name, value in tensors.items()}
        return Checkpoint(number, adapter, state, redone)

    def good(self) -> Checkpoint:
        """Return the last checkpoint that the guard let pass; refuses as `load` does."""
        return self._read(self._good)

    def go_back(self, fall: FallRow, redone: Mapping[int, int]) -> None:
        """Make the last good checkpoint the present one, in one step; the rounds since are redone.

        Raises
        ------
        FedReasonError
            As `load` and `save` do.
        """
        good, number = self.good(), fall.round
        self.record(fall)
        again = dict(redone) | {each: redone.get(each, 0) + 1 for each in range(good.round + 1, number + 1)}
        self.save(replace(good, redone=again))

    def begin_attempt(self, number: int) -> int:
        """Return which attempt at a secure sum of a round comes next, from 0; it counts as begun from now on.

        A round that is done again, because a later one was taken back, counts on.

        Raises
        ------
        FedReasonError
            Where there is no space, or nothing says which attempts were begun.
        """
        made = begun(self.folder)
        attempt = made.get(str(number), -1) + 1
        try:
            write_durably(self.folder / ATTEMPTS, json.dumps(made | {str(number): attempt}))
        except OSError as error:
            if is_disk_full(error):
                raise disk_full(error) from None
            raise
        return attempt

    def record(self, row: RoundRow | EvaluationRow | LookRow | FallRow | StagesRow) -> None:
        """Write one row, in place of one with the same key.

        Raises
        ------
        FedReasonError
            Where there is no space, another program holds the database, or it is damaged.
        """
        with self._session() as session:
            session.merge(row)

    def rounds(self) -> list[RoundRow]:
        """Return the rounds in order."""
        with self._session() as session:
            return list(session.scalars(select(RoundRow).order_by(RoundRow.round)))

    def evaluations(self) -> list[EvaluationRow]:
        """Return the evaluations by round and site."""
        with self._session() as session:
            return list(session.scalars(select(EvaluationRow).order_by(EvaluationRow.round, EvaluationRow.site)))

    def looks(self) -> list[LookRow]:
        """Return what the guard let pass, by round."""
        with self._session() as session:
            return list(session.scalars(select(LookRow).order_by(LookRow.round)))


def _use_full_sync(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA synchronous=FULL")


def unusable(error: DatabaseError, path: Path) -> FedReasonError:
    """Return the refusal for a database that cannot be used now, or not at all."""
    return passing(error.orig, path) or FedReasonError(
        Code.RUN_CHECKPOINT,
        f"{path} cannot be used ({getattr(error.orig, 'sqlite_errorname', type(error.orig).__name__)}).",
        f"Look at the disk and at who may write there. Put it back from a backup, or {ANEW}",
    )


def _claim(folder: Path, config: RunConfig) -> None:
    """Write the configuration on the first start; refuse the folder of another configuration."""
    if (folder / CLAIM).exists():
        require_same(folder, config)
    else:
        write_durably(folder / CLAIM, claim_text(config))


def write_durably(path: Path, text: str) -> None:
    """Write a text file so that a crash leaves the old content or the new, never part of it."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text, encoding="utf-8")
    replace_durably(fresh, path)


def replace_durably(fresh: Path, path: Path) -> None:
    """Flush `fresh` to disk and put it in place of `path`."""
    with fresh.open("rb") as file:
        os.fsync(file.fileno())
    fresh.replace(path)
    sync_folder(path.parent)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make a folder where there is none, and hold it for this process alone.

    Raises
    ------
    FedReasonError
        RUN_LOCKED where another process works in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=_LOCK_SECONDS)
    except Timeout:
        raise FedReasonError(
            Code.RUN_LOCKED, f"Another process works in {folder}.", "Wait for it, or stop it, then start again."
        ) from None
    try:
        yield
    finally:
        lock.release()
