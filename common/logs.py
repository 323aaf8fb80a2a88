"""One logger set-up for every program: short lines on stderr, numbers and places only."""

from __future__ import annotations

import logging
import os
import traceback
import warnings
from logging.handlers import RotatingFileHandler


def logger(name: str) -> logging.Logger:
    """Logger below `fedreason`."""
    return logging.getLogger(f"fedreason.{name}")


def log_to_stderr() -> None:
    """Show our own messages of level INFO, once per process, as Flower's log stream expects them.

    They go no further: a library that is imported later may give the root logger a handler (opacus does), and every
    line would stand there twice.
    """
    root = logging.getLogger("fedreason")
    if not root.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        root.propagate = False


class QuietFile(RotatingFileHandler):
    """A log file of limited size. On a full disk its lines are lost: the program has better ways to say so."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Go on without the file, in place of a traceback for every line."""


def place_of(error: BaseException) -> str:
    """Type of an error and where it was raised, without its message, which may quote a record."""
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1] if frames else None
    return f"{type(error).__name__} at {last.filename}:{last.lineno}" if last else type(error).__name__


def quiet_libraries() -> None:
    """Keep progress bars and notices of the model libraries out of our programs' output."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
