"""One logger set-up for every program: short lines on stderr, numbers and places only."""

from __future__ import annotations

import logging
import traceback


def logger(name: str) -> logging.Logger:
    """Logger below `fedreason`."""
    return logging.getLogger(f"fedreason.{name}")


def place_of(error: BaseException) -> str:
    """Type of an error and where it was raised, without its message, which may quote a record."""
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1] if frames else None
    return f"{type(error).__name__} at {last.filename}:{last.lineno}" if last else type(error).__name__
