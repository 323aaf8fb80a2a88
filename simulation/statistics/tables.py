"""The results of a study as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from server.reports.studied import SHOWN

NAMES = {
    "chance": "chance",
    "majority": "majority answer",
    "boosting": "gradient boosting",
    "before": "before (base model)",
    "alone": "one site alone, mean",
    "own": "own site alone, at home",
    "left_out": "federated, own site left out",
    "federated": "federated",
    "pooled": "all records pooled",
    "local": "federated, local noise",
    "distributed": "federated, distributed noise",
}


def tables_of(results: Mapping[str, Any]) -> list[Table]:
    """Return every table that the results have rows for."""
    found = [accuracy_table(results)]
    if results["comparisons"]:
        found.append(comparison_table(results))
    found += [outcome_table(name, outcome) for name, outcome in results["outcomes"].items()]
    found += [subgroup_table(name, groups) for name, groups in results["subgroups"].items() if groups["groups"]]
    if results["across"]:
        found.append(across_table(results))
    return found


def accuracy_table(results: Mapping[str, Any]) -> Table:
    """Accuracy of every side."""
    seeds = len(results["seeds"])
    title = (
        f"{results['study']}: {results['questions']} held-out questions to {results['patients']} patients, "
        f"{seeds} {'seed' if seeds == 1 else 'seeds'}; 95 % intervals by patient"
    )
    table = Table("", "free-form", "interval", "mean over items", "forced", title=title)
    for side, each in results["accuracy"].items():
        free = each["free"]
        table.add_row(
            NAMES[side],
            number(free["estimate"]),
            ends(free),
            number(each["free_macro"]["estimate"]),
            number(each["forced"]["estimate"]),
        )
    return table


def comparison_table(results: Mapping[str, Any]) -> Table:
    """Stated differences of free-form accuracy."""
    table = Table("difference", "", "interval", "p (Holm)", "by seed", title="Stated beforehand, free-form accuracy")
    for each in results["comparisons"]:
        seeds = " ".join(number(value, sign=True) for value in each["by_seed"].values())
        table.add_row(
            f"{each['one']} - {each['other']}",
            number(each["free"]["estimate"], sign=True),
            ends(each["free"], sign=True),
            p_text(each["p_holm"]),
            seeds,
        )
    return table


def outcome_table(name: str, outcome: Mapping[str, Any]) -> Table:
    """How well an outcome is foretold."""
    columns = ("", "AUROC", "interval", "average precision", "Brier", "slope", "intercept")
    some = next(iter(outcome["sides"].values()), {"asked": 0, "events": 0})
    table = Table(*columns, title=f"{name}: {some['events']} of {some['asked']} {outcome['event']}")
    for side, each in outcome["sides"].items():
        table.add_row(
            NAMES[side],
            number(each["auroc"]["estimate"]),
            ends(each["auroc"]),
            number(each["average_precision"]),
            number(each["brier"]["estimate"]),
            number(each["calibration_slope"]),
            number(each["calibration_intercept"]),
        )
    return table


def subgroup_table(name: str, subgroup: Mapping[str, Any]) -> Table:
    """Accuracy by group, the worst group of each side marked."""
    groups = subgroup["groups"]
    table = Table("", *(f"{group} ({each['patients']})" for group, each in groups.items()), "gap", title=f"By {name}")
    for side, worst in subgroup["worst"].items():
        shares = [
            f"{number(each[side])}{' worst' if group == worst['group'] and worst['gap'] >= SHOWN else ''}"
            for group, each in groups.items()
        ]
        table.add_row(NAMES[side], *shares, number(worst["gap"]))
    return table


def across_table(results: Mapping[str, Any]) -> Table:
    """Accuracy of every site's own adapter at every site."""
    sites = sorted({site for row in results["across"].values() for site in row})
    table = Table("trained at, asked at", *sites, title="Each site's own adapter at every site")
    for trained, row in results["across"].items():
        table.add_row(trained, *(number(row.get(site)) for site in sites))
    return table


def number(value: float | None, *, sign: bool = False) -> str:
    """Text of a figure, a dash where there is none."""
    return "-" if value is None else f"{value:+.3f}" if sign else f"{value:.3f}"


def p_text(value: float) -> str:
    """Text of a p value, which is never 0."""
    return "below 0.0001" if value < 0.00005 else f"{value:.4f}"


def ends(interval: Mapping[str, float | None], *, sign: bool = False) -> str:
    """Text of an interval."""
    return f"{number(interval['low'], sign=sign)} to {number(interval['high'], sign=sign)}"
