"""All that is computed of a study's table, as one JSON document beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from server.reports.studied import LEAST, RESULTS
from server.rounds.store import write_durably
from simulation.statistics import outcomes
from simulation.statistics.resampling import Interval, exchanged, holm, interval, moved, ratio, share_interval
from simulation.statistics.scores import MEASURES, Sums, scores, sums
from simulation.study.config import CHANCE, OWN, Arm, StudyConfig
from simulation.study.rows import GROUP, bands_of, read_table


def write_results(path: Path) -> dict[str, Any]:
    """Compute everything from a study's table, write it beside it and return it."""
    table = read_table(path)
    config = StudyConfig.model_validate_json(table.schema.metadata[b"study"])
    found = results_of(table.to_pandas(), config)
    write_durably(path.with_name(RESULTS), json.dumps(found, indent=1, allow_nan=False))
    return found


def results_of(rows: pd.DataFrame, config: StudyConfig) -> dict[str, Any]:
    """Return what the rows of a study say."""
    sides = [CHANCE, *ordered(config)]
    tables = {measure: scores(rows, measure, sides) for measure in MEASURES}
    free = tables["free"]
    return {
        "study": config.name,
        "seeds": sorted(map(int, rows["seed"].unique())),
        "patients": int(rows["patient"].nunique()),
        "questions": len(free),
        "accuracy": {side: accuracies(tables, side, config.resamples) for side in sides},
        "by_seed": by_level(free, sides, "seed"),
        "by_site": by_level(free, sides, "site"),
        "by_item": by_level(free, sides, "item"),
        "comparisons": comparisons(tables, config),
        "outcomes": foretold_outcomes(rows, config),
        "subgroups": subgroups(rows, free, sides, config),
        "across": across(rows),
    }


def ordered(config: StudyConfig) -> list[str]:
    """Return the sides of a study, in the order of its tables."""
    found: list[str] = []
    for arm in get_args(Arm):
        if arm in config.arms:
            found += [arm, OWN] if arm == "alone" else [arm]
    return found


def accuracies(tables: dict[str, pd.DataFrame], side: str, resamples: int) -> dict[str, Any]:
    """Return a side's accuracy, free-form and forced, over all questions and as the mean over items."""
    found: dict[str, Any] = {}
    for measure, table in tables.items():
        counted = sums(table, [side])
        found[measure] = _interval(counted.whole, side, None, resamples).rounded()
        found[f"{measure}_macro"] = _interval(counted, side, None, resamples).rounded()
    return found


def _interval(counted: Sums, one: str, other: str | None, resamples: int) -> Interval:
    """Return a side's accuracy, or its difference from another's on the same questions."""
    patients = len(counted.patients)
    if other is None:
        return share_interval(patients, ratio(counted.right[one], counted.asked), resamples)
    return moved(interval(patients, ratio(counted.right[one] - counted.right[other], counted.asked), resamples), 0.0)


def comparisons(tables: dict[str, pd.DataFrame], config: StudyConfig) -> list[dict[str, Any]]:
    """Return the differences that the study stated beforehand; p is of free-form accuracy, adjusted over them all."""
    found: list[dict[str, Any]] = []
    for one, other in config.comparisons:
        difference: dict[str, Any] = {"one": one, "other": other}
        for measure, table in tables.items():
            counted = sums(table, [one, other])
            difference[measure] = _interval(counted.whole, one, other, config.resamples).rounded()
            difference[f"{measure}_macro"] = _interval(counted, one, other, config.resamples).rounded()
        counted = sums(tables["free"], [one, other]).whole
        pair = (counted.right[one][:, 0], counted.right[other][:, 0])
        difference["questions"] = int(counted.asked.sum())
        difference["by_seed"] = {
            str(seed): round(float(row[one] - row[other]), 6)
            for seed, row in tables["free"][[one, other]].dropna().groupby(level="seed").mean().iterrows()
        }
        difference["p"] = exchanged(*pair, resamples=config.resamples)
        found.append(difference)
    for each, adjusted in zip(found, holm([each["p"] for each in found]), strict=True):
        each["p_holm"] = adjusted
    return found


def by_level(table: pd.DataFrame, sides: Sequence[str], level: str) -> dict[str, dict[str, Any]]:
    """Return accuracy and questions for each value of a level, by side."""
    found = {}
    for value, part in table[list(sides)].groupby(level=level):
        found[str(value)] = {"questions": len(part), **shares_of(part, sides)}
    return found


