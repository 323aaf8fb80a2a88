"""What goes wrong with one patient, what takes its guard away, and what kind of answer comes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from client.privacy.mechanism import Private
from common.arrays import Vector
from common.messages.kinds import Refusal, Reply
from tests.whole_site import SIZE

Changes = dict[tuple[Any, str], Any]


def fails(error: type[Exception]) -> Callable[[], Vector]:
    """Return a computation that fails and says something that must not leave."""

    def fail() -> Vector:
        raise error(f"SENTINEL {error}")

    return fail


def no_numbers() -> Vector:
    """Return a gradient that is no number."""
    return np.full(SIZE, np.nan, dtype=np.float32)


def bare(_: Private, compute: Callable[[], Any], works: Callable[[], None]) -> Any:
    """Compute for a patient without a guard."""
    return compute()


def kind_of(reply: Reply | None) -> str:
    """Name what was answered."""
    if reply is None:
        return "silence"
    return f"E{reply.code}" if isinstance(reply, Refusal) else type(reply).__name__
