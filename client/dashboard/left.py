"""What left this site and when: the outbox by day, the latest first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path

from starlette.responses import Response

from client.dashboard.parts import part
from client.node.listing import UNLISTED, archived
from client.node.outbox import Entry, Read, contents, kept_contents, read_outbox, require_whole
from common.pages.page import Section, facts, html_table, paragraph
from common.web.visit import Answer, Document, Visit, whole

ON_A_PAGE = 100


@dataclass(frozen=True)
class Left:
    """What left in all, in figures of `python -m client outbox --json`; `archived` says what is not there."""

    messages: int
    bytes: int
    unknown: int
    kinds: dict[str, tuple[int, int]]
    first: Entry | None
    last: Entry | None
    archived: str = ""

    @classmethod
    def of(cls, found: Read) -> Left:
        """Count the messages that are there."""
        entries = found.entries
        messages, sizes = Counter[str](), Counter[str]()
        for entry in entries:
            messages[entry.kind] += 1
            sizes[entry.kind] += entry.bytes
        return cls(
            messages=len(entries),
            bytes=sum(sizes.values()),
            unknown=sum(entry.sent is None for entry in entries),
            kinds={kind: (messages[kind], sizes[kind]) for kind in sorted(messages)},
            first=entries[0] if entries else None,
            last=entries[-1] if entries else None,
            archived=archived(found),
        )

    def shown(self) -> str:
        """Return the figures as HTML."""
        told = facts(
            {
                "messages": f"{self.messages:,}",
                "bytes": f"{self.bytes:,}",
                "arrival not known": f"{self.unknown:,}",
                "first": None if self.first is None else f"number {self.first.number}, {self.first.time}",
                "last": None if self.last is None else f"number {self.last.number}, {self.last.time}",
            }
        )
        rows = [(kind, f"{messages:,}", f"{size:,}") for kind, (messages, size) in self.kinds.items()]
        told += paragraph(self.archived, "warn") if self.archived else ""
        return told + (html_table(("what", "messages", "bytes"), rows) if rows else "")


def outbox_folder(folder: Path) -> Path:
    """Return where the outbox of a site folder lies."""
    return folder / "state" / "outbox"


def outbox(folder: Path, visit: Visit) -> Answer:
    """Return the page of what left."""
    place = outbox_folder(folder)
    found = read_outbox(place)
    sections = [
        part("Damaged lines", partial(_damaged, place, found)),
        part("In all", Left.of(found).shown),
        part("By day", partial(_page, found.entries, whole(visit.query.get("page", ""), 1, 1, 10**8))),
        part("Contents that are kept", partial(_kept, place, found.entries)),
        Section("What is not listed", paragraph(UNLISTED, "note")),
    ]
    return Document("What left", "Every message that left this site, the latest first. Times are UTC.", sections)


def content(folder: Path, visit: Visit) -> Answer:
    """Return what was sent, byte for byte, as a file."""
    number = whole(visit.parts["number"], 0, 0, 10**9)
    found = contents(outbox_folder(folder), number)
    if found is None:
        told = paragraph(f"The content of message {number} is not kept (keep_contents in site.toml).")
        return Document("What left", "", [Section("Not kept", told)])
    name = f'attachment; filename="{number}.message"'
    return Response(found, media_type="application/octet-stream", headers={"content-disposition": name})


def _damaged(place: Path, found: Read) -> str:
    require_whole(place, found)
    return ""


def _page(entries: Sequence[Entry], number: int) -> str:
    if not entries:
        return paragraph("Nothing has left.")
    pages = -(-len(entries) // ON_A_PAGE)
    number = min(number, pages)
    days: dict[str, list[Entry]] = {}
    for entry in entries:
        days.setdefault(entry.time[:10], []).append(entry)
    latest = list(reversed(entries))[(number - 1) * ON_A_PAGE : number * ON_A_PAGE]
    rows: list[tuple[object, ...]] = []
    kinds: dict[int, str] = {}
    day = ""
    for entry in latest:
        if entry.time[:10] != day:
            day = entry.time[:10]
            kinds[len(rows)] = "main"
            size = sum(each.bytes for each in days[day])
            rows.append((day, f"{len(days[day]):,} in all", "", "", f"{size:,}", "", ""))
        what = f"{entry.kind} E{entry.code}" if entry.code else entry.kind
        arrived = "yes" if entry.sent else "not known"
        kinds[len(rows)] = "sub"
        rows.append(
            (f"{entry.number}, {entry.time[11:19]}", what, entry.run, entry.round, f"{entry.bytes:,}", arrived,
             entry.sha256[:16])
        )  # fmt: skip
    head = ("day; number, time", "what", "run", "round", "bytes", "arrived", "sha256")
    return html_table(head, rows, kinds=kinds) + _turn(number, pages)


def _turn(number: int, pages: int) -> str:
    """Return links to the pages beside this one."""
    links = [
        f'<a href="/outbox?page={other}">{label}</a>'
        for other, label in ((number - 1, "Later messages"), (number + 1, "Earlier messages"))
        if 1 <= other <= pages
    ]
    return f"<p>Page {number} of {pages}. {' '.join(links)}</p>"


def _kept(place: Path, entries: Sequence[Entry]) -> str:
    kept = kept_contents(place)
    there = [entry for entry in reversed(entries) if entry.number in kept]
    if not there:
        return paragraph("None: keep_contents in site.toml says of how many.")
    links = "".join(
        f'<li><a href="/outbox/{entry.number}">{entry.number}</a>: {escape(entry.kind)}, {entry.bytes:,} bytes</li>'
        for entry in there
    )
    told = paragraph("Byte for byte what was sent, to be saved as a file.")
    return f"{told}<ul>{links}</ul>"
