"""How training goes here, as curves from the site's own log: plain figures of its patients, which stay here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, partial
from html import escape
from pathlib import Path
from urllib.parse import urlencode

from client.dashboard.parts import part
from client.grpo.entry import Entry, energy_text
from client.training.log import read_log, runs
from common.pages.page import Section, html_table, paragraph
from common.pages.plots import COLOURS, Line, lines
from common.web.visit import Answer, Document, Visit

_SHOWN = 20
_PLOTS: dict[str, dict[str, str]] = {
    "Reward": {"reward": "reward"},
    "Shares": {"zero_variance": "questions all right or all wrong", "unboxed": "no box", "truncated": "cut"},
    "KL": {"kl": "KL"},
    "Sampled and trained": {"mismatch": "distance of log-probabilities"},
    "Seconds": {"seconds": "whole step", "seconds_decode": "decode", "seconds_train": "train"},
}
_COLUMNS = ("reward", "zero_variance", "unboxed", "letter", "truncated", "kl", "clipped", "seconds")


def training(folder: Path, visit: Visit) -> Answer:
    """Return the page of one run, the latest where the address names none that there is."""
    known = runs(folder)
    wanted = visit.query.get("run", "")
    run = wanted if wanted in known else (known[-1] if known else None)
    sections = [Section("Whose figures", paragraph(_NOTICE, "warn")), part("Runs", partial(_runs, known, run))]
    if run is not None:
        steps = cache(partial(_latest, folder, run))
        sections.append(part("Curves", lambda: _curves(steps())))
        sections.append(part("Steps", lambda: _steps(steps())))
    return Document("Training", "How training goes at this site, from its own log.", sections)


def _latest(folder: Path, run: str) -> list[Entry]:
    """Return the steps of a run's latest configuration."""
    entries = read_log(folder, run)
    return [entry for entry in entries if entry.config == entries[-1].config]


_NOTICE = (
    "These figures are of this site's own patients, without the noise that protects what leaves. Treat them as a table "
    "of patients."
)


def _runs(known: Sequence[str], run: str | None) -> str:
    if not known:
        return paragraph("Nothing was trained here yet.")
    links = "".join(
        f"<li><strong>{escape(name)}</strong></li>"
        if name == run
        else f'<li><a href="/training?{escape(urlencode({"run": name}))}">{escape(name)}</a></li>'
        for name in reversed(known)
    )
    return f"<ul>{links}</ul>"


def _curves(steps: Sequence[Entry]) -> str:
    drawn = []
    for title, names in _PLOTS.items():
        series = []
        for place, (name, label) in enumerate(names.items()):
            points = [
                (float(i), value) for i, entry in enumerate(steps, 1) if (value := _number(entry, name)) is not None
            ]
            if points:
                series.append(Line(label, points, COLOURS[place], mark=place))
        if series:
            drawn.append(lines(title.lower(), title, series, x="step", y=""))
    if not drawn:
        return paragraph("No step has ended yet.")
    collapse = paragraph(f"Collapsed: {steps[-1].collapse}", "warn") if steps[-1].collapse else ""
    return f'{collapse}<div class="pair">{"".join(drawn)}</div>'


def _steps(steps: Sequence[Entry]) -> str:
    latest = steps[::-1][:_SHOWN]
    rows = [
        (
            f"{entry.round}" + (f", step {entry.step + 1}" if entry.step else ""),
            entry.patients,
            *(_number(entry, name) for name in _COLUMNS),
        )
        for entry in latest
    ]
    head = ("round", "patients", "reward", "agree", "no box", "one letter", "cut", "KL", "clipped", "seconds")
    table = html_table(head, rows, caption=f"The last {len(rows):,} of {len(steps):,} steps, the latest first.")
    return table + paragraph(f"{energy_text(steps)}.", "note")


def _number(entry: Entry, name: str) -> float | None:
    """Return a finite number of a step; None where the file says none."""
    value = getattr(entry, name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
