"""The results of a study as sections of a page: plots with their numbers beside them, from `results.json` alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.pages.page import Section, details, html_table, paragraph
from common.pages.plots import COLOURS, GREY, Bars, Dot, Line, bars, forest, lines
from server.reports.studied import SHOWN
from simulation.statistics.tables import NAMES, ends, number, p_text

Results = Mapping[str, Any]


def sections(results: Results) -> list[Section]:
    """Return every section that the results have figures for."""
    return [
        Section("Accuracy", accuracy(results)),
        Section("Stated beforehand", comparisons(results)),
        *(Section(f"Outcome: {name}", outcome(name, each)) for name, each in results["outcomes"].items()),
        *(Section(f"By {name}", subgroup(each)) for name, each in results["subgroups"].items() if each["groups"]),
        Section("By site of the patients", by_level(results["by_site"], "site", drawn="sites")),
        Section("Each site's own adapter at every site", across(results["across"])),
        Section("By item", by_level(results["by_item"], "item")),
        Section("By seed", by_level(results["by_seed"], "seed")),
    ]


def accuracy(results: Results) -> str:
    """Return the accuracy of every side with its interval."""
    told = results["accuracy"]
    head = ["", "free-form", "95 % interval", "mean over items", "choice forced"]
    rows = [
        [NAMES[side], number(each["free"]["estimate"]), ends(each["free"]),
         number(each["free_macro"]["estimate"]), number(each["forced"]["estimate"])]
        for side, each in told.items()
    ]  # fmt: skip
    drawn = forest("accuracy", "Free-form accuracy, 95 % intervals by patient", dots(told), x="share of right answers")
    marked = {place: "main" for place, side in enumerate(told) if side == "federated"}
    note = (
        "Free-form counts what the model boxes itself; choice forced takes the likeliest choice where it boxes none. "
        "An interval says how far another sample of patients would move the figure of these adapters, not how far "
        "another seed would."
    )
    return drawn + html_table(head, rows, caption=size_of(results), kinds=marked) + paragraph(note, "note")


def size_of(results: Results) -> str:
    """Say how much was asked."""
    seeds = len(results["seeds"])
    return (
        f"{results['questions']:,} held-out questions to {results['patients']:,} patients, "
        f"{seeds} {'seed' if seeds == 1 else 'seeds'}."
    )


def dots(told: Mapping[str, Any]) -> list[Dot]:
    """Return the sides' free-form accuracies."""
    return [
        Dot(NAMES[side], each["free"]["estimate"], (each["free"]["low"], each["free"]["high"]))
        for side, each in told.items()
    ]


def differences(results: Results) -> list[Dot]:
    """Return the stated differences of free-form accuracy."""
    return [
        Dot(pair_of(each), each["free"]["estimate"], (each["free"]["low"], each["free"]["high"]))
        for each in results["comparisons"]
    ]


def pair_of(comparison: Mapping[str, Any]) -> str:
    """Name a difference."""
    return f"{comparison['one']} less {comparison['other']}"


def comparisons(results: Results) -> str:
    """Return the differences that the study stated, empty where it stated none."""
    if not results["comparisons"]:
        return ""
    seeds = [f"seed {seed}" for seed in results["seeds"]]
    head = ["difference", "", "95 % interval", "p", "p (Holm)", *seeds]
    rows = [
        [pair_of(each), number(each["free"]["estimate"], sign=True), ends(each["free"], sign=True),
         p_text(each["p"]), p_text(each["p_holm"]),
         *(number(each["by_seed"].get(str(seed)), sign=True) for seed in results["seeds"])]
        for each in results["comparisons"]
    ]  # fmt: skip
    drawn = forest(
        "differences",
        "Differences of free-form accuracy on the same questions, 95 % intervals",
        differences(results),
        x="right of the line the first is better",
        around=0.0,
    )
    note = "Paired by patient; p by exchanging each patient's answers, adjusted over all differences of this table."
    return drawn + html_table(head, rows, caption="Free-form accuracy, one side less the other.") + paragraph(
        note, "note"
    )  # fmt: skip


def by_level(table: Mapping[str, Mapping[str, Any]], name: str, *, drawn: str = "") -> str:
    """Return accuracy by value of a level, with bars where `drawn` names them."""
    if not table:
        return ""
    sides = [side for side in NAMES if any(side in each for each in table.values())]
    rows = [[value, each["questions"], *(number(each.get(side)) for side in sides)] for value, each in table.items()]
    shown = html_table([name, "questions", *(NAMES[side] for side in sides)], rows, caption="Free-form accuracy.")
    if not drawn:
        return shown
    trained = [side for side in sides if side not in ("chance", "majority", "boosting")]
    series = [
        Bars(NAMES[side], [each.get(side) for each in table.values()], COLOURS[place % len(COLOURS)])
        for place, side in enumerate(trained)
    ]
    picture = bars(drawn, "Free-form accuracy", list(table), series, x="share of right answers")
    return picture + details("Numbers", shown)


