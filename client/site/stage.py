"""What a site is doing with its task, coarsely: written to `state/stage.json` by whoever does it, shown by `status`.

It stays at the site: one of a fixed list, with when it began.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from pydantic import ValidationError

from common.toml import Strict

STAGE_FILE = "stage.json"
_WRITE_SECONDS = 1.0


class Stage(StrEnum):
    """What a site may be doing."""

    WAITING = "waiting"
    LOADING = "loading the model"
    MAKING_MODEL = "making a model"
    SAMPLING = "sampling"
    TRAINING = "training"
    EVALUATING = "evaluating"
    SENDING = "sending"


_BRIEF = frozenset({Stage.SAMPLING, Stage.TRAINING})
"""Stages that take turns by patient: of these not every change is written."""


class StageRecord(Strict):
    """Content of stage.json; `pid` is who told it."""

    stage: Stage
    since: datetime
    pid: int


class _Teller:
    """Where this process tells its stage; nowhere until it is given a folder."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self._stage: Stage | None = None
        self._written = float("-inf")

    def tell(self, stage: Stage) -> None:
        """Write the stage; a disk that is full has better ways to be noticed."""
        if self.path is None or stage is self._stage:
            return
        if stage in _BRIEF and self._stage in _BRIEF and time.monotonic() - self._written < _WRITE_SECONDS:
            return
        self._stage, self._written = stage, time.monotonic()
        record = StageRecord(stage=stage, since=datetime.now(UTC), pid=os.getpid())
        fresh = self.path.with_name(f".{STAGE_FILE}.{os.getpid()}")
        with contextlib.suppress(OSError):
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(record.model_dump_json())
            fresh.replace(self.path)

    def begin(self) -> None:
        """Forget what was told last: another process has told its own since."""
        self._stage = None

    @property
    def stage(self) -> Stage | None:
        """What was told last."""
        return self._stage


_TELLER = _Teller()


def tell_stages(folder: Path) -> None:
    """Have this process tell its stages in a site folder."""
    _TELLER.path = folder / "state" / STAGE_FILE


def tell(stage: Stage) -> None:
    """Say what this process does now."""
    _TELLER.tell(stage)


def begin() -> None:
    """Start with a task: whatever comes first is told."""
    _TELLER.begin()


@contextlib.contextmanager
def at(stage: Stage) -> Iterator[None]:
    """Say what this process does meanwhile, and afterwards what it did before."""
    before = _TELLER.stage
    tell(stage)
    try:
        yield
    finally:
        if before is not None:
            tell(before)


def read_stage(folder: Path) -> StageRecord | None:
    """Return what was told last in a site folder, None where nothing was."""
    try:
        return StageRecord.model_validate_json((folder / "state" / STAGE_FILE).read_bytes())
    except (OSError, ValidationError):
        return None
