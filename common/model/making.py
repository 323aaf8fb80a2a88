"""The making of a model as something that can be watched: how far it is, told every second and kept in a file.

Whoever waits for a model, and whoever is asked how a site stands, reads the file: it needs no word with the maker.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

STAGE = "making a model"
"""What a site is said to do meanwhile."""
_BEAT_SECONDS = 1.0
_FRESH_SECONDS = 30.0
_LINE_SECONDS = 5.0


@dataclass(frozen=True)
class Progress:
    """What the maker does, and after how many of its steps; 0 of 0 where that has no steps."""

    doing: str
    step: int = 0
    steps: int = 0

    def __str__(self) -> str:
        """Say it in words."""
        return f"{self.doing}, step {self.step} of {self.steps}" if self.steps else self.doing


def making_text(step: int, steps: int) -> str:
    """Say how far the model of another machine is, where only numbers came from there."""
    return str(Progress(STAGE, step, steps))


Report = Callable[[Progress], None]


@contextlib.contextmanager
def told(path: Path, report: Report | None) -> Iterator[Report]:
    """Give what takes the maker's progress; every second the latest is told and written, whatever the maker does."""
    latest, over = Progress("starting"), threading.Event()

    def take(progress: Progress) -> None:
        nonlocal latest
        latest = progress

    def tell() -> None:
        with contextlib.suppress(OSError):
            fresh = path.with_name(path.name + ".new")
            fresh.write_text(json.dumps(asdict(latest)), encoding="utf-8")
            fresh.replace(path)
        if report is not None:
            report(latest)

    def beat() -> None:
        tell()
        while not over.wait(_BEAT_SECONDS):
            tell()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield take
        tell()
    finally:
        over.set()
        thread.join()
        path.unlink(missing_ok=True)


def read_progress(path: Path) -> Progress | None:
    """Return what a maker last told, None where nobody has told anything of late."""
    try:
        if time.time() - path.stat().st_mtime > _FRESH_SECONDS:
            return None
        found = json.loads(path.read_text(encoding="utf-8"))
        return Progress(str(found["doing"]), int(found["step"]), int(found["steps"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextlib.contextmanager
def shown(console: Console, what: str) -> Iterator[Report]:
    """Show progress as it is told: a bar on a terminal, else a line every few seconds."""
    if not console.is_terminal:
        yield lines(lambda line: print(f"{what}: {line}", file=console.file, flush=True))
        return
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[doing]}"))
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None, doing="starting")
        yield lambda now: bar.update(task, total=now.steps or None, completed=now.step, doing=str(now))


def lines(tell: Callable[[str], None]) -> Report:
    """Return a report that tells a line every few seconds, with the time that has passed."""
    started: float | None = None
    said = float("-inf")

    def report(progress: Progress) -> None:
        nonlocal started, said
        now = time.monotonic()
        started = now if started is None else started
        if now - said >= _LINE_SECONDS:
            said = now
            tell(f"{progress} ({now - started:.0f} s)")

    return report