def subgroup(table: Mapping[str, Any]) -> str:
    """Return accuracy by group with its interval, the worst one of each side and how far it is from the best."""
    groups = table["groups"]
    rows = []
    for side, worst in table["worst"].items():
        lags = worst["gap"] >= SHOWN
        shares = [f"{number(each[side])}, {ends(table['intervals'][group][side])}" for group, each in groups.items()]
        rows.append([NAMES[side], *shares, worst["group"] if lags else None, number(worst["gap"])])
    head = ["", *(f"{group} ({each['patients']} patients)" for group, each in groups.items()), "worst", "gap to best"]
    note = "Groups of fewer than 20 patients are not shown. Of several groups one is worst by chance alone."
    caption = "Free-form accuracy with its 95 % interval."
    return html_table(head, rows, caption=caption) + paragraph(note, "note")


def across(table: Mapping[str, Mapping[str, float]]) -> str:
    """Return how each site's own adapter does at every site, empty where none was trained alone."""
    if not table:
        return ""
    sites = sorted({site for row in table.values() for site in row})
    rows = [[trained, *(number(row.get(site)) for site in sites)] for trained, row in table.items()]
    head = ["trained at", *(f"asked at {site}" for site in sites)]
    return html_table(head, rows, caption="Free-form accuracy of adapters that one site trained alone.")


def outcome(name: str, told: Mapping[str, Any]) -> str:
    """Return how well an outcome is foretold: discrimination, calibration, what acting on it would be worth."""
    sides = told["sides"]
    if not sides:
        return ""
    first = next(iter(sides.values()))
    head = ["", "AUROC", "95 % interval", "average precision", "Brier score", "slope", "intercept"]
    rows = [
        [NAMES[side], number(each["auroc"]["estimate"]), ends(each["auroc"]), number(each["average_precision"]),
         number(each["brier"]["estimate"]), number(each["calibration_slope"]), number(each["calibration_intercept"])]
        for side, each in sides.items()
    ]  # fmt: skip
    caption = f"{first['events']} of {first['asked']} {told['event']}."
    parts = [html_table(head, rows, caption=caption)]
    if told["comparisons"]:
        parts.append(
            html_table(
                ["difference", "AUROC", "95 % interval", "Brier score", "95 % interval "],
                [
                    [
                        pair_of(each),
                        number(each["auroc"]["estimate"], sign=True),
                        ends(each["auroc"], sign=True),
                        number(each["brier"]["estimate"], sign=True),
                        ends(each["brier"], sign=True),
                    ]
                    for each in told["comparisons"]
                ],
                caption="Stated beforehand.",
            )
        )
    parts.append(f'<div class="pair">{reliability(name, sides)}{decision(name, sides)}</div>')
    return "\n".join(parts)


def reliability(name: str, sides: Mapping[str, Any]) -> str:
    """Return shares of events over probabilities, in groups of like probability."""
    series = [Line("right on average", [(0.0, 0.0), (1.0, 1.0)], GREY, mark=None, dashed=True)]
    series += [
        Line(NAMES[side], [(probability, share) for probability, share, _ in each["reliability"]],
             COLOURS[place % len(COLOURS)], mark=place)
        for place, (side, each) in enumerate(sides.items())
    ]  # fmt: skip
    return lines(
        f"{name}-reliability", "Reliability", series, x="probability given", y="share with the event", top=1.0,
        span=(0.0, 1.0),
    )  # fmt: skip


def decision(name: str, sides: Mapping[str, Any]) -> str:
    """Return the net benefit of acting from a probability on, beside acting on everybody and on nobody."""
    first = next(iter(sides.values()))
    series = [Line("on everybody", _by_threshold(first["net_benefit_all"]), GREY, mark=None, dashed=True)]
    series += [
        Line(NAMES[side], _by_threshold(each["net_benefit"]), COLOURS[place % len(COLOURS)], mark=place)
        for place, (side, each) in enumerate(sides.items())
    ]
    return lines(f"{name}-benefit", "Decision curve", series, x="probability from which one acts", y="net benefit")


def _by_threshold(told: Mapping[str, float | None]) -> list[tuple[float, float]]:
    return [(float(at), value) for at, value in told.items() if value is not None]
