"""A review at rest: `state/review/NAME.sqlite` of a site folder, for its owner alone. It holds patient data."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from sqlalchemy import JSON, URL, create_engine, delete, event, func, select, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from client.registry.folding import folded
from client.review.scale import AXES, SCALE, SIDES
from client.site.exclusions import read_exclusions
from common.errors import Code, FedReasonError
from common.identity.keys import private_folder
from common.sqlite import passing

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LOCK_SECONDS = 1.0
_WAIT_SECONDS = 30.0
"""For another rater's rating, or a report, on a slow disk."""


class _Base(DeclarativeBase):
    pass


class ReviewRow(_Base):
    """What is compared: the claim that another command must agree with, and the secret that keys every order."""

    __tablename__ = "review"
    id: Mapped[int] = mapped_column(primary_key=True)
    claim: Mapped[dict[str, Any]] = mapped_column(JSON)
    first: Mapped[str]
    second: Mapped[str]
    secret: Mapped[str]


class CaseRow(_Base):
    """A question about a held-out record; nothing is left of it but its number once the patient has opted out."""

    __tablename__ = "cases"
    number: Mapped[int] = mapped_column(primary_key=True)
    patient: Mapped[str]
    kind: Mapped[str]
    item: Mapped[str]
    record: Mapped[list[str]] = mapped_column(JSON)
    text: Mapped[str]
    choices: Mapped[list[str]] = mapped_column(JSON)
    truth: Mapped[str]
    withdrawn: Mapped[bool] = mapped_column(default=False)


class CompletionRow(_Base):
    """What one of the models answered to a case."""

    __tablename__ = "completions"
    case: Mapped[int] = mapped_column(primary_key=True)
    side: Mapped[str] = mapped_column(primary_key=True)
    text: Mapped[str]


class RatingRow(_Base):
    """What one rater said of one case: `answers` by axis as they were asked, below 0 where the left is better."""

    __tablename__ = "ratings"
    case: Mapped[int] = mapped_column(primary_key=True)
    rater: Mapped[str] = mapped_column(primary_key=True)
    left: Mapped[str]
    answers: Mapped[dict[str, int]] = mapped_column(JSON)
    comment: Mapped[str]
    skipped: Mapped[bool]
    at: Mapped[str]


_WITHDRAWN = select(CaseRow.number).where(CaseRow.withdrawn)


def review_folder(site: Path) -> Path:
    """Return where a site keeps its reviews."""
    return site / "state" / "review"


