"""What a site is doing with its task, coarsely: one of a fixed list, told by whoever does it and shown by `status`.

It stays at the site: the resident process tells the node, and the node keeps it in `state/status.json`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from enum import StrEnum

_TELL_SECONDS = 1.0


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
"""Stages that take turns by patient: of these not every change is told."""


class _Teller:
    """Where this process tells its stage; nowhere until it is given somebody."""

    def __init__(self) -> None:
        self.listener: Callable[[Stage], None] | None = None
        self.stage: Stage | None = None
        self._told = float("-inf")

    def tell(self, stage: Stage) -> None:
        """Tell the stage where it is another."""
        if self.listener is None or stage is self.stage:
            return
        if stage in _BRIEF and self.stage in _BRIEF and time.monotonic() - self._told < _TELL_SECONDS:
            return
        self.stage, self._told = stage, time.monotonic()
        self.listener(stage)


_TELLER = _Teller()


@contextlib.contextmanager
def stages_told(listener: Callable[[Stage], None]) -> Iterator[None]:
    """Have this process tell its stages meanwhile."""
    _TELLER.listener = listener
    try:
        yield
    finally:
        _TELLER.listener = None


def tell(stage: Stage) -> None:
    """Say what this process does now."""
    _TELLER.tell(stage)


def begin() -> None:
    """Start with a task: whatever comes first is told."""
    _TELLER.stage = None


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
