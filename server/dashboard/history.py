"""What a run's database holds, read while the run writes it, without a lock and without beginning anew each time.

SQLite's own readers take a lock that a writer waits for. Here the file is read as if nobody wrote it (`immutable`), and
what was read is thrown away where somebody did meanwhile: every commit changes the counter in the file's head, and
has its journal beside the file until it is done.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from server.reports.looks import Look, looks_of
from server.reports.rows import finished
from server.rounds.stages import Stages, stages_of
from server.rounds.store import EvaluationRow, FallRow, LookRow, RoundRow

T = TypeVar("T")
Stamp = tuple[int, int, bytes]
Held = tuple[int, int] | None
TRIES, PAUSE_SECONDS = 5, 0.02
_COUNTER = slice(24, 28)
_HEAD_BYTES = 100
SAME = "select seconds, adapter_sha256 from rounds where round = ?"
ROUNDS = (
    "select round, seconds, sites, refused, bytes_up, bytes_down, counts, gradient_norm, adapter_sha256 from rounds "
    "where round > ? order by round"
)
TOLD = "select round, json_group_array(site) from evaluations where round >= ? group by round"
COUNTS = "select site, counts from evaluations where round = ? order by site"
LOOKS = "select round, shares, counts, disagreeing from looks where round >= ? order by round"
FALLS = "select number, round, back_to, shares, lost, counts, disagreeing, sites from falls where number > ?"
NEWEST = "select max(number) from falls"
STAGES = "select round, stages from stages where round <= ? order by round desc limit ?"
_TABLES = "select name from sqlite_master where type = 'table'"


def stamp(path: Path, *, before: bool) -> Stamp | None:
    """Return what every commit changes; None where there is no database, or a commit is under way.

    The counter is read `before` the journal is looked for, or after it: a commit then shows in one of the two.
    """
    try:
        head = _head(path) if before else None
        if path.with_name(path.name + "-journal").exists():
            return None
        return head or _head(path)
    except OSError:
        return None


def _head(path: Path) -> Stamp | None:
    with path.open("rb") as file:
        about, head = path.stat(), file.read(_HEAD_BYTES)
    return (about.st_ino, about.st_size, head[_COUNTER]) if len(head) == _HEAD_BYTES else None


def _held(folder: Path) -> Held:
    """Return what every checkpoint changes; None where there is none."""
    try:
        about = (folder / "checkpoint.safetensors").stat()
    except OSError:
        return None
    return about.st_ino, about.st_mtime_ns


class Database:
    """A run's `rounds.sqlite`, which nobody who writes it notices being read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, what: Callable[[sqlite3.Connection], T]) -> tuple[T, Stamp] | None:
        """Return what is read and the state of the file that it is of; None where no whole state can be read now."""
        for attempt in range(TRIES if self.path.exists() else 0):
            if attempt:
                time.sleep(PAUSE_SECONDS)
            if (old := stamp(self.path, before=True)) is None:
                continue
            try:
                link = sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
                with closing(link):
                    found = what(link)
            except (sqlite3.Error, ValueError, TypeError, AttributeError):
                continue  # torn by a commit; or damaged, and then so at every attempt
            if stamp(self.path, before=False) == old:
                return found, old
        return None