class ReviewStore:
    """Reads and writes one review; `made` and `opened` are the ways in."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._engine = create_engine(URL.create("sqlite", database=str(path)), connect_args={"timeout": _WAIT_SECONDS})
        event.listens_for(self._engine, "connect")(_prepare)
        self._opted_out: Callable[[], frozenset[str]] = frozenset
        self._gone: frozenset[str] | None = None

    @classmethod
    @contextmanager
    def made(cls, site: Path, name: str) -> Iterator[ReviewStore]:
        """Open a review for the one process that makes it; it need not be there.

        Raises
        ------
        FedReasonError
            RUN_LOCKED where another process makes it; REVIEW_DAMAGED where the file is no review.
        """
        path = _path(site, name)
        private_folder(path.parent)
        lock = FileLock(path.with_suffix(".lock"), mode=0o600)
        try:
            lock.acquire(timeout=_LOCK_SECONDS)
        except Timeout:
            raise FedReasonError(
                Code.RUN_LOCKED, f"Another process makes the review {path}.", "Wait for it, or stop it."
            ) from None
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            store = cls(path)
            with store._session():
                _Base.metadata.create_all(store._engine)
            try:
                yield store
            finally:
                store._engine.dispose()
        finally:
            lock.release()

    @classmethod
    @contextmanager
    def opened(cls, site: Path, name: str, *, required: bool, column: str | None = None) -> Iterator[ReviewStore]:
        """Open a review that was made; whoever has opted out since is no part of it any more.

        `required` and `column` are those of `read_exclusions`.

        Raises
        ------
        FedReasonError
            REVIEW_MISSING where there is none, or the models have not answered all of it; REVIEW_DAMAGED.
        """
        path = _path(site, name)
        there = sorted(one.stem for one in path.parent.glob("*.sqlite"))
        if not path.exists():
            raise FedReasonError(
                Code.REVIEW_MISSING,
                f"There is no review {path}.",
                f"There are: {', '.join(there)}." if there else "Make one: see `python -m client review --help`.",
            )
        path.chmod(0o600)
        store = cls(path)
        try:
            store._require_answers()
            store._opted_out = partial(read_exclusions, site, required=required, column=column)
            store.renew()
            yield store
        finally:
            store._engine.dispose()

    def _require_answers(self) -> None:
        done, total = self.progress()
        if not total or done < total:
            raise FedReasonError(
                Code.REVIEW_MISSING,
                f"The models have given {done} of {total} answers of the review {self.path}.",
                "Give the command that makes it once more: it goes on where it ended.",
            )
        if self.review() is None or not {row.case for row in self.ratings()} <= self.numbers().keys():
            raise self._damaged("what belongs together is not there")

    def _damaged(self, why: str) -> FedReasonError:
        return FedReasonError(
            Code.REVIEW_DAMAGED,
            f"{self.path} cannot be read or written as a review ({why}).",
            "Put it back from a backup; or move it away, and make the review anew.",
        )

    @contextmanager
    def _session(self) -> Iterator[Session]:
        """Begin what is done whole or not at all, and survives a crash once it is done."""
        try:
            with Session(self._engine, expire_on_commit=False) as session, session.begin():
                yield session
        except (DBAPIError, ValueError) as error:  # the latter of a cell that should be JSON
            cause = error.orig if isinstance(error, DBAPIError) else error
            raise passing(cause, self.path) or self._damaged(type(cause).__name__) from None

    # --- Made ---

    def review(self) -> ReviewRow | None:
        """Return what is compared, None before anything is."""
        with self._session() as session:
            return session.get(ReviewRow, 1)

    def begin(self, review: ReviewRow, cases: Sequence[CaseRow]) -> None:
        """Write what is compared, and on which cases."""
        with self._session() as session:
            session.add_all([review, *cases])

    def answered(self, side: str, texts: Mapping[int, str]) -> None:
        """Write the answers of one model to some cases."""
        with self._session() as session:
            for case, text in texts.items():
                session.merge(CompletionRow(case=case, side=side, text=text))

    def progress(self) -> tuple[int, int]:
        """Return how many answers there are to cases that were not withdrawn, and of how many."""
        there = select(CaseRow.number).where(~CaseRow.withdrawn)
        with self._session() as session:
            known = CompletionRow.case.in_(there), CompletionRow.side.in_(SIDES)
            answers = session.scalar(select(func.count()).where(*known))
            cases = session.scalar(select(func.count()).select_from(there.subquery()))
            return int(answers or 0), len(SIDES) * int(cases or 0)

    def renew(self) -> None:
        """Erase those who opted out since the review was opened or this was last asked for."""
        gone = self._opted_out()
        if gone != self._gone:
            self.withdraw(gone)
            self._gone = gone

    def withdraw(self, gone: frozenset[str]) -> int:
        """Erase the cases of those who opted out, with what was said of them; return how many there were."""
        with self._session() as session:
            everyone = session.execute(select(CaseRow.number, CaseRow.patient).where(~CaseRow.withdrawn))
            theirs = [number for number, patient in everyone if folded(patient) in gone]
            if theirs:
                nothing = {"patient": "", "item": "", "record": [], "text": "", "choices": [], "truth": ""}
                erased = update(CaseRow).where(CaseRow.number.in_(theirs))
                session.execute(erased.values(**nothing, kind="", withdrawn=True))
                session.execute(update(CompletionRow).where(CompletionRow.case.in_(theirs)).values(text=""))
            session.execute(delete(RatingRow).where(RatingRow.case.in_(_WITHDRAWN)))
            return len(theirs)

    # --- Read and rated ---

    def numbers(self) -> dict[int, bool]:
        """Return the numbers of the cases, and whether each is still there."""
        with self._session() as session:
            rows = session.execute(select(CaseRow.number, CaseRow.withdrawn).order_by(CaseRow.number))
            return {number: not withdrawn for number, withdrawn in rows}

    def case(self, number: int) -> CaseRow:
        """Return one case."""
        with self._session() as session:
            return session.scalars(select(CaseRow).where(CaseRow.number == number)).one()

    def cases(self) -> dict[int, CaseRow]:
        """Return the cases by number."""
        with self._session() as session:
            return {row.number: row for row in session.scalars(select(CaseRow).order_by(CaseRow.number))}

    def completions(self, case: int | None = None) -> dict[tuple[int, str], str]:
        """Return the answers by case and side; `case` asks for one alone."""
        wanted = select(CompletionRow)
        if case is not None:
            wanted = wanted.where(CompletionRow.case == case)
        with self._session() as session:
            return {(row.case, row.side): row.text for row in session.scalars(wanted)}

    def ratings(self, rater: str | None = None) -> list[RatingRow]:
        """Return what was said, by case and rater; `rater` asks for one alone.

        Raises
        ------
        FedReasonError
            REVIEW_DAMAGED where a row holds what no page writes.
        """
        wanted = select(RatingRow).order_by(RatingRow.case, RatingRow.rater)
        if rater is not None:
            wanted = wanted.where(RatingRow.rater == rater)
        with self._session() as session:
            found = list(session.scalars(wanted))
        if not all(map(_is_rating, found)):
            raise self._damaged("a rating is none")
        return found

    def rate(
        self, case: int, rater: str, left: str, answers: Mapping[str, int], comment: str, *, skipped: bool = False
    ) -> None:
        """Write what a rater says of a case, in place of what they said before; it is on disk when this returns."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        said = {"left": left, "answers": dict(answers), "comment": comment, "skipped": skipped, "at": at}
        row = insert(RatingRow).values(case=case, rater=rater, **said)
        with self._session() as session:
            session.execute(row.on_conflict_do_update(index_elements=["case", "rater"], set_=said))


def _is_rating(row: RatingRow) -> bool:
    scale, answers = [*SCALE], row.answers
    return row.left in SIDES and isinstance(answers, dict) and all(a in AXES and v in scale for a, v in answers.items())


def _prepare(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA secure_delete=ON")


def _path(site: Path, name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise FedReasonError(
            Code.REVIEW_MISSING,
            "A review's name has 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-', and begins with a letter or digit.",
            "Choose another name.",
        )
    return review_folder(site) / f"{name}.sqlite"
