"""When a site works: windows of the day for its GPU, and the flag that `python -m client pause` sets.

Windows are in the machine's local time. The flag is a file, `state/paused`, so that it outlives the node.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from common.errors import Code, FedReasonError
from common.identity.keys import private_folder, write_private

_DAY = 24 * 60
_TIME = r"([01]\d|2[0-3]):([0-5]\d)"
_WINDOW = re.compile(f"{_TIME}-{_TIME}")


@dataclass(frozen=True)
class Window:
    """Part of every day, in minutes after midnight: from `start` up to `end`, over midnight unless `end` is later."""

    start: int
    end: int

    def __contains__(self, minute: int) -> bool:
        if self.start < self.end:
            return self.start <= minute < self.end
        return minute >= self.start or minute < self.end


def read_window(text: str) -> Window:
    """Read "HH:MM-HH:MM"; two equal times are the whole day. ValueError where it is written otherwise."""
    match = _WINDOW.fullmatch(text)
    if match is None:
        raise ValueError(f'"{text}" is no window of the day; it is written "HH:MM-HH:MM", such as "18:00-06:30"')
    hour, minute, last_hour, last_minute = (int(part) for part in match.groups())
    return Window(60 * hour + minute, 60 * last_hour + last_minute)


def allowed(now: datetime, windows: Sequence[str]) -> bool:
    """Whether the site may work at this time; without windows it always may."""
    return not windows or _inside(now, [read_window(text) for text in windows])


def next_change(now: datetime, windows: Sequence[str]) -> datetime | None:
    """Return when `allowed` changes next, in local time; None where it never does.

    It looks at every minute, so that it is right on the days on which the clocks change.
    """
    read = [read_window(text) for text in windows]
    minute = now.astimezone(UTC).replace(second=0, microsecond=0)
    state = not read or _inside(now, read)
    for _ in range(_DAY + 60 if read else 0):
        minute += timedelta(minutes=1)
        if _inside(minute, read) != state:
            return minute.astimezone()
    return None


def _inside(now: datetime, windows: Sequence[Window]) -> bool:
    local = now.astimezone()
    return any(60 * local.hour + local.minute in window for window in windows)


def pause(folder: Path, reason: str) -> None:
    """Have the site of a folder take no more work until `resume`."""
    private_folder(folder / "state")
    write_private(_flag(folder), " ".join(reason.split()).encode())


def resume(folder: Path) -> bool:
    """Let the site work again; False where it was not paused."""
    was = paused(folder) is not None
    _flag(folder).unlink(missing_ok=True)
    return was


def paused(folder: Path) -> str | None:
    """Reason for which the site was paused by hand, None where it was not; a flag that cannot be read still pauses."""
    try:
        return _flag(folder).read_text(encoding="utf-8", errors="replace").strip() or "no reason given"
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"its reason cannot be read ({type(error).__name__})"


def hold(folder: Path, windows: Sequence[str], now: datetime | None = None) -> FedReasonError | None:
    """Return why the site should take no work now (SITE_PAUSED), None where it may."""
    if (reason := paused(folder)) is not None:
        fix = f"To go on: python -m client resume --site {folder.name}"
        return FedReasonError(Code.SITE_PAUSED, f"The site was paused by hand: {reason}.", fix)
    now = now or datetime.now().astimezone()
    if allowed(now, windows):
        return None
    opens = next_change(now, windows)
    return FedReasonError(
        Code.SITE_PAUSED,
        f"It is outside the hours that site.toml gives the GPU ({', '.join(windows)}).",
        f"The site goes on by itself at {opens:%H:%M}." if opens else "Change `hours` in site.toml.",
    )


def _flag(folder: Path) -> Path:
    return folder / "state" / "paused"
