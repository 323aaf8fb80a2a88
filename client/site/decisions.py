"""What people decided here, to be looked up later: a line each in `state/decisions.jsonl`, which nothing shortens.

A policy that came into force and what it allows beyond the one before, another officer's key, a newer roster. Whoever
can change the site's folder can also change this file: it is for the site's own memory, not against its own users.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, ValidationError

from common.access import user_name
from common.identity.keys import private_folder
from common.identity.lines import append_private
from common.toml import Strict

FILE = "decisions.jsonl"

What = Literal["policy", "officer", "roster"]


class Decision(Strict):
    """One line.

    Attributes
    ----------
    by
        Who said the command, as this machine knows them; for a policy that its officer signed, the officer's key.
    before, after
        SHA-256 of the policy or of the roster, fingerprint of the officer's key; None where there was none.
    allows
        What a policy allows that the one before did not, `limit: before -> after`.
    """

    time: AwareDatetime
    what: What
    by: str
    before: str | None
    after: str
    allows: tuple[str, ...] = ()


def decided(
    folder: Path, what: What, *, before: str | None, after: str, allows: Sequence[str] = (), by: str | None = None
) -> None:
    """Add a line, on the disk before what was decided counts; by whom where it is not the user of this process.

    Under sudo it is who said the command, since the site's account belongs to nobody.
    """
    now = datetime.now(UTC).replace(microsecond=0)
    who = by or os.environ.get("SUDO_USER") or user_name(os.geteuid())
    line = Decision(time=now, what=what, by=who, before=before, after=after, allows=tuple(allows)).model_dump_json()
    path = folder / "state" / FILE
    private_folder(path.parent)
    append_private(path, b"\n" * _torn(path) + line.encode() + b"\n")


def _torn(path: Path) -> bool:
    """Whether a write to a file was cut short: its half line is to take no other with it."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return False
    return content != b"" and not content.endswith(b"\n")


def decisions(folder: Path) -> list[Decision | None]:
    """Return all lines, the newest first; None for one that cannot be read."""
    try:
        lines = (folder / "state" / FILE).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    return [_read(line) for line in reversed(lines)]


def _read(line: bytes) -> Decision | None:
    try:
        return Decision.model_validate_json(line)
    except ValidationError:
        return None