def shares_of(table: pd.DataFrame, sides: Sequence[str]) -> dict[str, float | None]:
    """Return each side's share of right answers, None where it was asked nothing."""
    means = table[list(sides)].mean()
    return {side: None if np.isnan(means[side]) else round(float(means[side]), 6) for side in sides}


def foretold_outcomes(rows: pd.DataFrame, config: StudyConfig) -> dict[str, Any]:
    """Return what each side says of each outcome, and the stated differences of AUROC and Brier score."""
    seeds = sorted(rows["seed"].unique())
    found: dict[str, Any] = {}
    for item in config.outcomes:
        asked = rows[rows["item"] == item]
        patients = np.unique(asked["patient"])
        told = {
            side: outcomes.foretold(part, patients, seeds)  # type: ignore[arg-type]
            for side in ordered(config)
            if side != "alone" and len(part := _of_side(asked, side))
        }
        found[item] = {
            "event": config.outcomes[item],
            "sides": {side: _with_intervals(each, config.resamples) for side, each in told.items()},
            "comparisons": [
                {"one": one, "other": other, **_differences(told[one], told[other], config.resamples)}
                for one, other in config.comparisons
                if one in told and other in told
            ],
        }
    return found


def _of_side(rows: pd.DataFrame, side: str) -> pd.DataFrame:
    if side == OWN:
        return rows[(rows["arm"] == "alone") & (rows["trained_at"] == rows["site"])]
    return rows[rows["arm"] == side]


def _with_intervals(told: outcomes.Foretold, resamples: int) -> dict[str, Any]:
    patients = len(told.there)
    return outcomes.figures(told) | {
        "auroc": moved(interval(patients, outcomes.drawn_auroc(told), resamples), 0.5).rounded(),
        "brier": interval(patients, outcomes.drawn_brier(told), resamples).rounded(),
    }


def _differences(one: outcomes.Foretold, other: outcomes.Foretold, resamples: int) -> dict[str, Any]:
    """Return the differences over the patients that both were asked about."""
    both = one.there & other.there
    one, other = (replace(each, there=both) for each in (one, other))

    def difference(drawn: Any) -> dict[str, float | None]:
        first, second = drawn(one), drawn(other)
        return moved(interval(len(one.there), lambda places: first(places) - second(places), resamples), 0.0).rounded()

    return {"auroc": difference(outcomes.drawn_auroc), "brier": difference(outcomes.drawn_brier)}


def subgroups(rows: pd.DataFrame, free: pd.DataFrame, sides: Sequence[str], config: StudyConfig) -> dict[str, Any]:
    """Return accuracy by group of every column that the study names, with intervals, and of each side the worst group.

    Groups of fewer than LEAST patients are not shown.
    """
    found: dict[str, Any] = {}
    for name, cuts in config.subgroups.items():
        column = f"{GROUP}{name}"
        group = rows.drop_duplicates("patient").set_index("patient")[column]
        table = free.assign(group=group.reindex(free.index.get_level_values("patient")).to_numpy())
        there = {str(value): part for value, part in table.groupby("group")}
        groups: dict[str, dict[str, Any]] = {}
        intervals: dict[str, dict[str, Any]] = {}
        for value in (*bands_of(cuts), *(value for value in there if value not in bands_of(cuts))):
            part = there.get(value, table[:0])
            patients = part.index.get_level_values("patient").nunique()
            if patients >= LEAST:
                groups[value] = {"patients": patients, "questions": len(part), **shares_of(part, sides)}
                intervals[value] = {
                    side: _interval(sums(part, [side]).whole, side, None, config.resamples).rounded() for side in sides
                }
        worst = {side: worst for side in sides if (worst := worst_of(groups, side))}
        found[name] = {"groups": groups, "intervals": intervals, "worst": worst}
    return found


def worst_of(groups: dict[str, dict[str, Any]], side: str) -> dict[str, Any] | None:
    """Return a side's worst group and how far it is from the best one; None where there are no two."""
    shares = {group: each[side] for group, each in groups.items() if each[side] is not None}
    if len(shares) < 2:
        return None
    worst = min(shares, key=shares.__getitem__)
    return {"group": worst, "gap": round(max(shares.values()) - shares[worst], 6)}


def across(rows: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return the accuracy of each site's own adapter on every site's patients: {trained at: {asked at: share}}."""
    alone = rows[rows["arm"] == "alone"]
    means = alone.groupby(["trained_at", "site"])["correct"].mean()
    found: dict[str, dict[str, float]] = {}
    for (trained, site), value in zip(means.index, means, strict=True):
        found.setdefault(str(trained), {})[str(site)] = round(float(value), 6)
    return found
