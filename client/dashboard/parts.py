"""A part of a page says what it found, or by which number it cannot: what is damaged takes no other part with it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from common.cli import unexpected
from common.errors import FedReasonError
from common.logs import logger, place_of
from common.pages.page import Section, paragraph

_log = logger("pages")


def part(title: str, make: Callable[[], str], failed: list[str] | None = None) -> Section:
    """Return a section of what `make` returns, or of the refusal that it raises: its title is then in `failed`."""
    try:
        return Section(title, make())
    except FedReasonError as error:
        told = error
    except Exception as error:
        _log.error("unexpected %s", place_of(error))
        told = unexpected(error)
    if failed is not None:
        failed.append(title)
    return Section(title, paragraph(str(told), "warn"))


def clock(time: datetime | None) -> str | None:
    """Return a time in UTC, to the second; None where there is none."""
    return None if time is None else f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
