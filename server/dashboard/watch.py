"""One look for everybody: what browsers ask for in the same moment is read once, and only while somebody asks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

from common.config import RunConfig
from common.errors import FedReasonError
from common.pages.page import Section, paragraph
from common.processes import seen_held
from server.dashboard.draw import drawn
from server.dashboard.history import History
from server.provisioning.federation import Federation
from server.reports.report import config_of, repeats_section
from server.reports.rows import RunRows
from server.reports.spent import epsilons, taken
from server.reports.status import Status, status_of
from server.rounds.claim import claim_of
from server.rounds.runs import find_run
from server.rounds.shares import mean_reward

T = TypeVar("T")
_STATUS_SECONDS = 2.0
_REST = 10
"""A long run of short rounds is drawn anew for a tenth of the time at most."""
_UNREAD = (
    "rounds.sqlite cannot be read: it is damaged, or a write was broken off, which the run mends when it goes on. What "
    "is shown here is without it."
)


class Shared(Generic[T]):
    """What a function returns, the same for all who ask within some seconds."""

    def __init__(self, look: Callable[[], T], seconds: float) -> None:
        self._look, self._seconds, self._lock = look, seconds, Lock()
        self._found: tuple[float, T] | None = None

    def __call__(self) -> T:
        """Return it, looked at anew where the last look is too old."""
        with self._lock:
            if self._found is None or time.monotonic() >= self._found[0]:
                found = self._look()
                self._found = (time.monotonic() + self._seconds, found)
            return self._found[1]


@dataclass(frozen=True)
class Totals:
    """What is counted of all rounds of a run; `epsilon` by site, None where no bound is known."""

    rounds: int = 0
    seconds: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0
    last_seconds: float | None = None
    reward: float | None = None
    epsilon: dict[str, float | None] = field(default_factory=dict)


def totals_of(history: History, config: RunConfig | None) -> Totals:
    """Count them."""
    rounds = history.rounds
    counted = {} if config is None else taken(RunRows(rounds, (), history.looks), history.told)
    spent = {site: epsilons(config, *of) for site, of in counted.items() if config is not None}
    return Totals(
        rounds=len(rounds),
        seconds=sum(row.seconds for row in rounds),
        bytes_up=sum(row.bytes_up for row in rounds),
        bytes_down=sum(row.bytes_down for row in rounds),
        last_seconds=rounds[-1].seconds if rounds else None,
        reward=mean_reward(rounds[-1].counts) if rounds else None,
        epsilon={site: of and of[0] for site, of in spent.items()},
    )


class RunWatch:
    """One run: its configuration, and the sections on its database, drawn anew when that changes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.history = folder, History(folder)
        self._lock = Lock()
        self._config: RunConfig | None = None
        self._drawn: tuple[object, Sequence[Section]] | None = None
        self._totals: tuple[object, Totals] | None = None
        self._rests_until = 0.0

    @property
    def config(self) -> RunConfig | None:
        """What was run, None before the run has said so, or where this version cannot read it."""
        if self._config is None:
            try:
                self._config = config_of(claim_of(self.folder))
            except (FedReasonError, OSError):
                return None
        return self._config

    def read(self) -> History:
        """Return what is in its database now."""
        with self._lock:
            self.history.look()
        return self.history

    def totals(self, *, ended: bool) -> Totals:
        """Return what is counted of all its rounds; of a run that has ended it is read once, and its rounds let go."""
        with self._lock:
            config = self.config
            if self._totals is not None and self._totals[0] == (self.history.state, config is None):
                return self._totals[1]
            history = History(self.folder) if ended else self.history
            history.look()
            told = totals_of(history, config)
            self._totals = None if history.read_at is None else ((history.read_at, config is None), told)
            return told

    def sections(self) -> Sequence[Section]:
        """Return what the run has done so far."""
        with self._lock:
            config = self.config
            state = (self.history.look(), config is None)
            began = time.monotonic()
            if self._drawn is None or (self._drawn[0] != state and began >= self._rests_until):
                self._drawn = (state, drawn(self.history, config))
                took = time.monotonic() - began
                self._rests_until = began + took + _REST * took
            return [
                Section("Its database", paragraph(_UNREAD, "warn") if self.history.unread else ""),
                *self._drawn[1],
                Section("Begun again", repeats_section(self.folder)),
            ]


class Watch:
    """What goes on in a federation."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.status: Shared[Status] = Shared(self._status, _STATUS_SECONDS)
        self._runs: dict[Path, RunWatch] = {}

    def _status(self) -> Status:
        return status_of(self.federation, looks=False, works=lambda folder: seen_held(folder / ".lock"))

    def run(self, name: str) -> RunWatch:
        """Return one run.

        Raises
        ------
        FedReasonError
            RUN_UNKNOWN.
        """
        return self.at(find_run(self.federation, name))

    def at(self, folder: Path) -> RunWatch:
        """Return the run of a folder that is known to hold one."""
        return self._runs.setdefault(folder, RunWatch(folder))
