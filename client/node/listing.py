"""The messages that left a site, as a table for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from client.node.outbox import Read
from common.flower import BEAT_EVERY

if TYPE_CHECKING:
    from rich.table import Table

_SHOWN_DIGITS = 16

UNLISTED = (
    f"sha256: its first {_SHOWN_DIGITS} digits; --json has all. Not listed: every {BEAT_EVERY:.0f} seconds a heartbeat"
    " with the node's number and how often it beats, and the requests for messages and for whether a run goes on, with"
    " its number and the run's. Each is signed with the node's key at its time. Nothing in them comes from a record."
)
"""What is sent besides messages (client/node/worker.py)."""


def archived(found: Read) -> str:
    """Say how much left that is not among what was found; "" where all is."""
    messages, size = found.archived
    if not messages:
        return ""
    first = found.entries[0].number if found.entries else messages + 1
    before = f", all before number {first:,}" if messages == first - 1 else ""
    return f"Not here: {messages:,} messages ({size:,} bytes){before}; their logs were moved away (archived). "


def table(found: Read) -> Table:
    """Return the messages as a table for a terminal; what is too wide goes on in the next line, nothing is cut off."""
    from rich.table import Column, Table

    names = ("no.", "left (UTC)", "what", "run", "round", "bytes", "sha256", "arrived")
    right = {"no.", "round", "bytes"}
    columns = [Column(name, justify="right" if name in right else "left", overflow="fold") for name in names]
    shown = Table(*columns, caption=f"{archived(found)}{UNLISTED}", caption_justify="left")
    for entry in found.entries:
        what = f"{entry.kind} E{entry.code}" if entry.code else entry.kind
        shown.add_row(
            str(entry.number),
            entry.time[:19].replace("T", " "),
            what,
            entry.run,
            str(entry.round),
            f"{entry.bytes:,}",
            entry.sha256[:_SHOWN_DIGITS],
            "yes" if entry.sent else "not known",
        )
    return shown
