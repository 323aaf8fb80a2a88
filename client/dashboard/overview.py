"""Where the site stands, live, and the forms that hold it and let it go on."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from functools import partial
from pathlib import Path

from starlette.responses import Response

from client.dashboard.parts import clock, part
from client.node.hours import allowed, next_change, paused
from client.node.hours import pause as pause_site
from client.node.hours import resume as resume_site
from client.node.status import health, read_status
from client.site.config import load_site
from client.site.kit import NEWER_ROSTER, newer_waits
from client.training.states import MOST_SILENT, Attempts, State, read_attempts
from common.errors import FedReasonError
from common.pages.page import facts, html_table, paragraph
from common.web.visit import Answer, Document, Visit, go

_LONGEST_REASON = 200


def overview(folder: Path, visit: Visit) -> Answer:
    """Return the first page."""
    sections = [
        part("Where it stands", partial(_standing, folder)),
        part("Pause and resume", partial(_forms, folder, visit)),
        part("Open hours", partial(_hours, folder)),
        part("Attempts", partial(_attempts, folder)),
    ]
    return Document(folder.name, "What this site does now. The page follows it.", sections, live=True)


def pause(folder: Path, visit: Visit) -> Response:
    """Hold the site, as `python -m client pause` does."""
    pause_site(folder, visit.form.get("reason", "")[:_LONGEST_REASON])
    visit.session.notice = "Paused. What is being computed stops within seconds."
    return go("/")


def resume(folder: Path, visit: Visit) -> Response:
    """Let the site go on, as `python -m client resume` does."""
    Attempts(folder).go_on()
    resume_site(folder)
    visit.session.notice = "Resumed."
    return go("/")


def _standing(folder: Path) -> str:
    record = read_status(folder)
    judged = health(record)
    newer = paragraph(f"{NEWER_ROSTER[0].upper()}{NEWER_ROSTER[1:]}.", "warn") if newer_waits(folder) else ""
    if record is None:
        return paragraph(f"Not well: {judged.text}.", "warn") + newer
    shown, kind = (f"Well: {judged.text}.", "good") if judged.well else (f"Not well: {judged.text}.", "warn")
    return (
        paragraph(shown, kind)
        + newer
        + facts(
            {
                "state": record.state,
                "since": clock(record.since),
                "says": record.text or None,
                "refusal": None if record.code is None else f"E{record.code}",
                "stage": record.stage if judged.well else None,
                "stage since": clock(record.stage_since) if judged.well else None,
                "run": record.run,
                "round": record.round,
                "coordinator last heard": clock(record.contact) or "never",
                "messages sent in all": f"{record.messages:,}",
                "bytes sent in all": f"{record.bytes:,}",
                "process": record.pid,
                "the one that computes was started, times": record.loads,
            }
        )
    )


def _forms(folder: Path, visit: Visit) -> str:
    reason = paused(folder)
    if reason is not None:
        told = paragraph(f"Paused by hand: {reason}. Rounds go on without this site.")
        return told + visit.button("/resume", "Resume")
    field = f'<label>Reason, for the log of this site <input name="reason" maxlength="{_LONGEST_REASON}"></label>'
    told = paragraph("A pause stops computing at once and frees the GPU; rounds go on without this site.")
    form = f'{told}<div class="stacked">{visit.form_of("/pause", field, "Pause")}</div>'
    if waiting := _waiting(folder):
        form += paragraph(
            f"{', '.join(waiting)}: attempts were charged and ended without an answer (E817). Look into the log for "
            "the cause; then let the site go on.",
            "warn",
        ) + visit.button("/resume", "Resume")
    return form


def _waiting(folder: Path) -> list[str]:
    """Return the runs that take no part until a person has looked; a file that is damaged is told in its own part."""
    try:
        return [run for run, count in read_attempts(folder).deaths.items() if count >= MOST_SILENT]
    except (FedReasonError, OSError):
        return []


def _hours(folder: Path) -> str:
    windows = load_site(folder).hours
    if not windows:
        return paragraph("At any time: site.toml states no hours.")
    now = datetime.now().astimezone()
    change = next_change(now, windows)
    state = "open" if allowed(now, windows) else "closed"
    return facts(
        {
            "hours of the GPU, in the time of this machine": ", ".join(windows),
            "now": state,
            "changes": None if change is None else f"{change:%Y-%m-%d %H:%M}",
        }
    )


def _attempts(folder: Path) -> str:
    told = read_attempts(folder)
    if not told.states:
        return paragraph("No private run has computed anything here.")
    counted: dict[str, Counter[State]] = {}
    for attempt, state in told.states.items():
        counted.setdefault(attempt.run, Counter())[state] += 1
    ended = (State.SENT, State.SILENT)
    rows = [
        (
            run,
            states[State.SENT],
            states[State.SILENT],
            sum(count for state, count in states.items() if state not in ended),
            told.deaths.get(run, 0),
        )
        for run, states in reversed(counted.items())
    ]
    head = ("run", "answered", "silent", "under way", "silent since a person looked")
    return html_table(head, rows, caption=f"Of private runs. {MOST_SILENT} silent ones stop a run here (E817).")
