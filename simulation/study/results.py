"""docs/results.md from finished studies: tables and figures of `results.json`, with what they do not show."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from common.errors import Code, FedReasonError
from common.pages.figure import standing
from common.pages.plots import forest
from server.reports.studied import RESULTS
from server.rounds.store import write_durably
from simulation.statistics.page import differences, dots, pair_of, size_of
from simulation.statistics.tables import NAMES, ends, number, p_text

FIGURES = "figures"
_ALPHA = 0.05
"""Significance level: from this adjusted p on a difference is not called one."""
_PAGE = Template("""# Results

Written by

    python -m simulation results $folders --out $out

from the tables of finished studies. [studies.md](studies.md) says how they are run and what each figure means;
`report.html` in a study's folder holds more: by site, by item, by group, calibration.

$studies
## What this does not show

- The models are the small ones that each study's configuration names. What a large language model would gain is not in
  these figures.
- Hospitals are simulated: the records of one source, or made-up ones, are dealt out over the sites of a study. Real
  hospitals differ in more ways.
- An interval is over patients. What another seed would change stands beside it, seed by seed; three seeds make no
  interval.
- All arms of a study take as many rounds, so none is shown at its best number.
""")


def write_results_page(folders: Sequence[Path], out: Path) -> None:
    """Write the page and its figures (beside it, in `figures/`).

    Raises
    ------
    FedReasonError
        CONFIG_MISSING where a folder holds no results of a study, STUDY_DAMAGED where they cannot be read, CONFIG_VALUE
        where two studies have one name.
    """
    read = [section_of(folder) for folder in folders]
    names = sorted({name for name, _, _ in read})
    if len(names) < len(read):
        raise FedReasonError(
            Code.CONFIG_VALUE,
            f"{len(read)} folders hold studies of fewer names ({', '.join(names)}), by which figures are called.",
            "Name each study once, and write those of one name to pages in folders of their own.",
        )
    figures = out.parent / FIGURES
    figures.mkdir(parents=True, exist_ok=True)
    for name, _, drawn in read:
        for kind, figure in drawn.items():
            write_durably(figures / f"{name}-{kind}.svg", figure)
    parts = "\n".join(text for _, text, _ in read)
    write_durably(out, _PAGE.substitute(folders=" ".join(map(str, folders)), out=out, studies=parts))


def section_of(folder: Path) -> tuple[str, str, dict[str, str]]:
    """Return the name of a finished study, its section of the page, and its figures as SVG files by kind."""
    path = folder / RESULTS
    if not path.exists():
        raise FedReasonError(
            Code.CONFIG_MISSING, f"{path} is not there.", "Run the study to its end, and name its folder."
        )
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        name = str(results["study"])
        return name, study_text(name, results), drawings(results)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise FedReasonError(
            Code.STUDY_DAMAGED,
            f"{path} cannot be read, or is of an older version.",
            "Run the study again: it is computed anew from its table.",
        ) from None


def drawings(results: Mapping[str, Any]) -> dict[str, str]:
    """Return the figures of a study as SVG files."""
    shares = forest("accuracy", "Free-form accuracy", dots(results["accuracy"]), x="share of right answers")
    found = {"accuracy": standing(shares)}
    if results["comparisons"]:
        apart = forest("differences", "Differences", differences(results), x="right of the line the first is better",
                       around=0.0)  # fmt: skip
        found["differences"] = standing(apart)
    return found


def study_text(name: str, results: Mapping[str, Any]) -> str:
    """Return the section of one study."""
    parts = [f"## {name}", "", size_of(results), ""]
    parts += [f"![Free-form accuracy of every arm, with intervals]({FIGURES}/{name}-accuracy.svg)", ""]
    parts += table(
        ["", "free-form", "95 % interval", "mean over items", "choice forced"],
        (
            [
                NAMES[side],
                number(each["free"]["estimate"]),
                ends(each["free"]),
                number(each["free_macro"]["estimate"]),
                number(each["forced"]["estimate"]),
            ]
            for side, each in results["accuracy"].items()
        ),
    )
    if results["comparisons"]:
        parts += ["Stated beforehand, on the same questions, p by Holm over all of them:", ""]
        parts += [f"![The differences, with intervals]({FIGURES}/{name}-differences.svg)", ""]
        parts += table(
            ["difference", "", "95 % interval", "p (Holm)", "by seed"],
            (
                [
                    pair_of(each),
                    number(each["free"]["estimate"], sign=True),
                    ends(each["free"], sign=True),
                    p_text(each["p_holm"]),
                    ", ".join(number(value, sign=True) for value in each["by_seed"].values()),
                ]
                for each in results["comparisons"]
            ),
        )
        parts += [*map(verdict, results["comparisons"]), ""]
    for outcome, told in results["outcomes"].items():
        if told["sides"]:
            parts += outcome_text(outcome, told)
    return "\n".join(parts)


def verdict(comparison: Mapping[str, Any]) -> str:
    """Say what an interval says, and no more: one of several may well be on a side of 0 by chance."""
    free, adjusted = comparison["free"], comparison["p_holm"]
    one, other = NAMES[comparison["one"]], NAMES[comparison["other"]]
    if free["estimate"] == free["low"] == free["high"] == 0:
        return f"- *{one}* and *{other}*: as many right answers to every patient."
    if free["low"] is None:
        return f"- *{one}* against *{other}*: there is no interval."
    if free["low"] <= 0 <= free["high"]:
        return f"- *{one}* against *{other}*: the interval holds 0."
    if adjusted >= _ALPHA:
        return (
            f"- *{one}* against *{other}*: the interval does not hold 0, but p over all differences is {adjusted:.3f}."
        )
    better, worse = (one, other) if free["low"] > 0 else (other, one)
    return f"- *{better}* is above *{worse}*: the interval does not hold 0."


def outcome_text(name: str, told: Mapping[str, Any]) -> list[str]:
    """Return the lines on one outcome."""
    first = next(iter(told["sides"].values()))
    return [
        f"`{name}`, {first['events']} of {first['asked']} {told['event']}:",
        "",
        *table(
            ["", "AUROC", "95 % interval", "Brier score", "slope"],
            (
                [
                    NAMES[side],
                    number(each["auroc"]["estimate"]),
                    ends(each["auroc"]),
                    number(each["brier"]["estimate"]),
                    number(each["calibration_slope"]),
                ]
                for side, each in told["sides"].items()
            ),
        ),
    ]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a Markdown table and the empty line behind it."""
    return [row_of(head), row_of(["---"] * len(head)), *map(row_of, rows), ""]


def row_of(cells: Sequence[str]) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(re.sub(r'[|<>]', ' ', cell) for cell in cells)} |"
