"""What a review comes to: a page for the site, a table of ratings for the site, a summary that may leave by hand."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from client.preview.text import visible
from client.review.figures import Figures
from client.review.scale import AXES
from client.review.statistics import Agreement, Preference
from client.review.store import ReviewStore
from common.errors import Code, FedReasonError
from common.identity.keys import write_private
from common.pages.page import Section, details, facts, html_table, page, paragraph
from common.pages.plots import Bars, bars

FEWEST = 10
"""Patients that a figure of the summary stands on at the least."""
HEAD = (
    "",
    "A better",
    "alike",
    "B better",
    "patients A : B",
    "share for A",
    "p",
    "mean, A above 0",
    "other raters too",
)
_SPREADSHEET = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet would take for the beginning of a formula."""


def cells(name: str, found: Preference | None) -> tuple[object, ...]:
    """Return a row of a table: ratings, patients, share of the decided patients and mean with their intervals."""
    if found is None:
        return (name, 0, 0, 0, *[None] * (len(HEAD) - 4))
    counts = (found.better, found.alike, found.worse, f"{found.first} : {found.second} of {found.patients}")
    share = None if found.share is None else f"{found.share:.2f} ({_between(found.share_interval)})"
    p = None if found.p is None else "< 0.001" if found.p < 0.001 else f"{found.p:.3f}"
    return (
        name,
        *counts,
        share,
        p,
        f"{found.mean:+.2f} ({_between(found.mean_interval)})",
        _between(found.wide_interval),
    )


def _between(ends: tuple[float, float] | None) -> str:
    return "no interval" if ends is None else f"{ends[0]:.2f} to {ends[1]:.2f}"


def lines(found: Figures) -> list[str]:
    """Return the figures by axis for a terminal."""
    told = [f"A is {found.first}, B is {found.second}; {found.rated} of {found.cases} cases are rated."]
    for axis, label in AXES.items():
        one = found.axes[axis]
        if one is None:
            told.append(f"{label}: no ratings")
            continue
        _, better, alike, worse, patients, share, p, mean, wide = cells(label, one)
        decided = "no patient is decided" if share is None else f"patients {patients}, share {share}, p {p}"
        agreeing = found.agreement[axis]
        told.append(
            f"{label}: A better {better}, alike {alike}, B better {worse}; {decided}; mean {mean}"
            + ("" if one.wide_interval is None else f", other raters too {wide}")
            + ("" if agreeing is None else f"; alpha {agreeing.alpha:.2f}")
        )
    return told


def report_page(found: Figures, store: ReviewStore, name: str) -> str:
    """Return the report as a page of HTML; it holds comments, which may be patient data."""
    compared = facts(
        {
            "A": found.first,
            "B": found.second,
            "Cases": found.cases,
            "Cases with a rating": found.rated,
            "Answered alike word for word": found.alike,
            "Raters": len(found.raters),
            "Ratings still open": found.left,
        }
    )
    axes = [cells(label, found.axes[axis]) for axis, label in AXES.items()]
    shown = [
        (label, one) for axis, label in AXES.items() if (one := found.axes[axis]) is not None and one.share_interval
    ]
    plot = ""
    if shown:
        values = Bars(
            "share for A",
            [one.share for _, one in shown],
            spread=[one.share_interval for _, one in shown if one.share_interval],
        )
        title = "Share of the decided patients whose raters prefer A"
        plot = bars("shares", title, [label for label, _ in shown], [values], x="share, with the exact 95 % interval")
    alphas = [(label, _alpha(found.agreement[axis])) for axis, label in AXES.items()]
    sections = [
        Section("What was compared", compared),
        Section("Preference by axis", html_table(HEAD, axes) + plot),
        Section("Overall preference by kind of question", _table(found.kinds.items())),
        Section("Overall preference by rater", _table(found.by_rater.items(), HEAD[:-1])),
        Section("Agreement", html_table(["", "Krippendorff's alpha"], alphas)),
        Section("Comments", _comments(store)),
        Section("How to read it", "".join(paragraph(text) for text in _READING)),
    ]
    return page(f"Blinded comparison {name}", "For this site alone: it may hold patient data.", sections)


