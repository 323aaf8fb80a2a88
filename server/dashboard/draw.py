"""What a run has done so far, as sections: those of its report, of a long run with many sites thinned out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from common import wilson
from common.config import RunConfig
from common.pages.page import Section, facts, html_table, paragraph
from common.sums import KINDS
from server.dashboard.history import History
from server.dashboard.stages import stages_section
from server.reports.curves import TOGETHER, accuracy_section
from server.reports.looks import Look, sites_of
from server.reports.report import config_facts, privacy_section, sections, sites_section, traffic_facts
from server.reports.rows import RunRows
from server.reports.spent import taken
from server.rounds.store import EvaluationRow

_MOST_POINTS, _MOST_SITES = 40, 8
"""Evaluations and looks of the guard that are drawn, and sites that have a line of their own."""


def drawn(history: History, config: RunConfig | None) -> list[Section]:
    """Return the sections on what is in a run's database."""
    numbers = sorted(history.evaluated)
    every = -(-len(numbers) // _MOST_POINTS) or 1
    kept = [number for i, number in enumerate(numbers, start=1) if i % every == 0 or i in (1, len(numbers))]
    evaluations = history.evaluations(kept)
    rows = RunRows(history.rounds, (), _latest(history.looks))
    told = [
        *sections(rows, _accuracy(evaluations, every)),
        Section("Seconds and bytes by stage", stages_section(history)),
        Section("Who took part", sites_section(rows)),
        *([Section("Privacy spent", privacy_section(config, taken(rows, history.told)))] if config else []),
    ]
    run = {**(config_facts(config) if config else {}), **traffic_facts(rows.rounds)}
    return [*told, Section("The run", facts(run) if run else "")]


def _latest(looks: Sequence[Look]) -> list[Look]:
    """Return the latest looks, and all that were taken back; of many sites those that once said otherwise than most."""
    kept = [look for look in looks if look.back_to is None][-_MOST_POINTS:]
    shown = [look for look in looks if look.back_to is not None or look in kept]
    sites = sites_of(shown)
    if len(sites) <= _MOST_SITES:
        return shown
    telling = {site for site in sites if any(site in look.disagreeing for look in shown)}
    few = set(sorted(telling)[:_MOST_SITES])
    return [
        look.model_copy(update={"sites": {site: of for site, of in look.sites.items() if site in few}})
        for look in shown
    ]


def _accuracy(evaluations: Sequence[EvaluationRow], every: int) -> str:
    """Accuracy by round and site; of many sites that of those that answered last together, and each one's last.

    These are the same ones in every round that is drawn: a mean over changing sites would move without the model.
    """
    thinned = paragraph(f"One evaluation of {every} is shown; the run's report has all.", "note") if every > 1 else ""
    if not evaluations or len({row.site for row in evaluations}) <= _MOST_SITES:
        return thinned + accuracy_section(evaluations)
    by_round: dict[int, list[EvaluationRow]] = {}
    for row in evaluations:
        by_round.setdefault(row.round, []).append(row)
    last = max(by_round)
    here, everyone = {row.site for row in by_round[last]}, {row.site for row in evaluations}
    name = TOGETHER if here == everyone else f"{len(here)} of {len(everyone)} sites"
    whole = [
        _sum(name, number, [row for row in rows if row.site in here])
        for number, rows in by_round.items()
        if here <= {row.site for row in rows}
    ]
    rows = []
    for row in by_round[last]:
        asked, free, forced = (_count(row, key) for key in KINDS)
        if asked > 0:
            shares = [min(1.0, max(0.0, right / asked)) for right in (free, forced)]
            rows.append((row.site, asked, *(cell for share in shares for cell in (share, wilson.shown(share, asked)))))
    head = ["site", "questions", "free-form", wilson.NAME, "choice forced", wilson.NAME]
    of = f"{'all' if here == everyone else 'the same'} {len(here)} sites"
    note = f"The curves are of {of} together. Each site's accuracy after round {last}:"
    return thinned + accuracy_section(whole) + paragraph(note) + html_table(head, rows, caption=f"After round {last}")


def _sum(name: str, number: int, rows: Sequence[EvaluationRow]) -> EvaluationRow:
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update({key: _count(row, key) for key in KINDS})
    return EvaluationRow(round=number, site=name, counts={TOGETHER: dict(counts)})


def _count(row: EvaluationRow, key: str) -> int:
    return sum(int(count.get(key, 0)) for count in row.counts.values())
