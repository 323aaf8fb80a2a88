"""How far the arms are: bars on a terminal, lines elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

_COLUMNS = (
    TextColumn("{task.description:>12}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    TextColumn("{task.fields[note]}"),
)


class ArmsProgress:
    """Shows the events of the arms; a context manager."""

    def __init__(self, console: Console, arms: Sequence[str], rounds: int) -> None:
        self._console, self._rounds = console, rounds
        self._lines = not console.is_terminal
        self._progress = Progress(*_COLUMNS, console=console, disable=self._lines)
        self._bars: dict[str, TaskID] = {
            arm: self._progress.add_task(arm, total=rounds, start=False, note="") for arm in arms
        }

    def __enter__(self) -> ArmsProgress:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, event: dict[str, Any]) -> None:
        """Show one event of an arm: its start, a finished round, its evaluation, its end."""
        arm, bar = event["arm"], self._bars[event["arm"]]
        if event.get("done"):
            self._progress.update(bar, completed=self._rounds, note="")
            self._progress.stop_task(bar)
            self._say(f"{arm}: done in {event['seconds']:.0f} s")
            return
        number = event["round"]
        if number == 0:
            self._progress.start_task(bar)
            self._say(f"{arm}: started")
            return
        reward = "" if event["reward"] is None else f"reward {event['reward']:.2f}"
        note = "evaluating" if number == self._rounds else reward
        self._progress.update(bar, completed=number, note=note)
        if number % max(1, self._rounds // 7) == 0 or number == self._rounds:
            self._say(f"{arm}: round {number}/{self._rounds} {reward}".rstrip())

    def _say(self, line: str) -> None:
        if self._lines:
            self._console.print(line, highlight=False)