_READING = (
    "A patient has one vote: the side that the mean of all ratings of theirs is on. The share is that of the decided "
    "patients, with the exact (Clopper-Pearson) interval; p is that of the exact two-sided sign test.",
    "The mean is that of all ratings, from -2 (B much better) to 2 (A much better); its interval comes from drawing "
    "patients anew, each with all that was said of them. There is none of fewer than ten patients, nor where all say "
    "the same. The last column draws raters anew as well: it is the interval for other raters, rough where there are "
    "few.",
    "Krippendorff's alpha is 1 where raters agree and 0 where they agree as by chance; it takes the five steps of the "
    "scale as equally wide.",
    "Five axes are five looks at the same ratings: a single small p among them says little. All is about these raters "
    "and these patients, and about which text they prefer, not about what becomes of a patient.",
)


def _alpha(found: Agreement | None) -> str:
    return "none: no two ratings of a case, or all alike" if found is None else f"{found.alpha:.3f}"


def _table(rows: Iterable[tuple[str, Preference]], head: Sequence[str] = HEAD) -> str:
    found = [cells(name, one)[: len(head)] for name, one in rows]
    return html_table(head, found) if found else ""


def _comments(store: ReviewStore) -> str:
    rows = [(f"Case {row.case}, {row.rater}", visible(row.comment)) for row in store.ratings() if row.comment]
    return details(f"{len(rows)} comments", facts_of(rows)) if rows else ""


def facts_of(rows: Sequence[tuple[str, str]]) -> str:
    """Return names and texts, one per line; a name may come twice."""
    return "".join(facts({name: text}) for name, text in rows)


def summary(found: Figures) -> str:
    """Return what may leave: shares, tests and agreement, of no fewer than `FEWEST` patients each; no count below that.

    The kinds of question are told all or none: what is left out of a sum is what the rest lacks.

    Raises
    ------
    FedReasonError
        REVIEW_SMALL where not even the overall preference stands on so many patients.
    """
    overall = found.axes["overall"]
    if overall is None or overall.patients < FEWEST:
        raise FedReasonError(
            Code.REVIEW_SMALL,
            f"The overall preference stands on fewer than {FEWEST} patients.",
            "A summary leaves when more cases are rated; the report is there for this site.",
        )
    kinds = {name: _told(one) for name, one in found.kinds.items()}
    table = {
        "A": found.first,
        "B": found.second,
        "raters": len(found.raters),
        "axes": {
            axis: {**told, "alpha": _agreed(found.agreement[axis])}
            for axis, one in found.axes.items()
            if one is not None and (told := _told(one)) is not None
        },
        "kinds": kinds if all(told is not None for told in kinds.values()) else None,
        "fewest_patients": FEWEST,
    }
    return json.dumps(table, indent=1) + "\n"


def _told(one: Preference) -> dict[str, object] | None:
    if one.patients < FEWEST:
        return None
    decided = one.first + one.second >= FEWEST
    return {
        "patients": one.patients,
        "ratings": one.ratings,
        "share_for_A": _rounded(one.share) if decided else None,
        "share_interval": _ends(one.share_interval) if decided else None,
        "p": float(f"{one.p:.4g}") if decided and one.p is not None else None,
        "mean": _rounded(one.mean),
        "mean_interval": _ends(one.mean_interval),
        "mean_interval_other_raters": _ends(one.wide_interval),
    }


def _agreed(found: Agreement | None) -> float | None:
    return None if found is None or found.patients < FEWEST else _rounded(found.alpha)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _ends(ends: tuple[float, float] | None) -> list[float] | None:
    return None if ends is None else [round(end, 2) for end in ends]


def ratings_csv(store: ReviewStore) -> str:
    """Return every rating as a row, above 0 where A is better; comments may be patient data."""
    review, cases = store.review(), store.cases()
    assert review is not None
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["case", "kind", "item", "rater", "left", *AXES, "skipped", "comment", "at"])
    for row in store.ratings():
        sign, left = (-1, "A") if row.left == "first" else (1, "B")
        answers = [sign * row.answers[axis] if axis in row.answers else "" for axis in AXES]
        case = cases[row.case]
        comment = f"'{row.comment}" if row.comment.startswith(_SPREADSHEET) else row.comment
        writer.writerow(
            [row.case, case.kind, case.item, row.rater, left, *answers, "yes" if row.skipped else "no", comment, row.at]
        )
    return text.getvalue()


def write(path: Path, text: str) -> Path:
    """Write a file for its owner alone.

    Raises
    ------
    FedReasonError
        DISK_FULL where it cannot be written; one that was there before stays as it was.
    """
    try:
        write_private(path, text.encode())
    except OSError as error:
        raise FedReasonError(
            Code.DISK_FULL,
            f"{path} cannot be written ({type(error).__name__}).",
            "Free some space, correct the permissions, or name another file.",
        ) from None
    return path
