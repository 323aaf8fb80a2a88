"""The part of docs/privacy.md that shows what `bench.utility` found where noise is shared: each seed, and the mean."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy import stats

from bench.page import Part
from common import wilson

BEGIN = "<!-- written by bench.utility -->"
Row = dict[str, Any]
_WHO = {
    "central": "one trusted server",
    "distributed": "the sites, a share each",
    "local": "every site, all of it",
}


def write(rows: Sequence[Row], docs: Path) -> None:
    """Keep the rows in `utility.json` and show them in `privacy.md`, between its two marks."""
    Part("privacy.md", "utility.json", BEGIN).write(rows, shown(rows), docs)


def shown(rows: Sequence[Row]) -> str:
    """Return, as Markdown, what each arm's noise came to and the accuracy that it left.

    The arms of a seed have the same patients and questions, so that their differences vary less than they do.
    """
    seeds = sorted({row["seed"] for row in rows})
    arms = {noise: _arm(rows, noise) for noise in _WHO}
    head = ["noise added by", "noise, theory", "mean as released", *(f"seed {seed}" for seed in seeds)]
    head += ["mean", "beside the server's", "reward, last round"]
    before = [row["accuracy_before"] for row in arms["central"]]
    lines = [head, ["---"] * len(head)]
    lines.append(["before training", "", "", *(f"{value:.3f}" for value in before), over_seeds(before), "", ""])
    for noise, arm in arms.items():
        after = [row["accuracy_after"] for row in arm]
        server = [row["accuracy_after"] for row in arms["central"]]
        beside = [one - other for one, other in zip(after, server, strict=True)]
        seen = statistics.fmean(row["mean_norm"] for row in arm)
        cells = [_WHO[noise], f"{arm[0]['noise_norm']:.2f} C", f"{seen:.2f} C", *map(_accuracy, arm), over_seeds(after)]
        cells.append("" if noise == "central" else over_seeds(beside, signed=True))
        lines.append([*cells, over_seeds([row["reward_last"] for row in arm])])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _arm(rows: Sequence[Row], noise: str) -> list[Row]:
    return sorted((row for row in rows if row["noise"] == noise), key=lambda row: int(row["seed"]))


def _accuracy(row: Row) -> str:
    share = row["accuracy_after"]
    return f"{share:.3f} ({wilson.shown(share, row['questions'])})"


def over_seeds(values: Sequence[float], *, signed: bool = False) -> str:
    """Return the mean of the seeds with its interval by Student's t, which takes them for draws of one normal."""
    mean = statistics.fmean(values)
    text = f"{mean:+.3f}" if signed else f"{mean:.3f}"
    if len(values) < 2:
        return text
    quantile = float(stats.t.ppf((1 + wilson.LEVEL) / 2, len(values) - 1))
    reach = quantile * statistics.stdev(values) / len(values) ** 0.5
    return f"{text} ± {reach:.3f}"
