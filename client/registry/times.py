"""Times of a column as hours of real elapsed time; what could be read in two ways is refused and never guessed.

A column is of one kind: numbers, dates, local times, or times with a zone. site.toml may give local times a zone, so
that differences are right over a change of clocks.
"""

from __future__ import annotations

import re
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from itertools import combinations
from typing import Literal
from zoneinfo import ZoneInfo

from client.registry.table import Table, first_of
from common.errors import Code, FedReasonError
from common.feature import number_of

HOURS = {"hours": 1.0, "days": 24.0, "minutes": 1 / 60, "seconds": 1 / 3600, "milliseconds": 1 / 3_600_000}
"""Hours in what numbers may count."""

SERIALS = {"excel": datetime(1899, 12, 30), "excel1904": datetime(1904, 1, 1)}
"""Day 0 of the two calendars in which Excel keeps a date and time as a number of days."""

_LONGEST = 20_000.0
"""Hours, over two years, beyond which a bare number is taken for something else."""
_SERIALS_SEEN = (_LONGEST, 100_000.0)
"""Excel's numbers for the years 1954 to 2173."""

Kind = Literal["number", "date", "local", "zoned"]
_SAID: dict[Kind, str] = {
    "number": "a number",
    "date": "a date without a time of day",
    "local": "a time without a zone",
    "zoned": "a time with a zone",
}
_SHOWN = 10
_OFFSET = re.compile(r"\s+(?=[+-]\d\d(:?\d\d)?$)", re.ASCII)
"""Blanks before an offset, as some databases write them."""


def zone_of(name: str) -> str:
    """Return the name of a time zone as it stands; ValueError where there is none of it."""
    try:
        ZoneInfo(name)
    except (KeyError, OSError, ValueError):
        raise ValueError(f"there is no time zone {name!r}; it is a name such as Europe/Berlin or Asia/Seoul") from None
    return name


def form_of(text: str) -> str:
    """Return a form of times as it stands; ValueError where it is none."""
    if text in HOURS or text in SERIALS:
        return text
    moment = datetime(2011, 2, 3, 4, 5, 6, tzinfo=UTC)
    try:
        day = datetime.strptime(moment.strftime(text), text).date()
    except (ValueError, re.error):
        day = None
    if "%" not in text or day != moment.date():
        known = ", ".join([*HOURS, *SERIALS])
        raise ValueError(f"times are {known}, or a pattern with day, month and year, such as %d.%m.%Y %H:%M")
    if ("%p" in text) != ("%I" in text):
        raise ValueError("an hour is %H, or %I with %p for AM and PM")
    if "%Z" in text.replace("%%", ""):
        raise ValueError(
            "a zone is %z, such as +09:00: the letters of %Z say no hours. Where all times have the same, write "
            "these in place of %Z, and say timezone"
        )
    return text


class Times:
    """The times of a column as they come; what is wrong with them as a whole is refused in the end.

    Parameters
    ----------
    form
        What numbers count (a key of `HOURS` or `SERIALS`), or the pattern of a date and time; None for hours and
        ISO 8601.
    zone
        Time zone of a time that names none. An hour that the clocks skipped is read as if they had not been changed
        yet, one that came twice as the first of the two.
    decimal
        What stands for the point in numbers.
    """

    def __init__(self, form: str | None = None, zone: str | None = None, decimal: str = ".") -> None:
        self._form, self._decimal = form, decimal
        self._zone = None if zone is None else ZoneInfo(zone)
        self._counts: Counter[Kind] = Counter()
        self._places: dict[Kind, list[int]] = {kind: [] for kind in _SAID}
        self._large: list[int] = []
        self._largest = 0.0

    def take(self, place: int, text: str) -> float | None:
        """Return a time as hours since any fixed time; None for what is none."""
        read = self._number(place, text)
        read = self._moment(text) if read is None else read
        if read is None:
            return None
        hours, kind = read
        self._counts[kind] += 1
        if len(self._places[kind]) < _SHOWN:
            self._places[kind].append(place)
        return hours

    def refuse(self, table: Table, column: str) -> None:
        """Raise REGISTRY_SERIES where times of the column cannot be compared, or numbers are hardly hours."""
        if (kinds := self._apart()) is not None:
            one, other = (f"{_SAID[kind]} on {table.unit} {self._where(kind)}" for kind in kinds)
            fix = "Export all times of the column alike."
            if set(kinds) == {"local", "zoned"}:
                fix += ' Or say what zone the others are in: timezone = "Europe/Berlin" in [registry.series].'
            raise FedReasonError(Code.REGISTRY_SERIES, f"{table.name}, column {column}: {one}, {other}.", fix)
        if self._large:
            fix = 'Say in [registry.series] what they count: times = "seconds", "milliseconds", "%Y%m%d" or "hours".'
            if _SERIALS_SEEN[0] < self._largest < _SERIALS_SEEN[1]:
                fix = (
                    "Excel keeps dates as such numbers. Format the column as a date and export it again, or say "
                    'times = "excel" in [registry.series] ("excel1904" in old workbooks of a Mac); '
                    'where they are hours, times = "hours".'
                )
            told = f"the number on {table.unit} {first_of(self._large)} is too large for hours since admission"
            raise FedReasonError(Code.REGISTRY_SERIES, f"{table.name}, column {column}: {told}.", fix)

    def _number(self, place: int, text: str) -> tuple[float, Kind] | None:
        """Read a number by what it counts."""
        form = self._form or "hours"
        number = number_of(text.replace(self._decimal, "."))
        if number is None or "%" in form:
            return None
        if form in SERIALS:
            try:
                return self._hours(SERIALS[form] + timedelta(seconds=round(number * 86_400))), "local"
            except OverflowError:
                return None
        if self._form is None and abs(number) > _LONGEST:
            self._largest = max(self._largest, abs(number))
            if len(self._large) < _SHOWN:
                self._large.append(place)
        return number * HOURS[form], "number"

    def _moment(self, text: str) -> tuple[float, Kind] | None:
        """Read a date or a date and time."""
        try:
            if self._form is not None and "%" in self._form:
                time = datetime.strptime(text, self._form)
                dated = not any(f"%{sign}" in self._form for sign in "HIcXsT")
            else:
                time = datetime.fromisoformat(_OFFSET.sub("", text))
                dated = _is_date(text)
            return self._hours(time), "zoned" if time.tzinfo else "date" if dated else "local"
        except (ValueError, OverflowError):
            return None

    def _hours(self, time: datetime) -> float:
        return (time if time.tzinfo else time.replace(tzinfo=self._zone or UTC)).timestamp() / 3600

    def _apart(self) -> tuple[Kind, Kind] | None:
        """Two kinds that cannot stand in one column, the rarer first."""
        fits = {frozenset[Kind]({"local", "zoned"})} if self._zone else set()
        for pair in combinations(sorted(self._counts, key=self._counts.__getitem__), 2):
            if frozenset(pair) not in fits:
                return pair
        return None

    def _where(self, kind: Kind) -> str:
        more = self._counts[kind] - len(self._places[kind])
        return first_of(self._places[kind]) + (f" and {more:,} more" if more else "")


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
