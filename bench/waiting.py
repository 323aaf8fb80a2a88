"""Wait for what another process or thread does, however busy the machine is."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 900.0
"""Seconds after which what is waited for will never come; less would make a claim about the machine's speed."""


def until(true: Callable[[], object], what: str | Callable[[], str] = "what is waited for") -> None:
    """Wait until something holds; AssertionError with `what` after `PATIENCE`."""
    end = time.monotonic() + PATIENCE
    while True:
        looked = time.monotonic()
        if true():
            return
        now = time.monotonic()
        if now > end:
            raise AssertionError(f"not within {PATIENCE:.0f} s: {what if isinstance(what, str) else what()}")
        time.sleep(max(0.05, 2 * (now - looked)))  # a look that is a command would take a core from what is awaited
