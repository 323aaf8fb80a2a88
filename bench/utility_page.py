"""The part of docs/privacy.md that shows what `bench.utility` found where noise is shared: each seed, and the mean."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy import stats

from common import wilson

BEGIN, END = "<!-- written by bench.utility -->", "<!-- end -->"
Row = dict[str, Any]
_WHO = {
    "central": "one trusted server",
    "distributed": "the sites, a share each",
    "local": "every site, all of it",
}


def write(rows: Sequence[Row], docs: Path) -> None:
    """Keep the rows in `utility.json` and show them in `privacy.md`, between its two marks."""
    (docs / "utility.json").write_text(json.dumps(list(rows), indent=1) + "\n", encoding="utf-8")
    page = docs / "privacy.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{shown(rows)}\n{END}{after}", encoding="utf-8")


def shown(rows: Sequence[Row]) -> str:
    """Return, as Markdown, what each arm's noise came to and the accuracy that it left."""
    seeds = sorted({row["seed"] for row in rows})
    head = [
        "noise added by",
        "noise, theory",
        "mean as released",
        *(f"seed {seed}" for seed in seeds),
        "mean of the seeds",
    ]
    lines = [head, ["---"] * len(head), _before(rows, seeds)]
    for noise, who in _WHO.items():
        arm = sorted((row for row in rows if row["noise"] == noise), key=lambda row: int(row["seed"]))
        cells = [
            f"{row['accuracy_after']:.3f} ({wilson.shown(row['accuracy_after'], row['questions'])})" for row in arm
        ]
        seen = statistics.fmean(row["mean_norm"] for row in arm)
        norms = [f"{arm[0]['noise_norm']:.2f} C", f"{seen:.2f} C"]
        lines.append([who, *norms, *cells, over_seeds([row["accuracy_after"] for row in arm])])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _before(rows: Sequence[Row], seeds: Sequence[int]) -> list[str]:
    found = {row["seed"]: row["accuracy_before"] for row in rows}
    return ["before training", "", "", *(f"{found[seed]:.3f}" for seed in seeds), over_seeds(list(found.values()))]


def over_seeds(values: Sequence[float]) -> str:
    """Return the mean of the seeds with its interval by Student's t, which takes them for draws of one normal."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    quantile = float(stats.t.ppf((1 + wilson.LEVEL) / 2, len(values) - 1))
    reach = quantile * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.3f} ± {reach:.3f}"
