"""What `python -m client check` found, as lines and a table for a person, or as JSON for a program."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from client.inspection.registry import FeatureCounts, Inspection

if TYPE_CHECKING:
    from client.inspection.check import Checked, Line

_NAME = 12
_WIDEST = 32


def line_text(line: Line) -> Text:
    """One check: its name and what it saw, refused in red, to be looked at in yellow."""
    style = "red" if line.code is not None else "yellow" if line.warning else ""
    return Text(f"{line.name:<{_NAME}} ").append(line.text, style)


def feature_table(found: Inspection) -> Group:
    """Return every feature with its counts, by section; a blank is nothing."""
    width = max(len(_cells(counts, found.records)[0]) for counts in found.features)
    sections: dict[str, Table] = {}
    for counts in found.features:
        notes = [finding for finding in found.findings if finding.feature == counts.feature.name]
        told = Text(", ".join(finding.short for finding in notes))
        told.stylize("red" if any(finding.code is not None for finding in notes) else "yellow")
        table = sections.setdefault(counts.feature.section, _section_table(width, with_header=not sections))
        table.add_row(*(Text(cell) for cell in _cells(counts, found.records)), told)
    for name, patients in found.tasks.items():
        tasks = sections.setdefault("tasks", _section_table(width, with_header=False))
        tasks.add_row(Text(name), "", "", "", "", f"{patients:,}")
    return Group(*(part for title, table in sections.items() for part in (Text(f"[{title}]", "bold"), table)))


def _section_table(width: int, *, with_header: bool) -> Table:
    """Return a table as wide as those of the other sections, so that columns stand below one another."""
    table = Table(box=None, pad_edge=False, show_header=with_header)
    table.add_column("feature", width=min(width, _WIDEST), overflow="fold")
    for name in ("measured", "no number", "outside", "unlisted", "asked of"):
        table.add_column(name, justify="right", width=max(len(name), 7))
    table.add_column("see below", overflow="fold")
    return table


def unread_table(found: Inspection) -> Table:
    """Return how often each numeric item is answered by the best rule of a kind that never reads the record."""
    width = max((len(unread.item) for unread in found.unread), default=0)
    table = Table(title="right without reading the record", title_justify="left", box=None, pad_edge=False)
    table.add_column("asked for", width=min(max(width, len("asked for")), _WIDEST), overflow="fold")
    for name in ("chance", "by rank", "by value", "by word", "by digits"):
        table.add_column(name, justify="right")
    for unread in found.unread:
        blind = unread.blind
        cells = [f"{share:.0%}" for share in (blind.chance, blind.rank, blind.value, blind.word, blind.digits)]
        table.add_row(Text(unread.item), *cells[:3], cells[3] if blind.word else "", cells[4])
    return table


def finding_lines(found: Inspection) -> list[Text]:
    """Return what is wrong, one line each, refusals first."""
    ordered = sorted(found.findings, key=lambda finding: finding.code is None)
    return [
        Text(
            finding.text if finding.code is None else f"E{finding.code.value}: {finding.text}",
            "yellow" if finding.code is None else "red",
        )
        for finding in ordered
    ]


def as_json(checked: Checked) -> dict[str, Any]:
    """Return all of it for a program."""
    found = checked.inspection
    whole: dict[str, Any] = {
        "ok": checked.well,
        "checks": [asdict(line) for line in checked.lines],
    }
    if found is None:
        return whole
    names = ("measured", "unreadable", "outside", "unlisted", "questions")
    return whole | {
        "records": {name: getattr(found, name) for name in ("patients", "records", "opted_out", "without_values")},
        "features": [
            {"name": counts.feature.name, "section": counts.feature.section, "unit": counts.feature.unit}
            | {name: getattr(counts, name) for name in names}
            for counts in found.features
        ],
        "tasks": dict(found.tasks),
        "unread": [{"item": unread.item, "values": unread.values} | asdict(unread.blind) for unread in found.unread],
        "findings": [
            {"feature": finding.feature, "text": finding.text, "code": finding.code} for finding in found.findings
        ],
    }


def _cells(counts: FeatureCounts, records: int) -> list[str]:
    share = f"{counts.measured / records:.0%}" if counts.measured else "0"
    unusable = [f"{count:,}" if count else "" for count in (counts.unreadable, counts.outside, counts.unlisted)]
    questions = "-" if counts.questions is None else f"{counts.questions:,}"
    name = f"{counts.feature.name} ({counts.feature.unit})" if counts.feature.unit else counts.feature.name
    return [name, share, *unusable, questions]
