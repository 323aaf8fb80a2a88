"""Seconds and bytes by stage: of a run's latest rounds, and of one round by site."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from common.pages.page import Link, details, facts, html_table, paragraph
from server.amounts import duration_text, size_text
from server.dashboard.history import History
from server.dashboard.words import run_link
from server.reports.stages import NOTE
from server.rounds.refusals import all_told
from server.rounds.stages import Stages, Took

LATEST = 10
_MOST_SITES = 8
_UNKNOWN = "Nothing is known of this round's stages: it is not finished, or a version that did not keep them did it."


def stages_section(history: History) -> str:
    """Return the latest rounds, the last one by site, and a form that leads to any other."""
    latest = history.stages(LATEST)
    if not latest:
        return paragraph(_UNKNOWN if history.rounds else "No round is finished yet.")
    names = [*dict.fromkeys(stage for _, stages in latest for stage in stages)]
    rows = [(Link(f"{number}", _address(history, number)), *_in_short(stages, names)) for number, stages in latest]
    head = ["round", *(f"{name}, slowest site" for name in names), "to the sites", "from the sites"]
    number, stages = latest[0]
    last = by_site(stages, f"Round {number}")
    return html_table(head, rows, caption=f"The last {len(rows)} rounds") + last + _form(history)


def _in_short(stages: Stages, names: Sequence[str]) -> list[str]:
    told = []
    for name in names:
        known = [(took.seconds, site) for site, took in stages.get(name, {}).items() if took.seconds is not None]
        told.append(f"{duration_text(max(known)[0])} ({max(known)[1]})" if known else "")
    every = [took for sites in stages.values() for took in sites.values()]
    return [*told, size_text(sum(took.down for took in every)), size_text(sum(took.up for took in every))]


def by_site(stages: Stages, title: str) -> str:
    """Return each stage of a round with its sites; of many sites the table opens on a click."""
    rows: list[tuple[object, ...]] = []
    kinds: dict[int, str] = {}
    for stage, sites in stages.items():
        kinds[len(rows)] = "main"
        rows.append((stage, *_amounts(_together(list(sites.values())))))
        for site, took in sorted(sites.items()):
            kinds[len(rows)] = "sub"
            rows.append((site, *_amounts(took)))
    if not rows:
        return paragraph(_UNKNOWN)
    head = ["stage, site", "seconds", "to the site", "from the site"]
    table = html_table(head, rows, caption=f"{title}, by stage and site", kinds=kinds)
    many = max(map(len, stages.values())) > _MOST_SITES
    return (details(f"{title}, by site", table) if many else table) + paragraph(NOTE, "note")


def _together(all_: Sequence[Took]) -> Took:
    """Return what a stage took as a whole: as long as its slowest site, and everybody's bytes."""
    seconds = max((took.seconds for took in all_ if took.seconds is not None), default=None)
    return Took(seconds, sum(took.down for took in all_), sum(took.up for took in all_))


def _amounts(took: Took) -> tuple[str, str, str]:
    return "no answer" if took.seconds is None else f"{took.seconds:.1f}", size_text(took.down), size_text(took.up)


def round_facts(history: History, number: int) -> str:
    """Return what else is known of a round, and who was left out of it."""
    row = next((row for row in history.rounds if row.round == number), None)
    if row is None:
        return ""
    told = facts(
        {
            "Seconds": f"{row.seconds:.1f}",
            "Sites in the sum": ", ".join(row.sites) or "none",
            "To the server": size_text(row.bytes_up),
            "To the sites": size_text(row.bytes_down),
            "Adapter SHA-256": row.adapter_sha256,
        }
    )
    return told + "".join(paragraph(line, "warn") for line in all_told(row.refused))


def _address(history: History, number: int) -> str:
    return f"{run_link(history.run).to}/round?number={number}"


def beside(history: History, number: int) -> str:
    """Return links to the rounds before and after one and to the run, and the form."""
    around = [("Earlier", number - 1), ("Later", number + 1)]
    links = [
        f'<a href="{escape(_address(history, other))}">{label}: round {other}</a>'
        for label, other in around
        if 0 <= other <= last_of(history)
    ]
    links.append(f'<a href="{escape(run_link(history.run).to)}">The run</a>')
    return f"<p>{' '.join(links)}</p>{_form(history)}"


def last_of(history: History) -> int:
    """Return the last round that is finished, 0 before there is one."""
    return history.rounds[-1].round if history.rounds else 0


def _form(history: History) -> str:
    last = last_of(history)
    return (
        f'<form method="get" action="{escape(run_link(history.run).to)}/round"><label>Another round: 0, before '
        f'training, to {last} <input name="number" type="number" min="0" max="{last}" value="{last}" required></label>'
        "<button>Show it</button></form>"
    )