class History:
    """Rounds, looks and evaluations of a run; `look` adds what is new, and forgets what the run took back.

    What is told is of the rounds that the run's checkpoint holds, as `server.reports.rows` tells it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self.run = folder, folder.name
        self._database = Database(folder / "rounds.sqlite")
        self._finished: int | None = None
        self._held: Held = None
        self.version = self.rows_read = 0
        self._forget()

    def _forget(self) -> None:
        self._stamp: Stamp | None = None
        self._rounds: list[RoundRow] = []
        self._evaluated: dict[int, tuple[str, ...]] = {}
        self._looks: list[LookRow] = []
        self._falls: list[FallRow] = []
        self._counts: dict[int, tuple[EvaluationRow, ...]] = {}

    def look(self) -> int:
        """Read what is new and return the version, which grows with every change."""
        if (held := _held(self._folder)) != self._held:
            self._held, self._finished, self.version = held, finished(self._folder), self.version + 1
        now = stamp(self._database.path, before=True)
        if now is None and self._stamp is not None:
            return self.version  # somebody writes: the next look will do
        if now is not None and self._stamp is not None and now[0] != self._stamp[0]:
            self._forget()  # another file: the run was begun from nothing
        if now != self._stamp or now is None:
            done = self._database.read(self._new)
            if done is not None:
                self._take(*done)
        return self.version

    @property
    def state(self) -> tuple[Stamp | None, Held]:
        """Return what every commit and checkpoint changes, None for what is not there or is written now."""
        return stamp(self._database.path, before=True), _held(self._folder)

    @property
    def read_at(self) -> tuple[Stamp, Held] | None:
        """Return the state that the rows are of; None where none could be read."""
        return None if self._stamp is None else (self._stamp, self._held)

    @property
    def unread(self) -> bool:
        """Whether there is a database and nothing of it could be read."""
        return self._stamp is None and self._database.path.exists()

    def _done(self, number: int) -> bool:
        return self._finished is None or number <= self._finished

    @property
    def rounds(self) -> list[RoundRow]:
        """The finished rounds, in order."""
        whole = not self._rounds or self._done(self._rounds[-1].round)
        return self._rounds if whole else [row for row in self._rounds if self._done(row.round)]

    @property
    def evaluated(self) -> dict[int, tuple[str, ...]]:
        """The sites that let their counts out, by finished round."""
        return {number: sites for number, sites in self._evaluated.items() if self._done(number)}

    @property
    def looks(self) -> tuple[Look, ...]:
        """What the guard saw, by round."""
        return looks_of([row for row in self._looks if self._done(row.round)], self._falls)

    @property
    def sites(self) -> list[str]:
        """Every site that contributed, refused or was evaluated, if only in what was taken back."""
        named = {site for row in self.rounds for site in (*row.sites, *row.refused)}
        return sorted(named.union(*self.evaluated.values(), *(look.undone for look in self.looks)))

    @property
    def told(self) -> Counter[str]:
        """How often each site let its counts out."""
        return Counter(site for sites in self.evaluated.values() for site in sites)

    def evaluations(self, numbers: Sequence[int]) -> list[EvaluationRow]:
        """Return the evaluations after some rounds; those that were read before are not read again."""
        missing = [number for number in numbers if number not in self._counts]
        if missing:
            done = self._database.read(lambda link: [_evaluations(link, number) for number in missing])
            self._counts |= dict(zip(missing, done[0], strict=True)) if done else {}
        found = [row for number in numbers for row in self._counts.get(number, ())]
        last = max(self._evaluated, default=0)
        self._counts = {number: rows for number, rows in self._counts.items() if number in numbers and number < last}
        return found

    def stages(self, count: int, last: int | None = None) -> list[tuple[int, Stages]]:
        """Return what the stages of the last rounds took, the last first; `last` in place of the last that is known."""
        if not self.rounds and last is None:
            return []
        until = self.rounds[-1].round if last is None else last
        done = self._database.read(lambda link: _stages_of(link, until, count))
        return done[0] if done else []

    def _new(self, link: sqlite3.Connection) -> tuple[int, dict[str, list[Any]]]:
        """Read how many of the rounds that are known still stand, and everything after them."""
        keep, step = len(self._rounds), 1
        while keep and not _stands(link, self._rounds[keep - 1]):
            keep, step = max(0, keep - step), 2 * step
        last = self._rounds[keep - 1].round if keep else 0
        known = {name for (name,) in link.execute(_TABLES)}
        (newest,) = link.execute(NEWEST).fetchone() if "falls" in known else (None,)
        falls = [fall for fall in self._falls if fall.number < (newest or 0)]  # what was written in vain is taken out
        return keep, {
            "rounds": [_round(row) for row in link.execute(ROUNDS, (last,))],
            "told": list(link.execute(TOLD, (last,))),
            "looks": [_look(row) for row in link.execute(LOOKS, (last,))] if "looks" in known else [],
            "falls": [_fall(row) for row in link.execute(FALLS, (falls[-1].number if falls else 0,))] if newest else [],
            "before": falls,
        }

    def _take(self, new: tuple[int, dict[str, list[Any]]], of: Stamp) -> None:
        keep, rows = new
        last = self._rounds[keep - 1].round if keep else 0
        went_back = keep < len(self._rounds)
        self._rounds = [*self._rounds[:keep], *rows["rounds"]]
        before = {number: sites for number, sites in self._evaluated.items() if number < last}
        told = {number: tuple(sorted(map(sys.intern, json.loads(sites)))) for number, sites in rows["told"]}
        self._evaluated = before | told
        if went_back:
            self._counts = {}
        self._counts = {number: kept for number, kept in self._counts.items() if number < last}
        self._looks = [row for row in self._looks if row.round < last] + rows["looks"]
        self._falls = [*rows.pop("before"), *rows["falls"]]
        self._stamp, self.version = of, self.version + 1
        self.rows_read += sum(map(len, rows.values()))


def _stands(link: sqlite3.Connection, row: RoundRow) -> bool:
    """Whether a round is still the one that is known; by the adapter's hash then all before it are, too."""
    return bool(link.execute(SAME, (row.round,)).fetchone() == (row.seconds, row.adapter_sha256))


def _evaluations(link: sqlite3.Connection, number: int) -> tuple[EvaluationRow, ...]:
    rows = link.execute(COUNTS, (number,))
    return tuple(EvaluationRow(round=number, site=site, counts=json.loads(counts)) for site, counts in rows)


def _stages_of(link: sqlite3.Connection, last: int, count: int) -> list[tuple[int, Stages]]:
    if "stages" not in {name for (name,) in link.execute(_TABLES)}:
        return []  # a version that did not keep them
    return [(number, stages_of(json.loads(text))) for number, text in link.execute(STAGES, (last, count))]


def _round(row: Sequence[Any]) -> RoundRow:
    number, seconds, sites, refused, up, down, counts, norm, sha256 = row
    return RoundRow(
        round=number,
        seconds=seconds,
        sites=[sys.intern(site) for site in json.loads(sites)],
        refused=json.loads(refused),
        bytes_up=up,
        bytes_down=down,
        counts=None if counts is None else json.loads(counts),
        gradient_norm=norm,
        adapter_sha256=sha256,
    )


def _look(row: Sequence[Any]) -> LookRow:
    number, shares, counts, disagreeing = row
    return LookRow(
        round=number,
        shares=json.loads(shares),
        counts=json.loads(counts),
        disagreeing=json.loads(disagreeing),
    )


def _fall(row: Sequence[Any]) -> FallRow:
    number, at, back_to, *told = row
    shares, lost, counts, disagreeing, sites = map(json.loads, told)
    return FallRow(
        number=number,
        round=at,
        back_to=back_to,
        shares=shares,
        lost=lost,
        counts=counts,
        disagreeing=disagreeing,
        sites=sites,
    )
