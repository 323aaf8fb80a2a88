"""How far a study is, and about how long the rest will take: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from server.amounts import duration_text
from simulation.study.units import Unit

SILENCE = 60.0
"""Seconds without a line after which a round is told too."""
ANSWERS = 0.1
"""What answering the held-out questions counts beside all rounds of a unit."""


_COLUMNS = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[note]}"))


class Remaining:
    """Estimates the time left from the work done since the start.

    Parameters
    ----------
    now
        A clock, in seconds.
    """

    def __init__(self, units: Sequence[Unit], rounds: int, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._started, self._rounds = now, now(), rounds
        self._units = {unit.name: unit for unit in units}
        self._first: dict[str, int] = {}
        self._at: dict[str, float] = dict.fromkeys(self._units, 0.0)
        self._total = sum(self._work(name) for name in self._units)

    def _work(self, name: str) -> float:
        return (self._units[name].trained + ANSWERS) * self._rounds

    def round(self, name: str, number: int) -> None:
        """Note a finished round; those before the first one heard of were done by an earlier start."""
        if number == 0:
            return
        if name not in self._first:
            self._first[name] = number - 1
            self._total -= number - 1
        self._at[name] = number - self._first[name]

    def done(self, name: str) -> None:
        """Note a finished unit."""
        self._at[name] = self._work(name) - self._first.get(name, 0)

    @property
    def share(self) -> float:
        """Share of the work that is done."""
        return sum(self._at.values()) / self._total if self._total else 1.0

    @property
    def seconds(self) -> float | None:
        """Seconds left, None while nothing is done."""
        share = self.share
        return None if share <= 0 else (self._now() - self._started) * (1 - share) / share


class UnitsProgress:
    """Shows the events of units; a context manager.

    Parameters
    ----------
    of
        Units of the study, those done before among them.
    now
        A clock, in seconds.
    """

    def __init__(
        self,
        console: Console,
        units: Sequence[Unit],
        rounds: int,
        of: int,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console, self._rounds, self._of, self._now = console, rounds, of, now
        self._left, self._said = Remaining(units, rounds, now), now()
        self._done = of - len(units)
        self._lines = not console.is_terminal
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._progress = Progress(*columns, console=console, disable=self._lines)
        self._bar = self._progress.add_task(f"{self._done}/{of} units", total=1.0, note="")
        if self._done:
            console.print(f"{self._done} of {of} units were done before", highlight=False)

    def __enter__(self) -> UnitsProgress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, event: dict[str, Any]) -> None:
        """Show one event of a unit: its start, a finished round, its end."""
        name = event["unit"]
        if event.get("done"):
            self._left.done(name)
            self._done += 1
            self._say(f"{name}: done in {event['seconds']:.0f} s; {self._done} of {self._of} units{self.note}")
        else:
            self._left.round(name, event["round"])
            if self._now() - self._said >= SILENCE:
                self._say(f"{name}: round {event['round']}/{self._rounds}{self.note}")
        self._progress.update(
            self._bar,
            completed=self._left.share,
            description=f"{self._done}/{self._of} units",
            note=f"{name} round {event.get('round', self._rounds)}/{self._rounds}{self.note}",
        )

    @property
    def note(self) -> str:
        """What is left, in words."""
        seconds = self._left.seconds
        return "" if seconds is None else f", about {duration_text(seconds)} left"

    def _say(self, line: str) -> None:
        self._said = self._now()
        if self._lines:
            self._console.print(line, highlight=False)
