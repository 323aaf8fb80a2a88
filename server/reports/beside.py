"""What a card says beside the sites' own counts: other answers to the same questions, and groups of patients.

Both are known of a run of a study alone; of any other the card says so.
"""

from __future__ import annotations

from server.reports.outward import AUTHORS, Outward, cell
from server.reports.studied import OWN, SHOWN, SIDES, Grouped


def by_study(run: Outward) -> str:
    """Return what the study says, of which the run is one: other answers to the same questions, and groups."""
    study = run.study
    if study is None:
        return (
            "Groups of patients, chance, majority and other models on the same questions: counts by group do not leave "
            f"a site, and this run is none of a study without noise. {AUTHORS}."
        )
    sides = [side for side in SIDES if side in study.accuracy]
    lines = ["| | free-form | choice forced |", "|---|---|---|"]
    lines += [f"| {SIDES[side]} | {study.accuracy[side].free} | {study.accuracy[side].forced} |" for side in sides]
    parts = [
        f"### In the study {cell(study.study)}",
        f"This run is that of seed {run.config.seed}. The figures are of the study's adapters of seeds "
        f"{', '.join(map(str, study.seeds))} together: {study.questions} held-out questions to {study.patients} "
        "patients. In brackets the 95 % interval by patient (bootstrap, BCa), which says nothing of another seed. "
        "Majority and boosting, where they are shown, saw all sites' records at once, which no site could.",
        "\n".join(lines),
    ]
    for grouped in run.groups:
        column = grouped.column
        shown = [side for side in SIDES if side in study.accuracy and side != "chance"]
        lines = [
            f"| {cell(grouped.label)} | patients | questions | {' | '.join(SIDES[side] for side in shown)} |",
            "|---" * (3 + len(shown)) + "|",
        ]
        for name, group in column.groups.items():
            shares = " | ".join(str(column.intervals[name].get(side, "-")) for side in shown)
            lines.append(f"| {cell(name)} | {group.patients} | {group.questions} | {shares} |")
        parts.append("\n".join(lines))
        if told := _worst(grouped):
            parts.append(f"By {told}.")
    if run.groups:
        parts.append("Shares are free-form. Of several groups one is worst by chance alone.")
    parts.append(f"Further groups, and other models on the same questions: {AUTHORS}.")
    return "\n\n".join(parts)


def _worst(grouped: Grouped) -> str:
    """Name the worst group of the run's arm, and how far it is from the best; empty where there are no two."""
    worst = grouped.column.worst.get(OWN)
    if worst is None:
        return ""
    label = cell(grouped.label)
    if worst.gap < SHOWN:
        return f"{label} no group is below another"
    return f"{label} the worst group is {cell(worst.group)}, {worst.gap:.3f} below the best"


def compared(run: Outward) -> str:
    """Say in one line what the model was compared with."""
    if run.study is None:
        return f"With the model before training, where it was evaluated. All others: {AUTHORS}."
    others = [SIDES[side] for side in SIDES if side in run.study.accuracy and side != OWN]
    return f"On the same questions: {', '.join(others)}. All others: {AUTHORS}."


def fairness(run: Outward) -> str:
    """Say in one line what is known of groups of patients."""
    told = [f"by {worst}" for grouped in run.groups if (worst := _worst(grouped))]
    if not told:
        return f"Groups of patients: {AUTHORS}."
    return f"Groups of patients in the study: {'; '.join(told)}. Further groups: {AUTHORS}."
