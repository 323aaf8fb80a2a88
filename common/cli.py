"""What every command line shares: a refusal is one line and exit status 1, an interruption 130, never a traceback."""

from __future__ import annotations

import errno
import logging
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

import click
import typer
from rich.console import Console
from rich.logging import RichHandler

from common.access import forbidden
from common.errors import Code, FedReasonError
from common.logs import place_of

console = Console(stderr=True)


def tell(line: str) -> None:
    """Print a line with the time, for what runs for long: one that cannot be written stops nothing.

    What is told on may be a file on a full disk, or a pipe whose reader is gone, at which rich would end the process.
    """
    with suppress(OSError, SystemExit):
        console.print(f"{datetime.now():%Y-%m-%d %H:%M:%S} {line}", highlight=False, markup=False, soft_wrap=True)


INTERRUPTED = 130
_OS_ERROR = re.compile(r"\(os error (\d+)\)")


def application(text: str | None) -> typer.Typer:
    """Return an empty command line with this help text."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, help=text)


def run_application(app: typer.Typer, *, interrupted: Callable[[], None] = lambda: None) -> None:
    """Run a command line and end the process with its status."""
    logging.basicConfig(
        level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=console, show_path=False)]
    )
    try:
        status = app(standalone_mode=False) or 0
    except FedReasonError as error:
        status = _tell(error)
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        status = INTERRUPTED
    except Exception as error:
        status = _tell(unexpected(error))
    if status == INTERRUPTED:
        interrupted()
    sys.exit(status)


def is_disk_full(error: OSError) -> bool:
    """Whether a write failed for want of space."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def unexpected(error: Exception) -> FedReasonError:
    """Return the refusal for an error that nobody foresaw: where it arose, not its text, which may hold a record.

    A write that found no space is told as such, and so is a file that this user may not reach.
    """
    if _found_no_space(error):
        return disk_full(error)
    if isinstance(error, PermissionError) and isinstance(error.filename, str):
        return forbidden(error)
    fix = "Report this place to those who maintain fedreason."
    return FedReasonError(Code.RUN_FAILED, f"Unexpected {place_of(error)}.", fix)


def _found_no_space(error: BaseException | None) -> bool:
    """Whether a write failed for want of space, also where a library says so in its own way.

    torch fails while it handles the failure of the file that it was given; libraries in Rust end on the number.
    """
    if error is None:
        return False
    told = _OS_ERROR.search(str(error))
    system = error if isinstance(error, OSError) else OSError(int(told[1]), "") if told else None
    return (system is not None and is_disk_full(system)) or _found_no_space(error.__context__)


def disk_full(error: Exception) -> FedReasonError:
    """Return the refusal for a write that found no space."""
    place = getattr(error, "filename", None) or place_of(error)
    return FedReasonError(
        Code.DISK_FULL, f"There is no space left to write {place}.", "Free some; nothing is lost, then start again."
    )


def _tell(error: FedReasonError) -> int:
    console.print(str(error), style="red", highlight=False, soft_wrap=True, markup=False)
    return 1
