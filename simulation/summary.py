"""One table of all arms: accuracy on every site's held-out patients, beside what needs no training."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from client.training.held_out import DISAGREEING
from common.config import SYNTHETIC, TINY, RunConfig
from common.wilson import interval
from server.rounds.store import RunStore
from simulation.baselines import Baselines, baselines
from simulation.folders import BEFORE, FEDERATED, open_sites, result_path
from simulation.prepare import POOLED, simulation_of

ROWS = {
    "chance": "chance",
    "majority": "majority answer",
    "before": "before (base model)",
    "best_no_training": "best without training",
    "alone_mean": "one site alone, mean",
    "federated": "federated",
    "pooled": "all records pooled",
}
"""What is compared, in the order of the table."""

EXPECTED = ("chance", "majority", "best_no_training")
"""Rows that are not one model's answers, so that an interval would not mean the same."""

Counts = dict[str, dict[str, dict[str, int]]]
"""Right answers by site and item."""


def summarise(config: RunConfig, folder: Path, store: RunStore, seconds: float) -> dict[str, Any]:
    """Return the content of summary.json."""
    sites = open_sites(folder)
    names = [site.name for site in sites]
    results = {arm: json.loads(result_path(folder, arm).read_text()) for arm in arms_of(config, names)}
    counts: dict[str, Counts] = {arm: result["counts"] for arm, result in results.items()}
    base = baselines(sites, config)
    maker = sites[0].maker(config)
    rounds = store.rounds()
    asked = sum(item.asked for item in base.values())

    def accuracy(items: Sequence[str]) -> dict[str, float]:
        return accuracies(counts, base, items, names)

    kinds = {item: maker.feature_of(item).kind for item in base}
    federated = results[FEDERATED]["adapter_sha256"]
    overall = accuracy(list(base))
    summary: dict[str, Any] = {
        "name": config.name,
        "config_sha256": config.sha256,
        "protocol": config.federation.protocol,
        "rounds": len(rounds),
        "sites": names,
        "questions": asked,
        "accuracy": overall,
        "accuracy_interval": {
            arm: [round(end, 4) for end in interval(share, asked)]
            for arm, share in overall.items()
            if arm not in EXPECTED
        },
        "accuracy_forced": accuracies(counts, base, list(base), names, how="forced"),
        "alone": {name: share(counts[name], list(base), names) for name in names if name in counts},
        "by_kind": {
            kind: accuracy([item for item in base if kinds[item] == kind]) for kind in sorted(set(kinds.values()))
        },
        "by_feature": {
            item: {
                "label": item if item in maker.tasks else maker.feature_of(item).label,
                "kind": kinds[item],
                "asked": base[item].asked,
                **accuracy([item]),
                "short_list": base[item].listed_share,
            }
            for item in base
        },
        "by_site": {name: shares_at(name, counts, list(base)) for name in names},
        "boxes_disagree": {
            arm: sum(item[DISAGREEING] for site in counted.values() for item in site.values())
            for arm, counted in counts.items()
        },
        "adapter_sha256": federated,
        "seconds": round(seconds, 1),
        "seconds_per_round": sum(row.seconds for row in rounds) / max(1, len(rounds)),
        "bytes_up": sum(row.bytes_up for row in rounds),
        "bytes_down": sum(row.bytes_down for row in rounds),
    }
    if POOLED in results:
        summary["pooled_adapter_sha256"] = results[POOLED]["adapter_sha256"]
        summary["federated_equals_pooled"] = federated == results[POOLED]["adapter_sha256"]
    samples = [results[arm].get("samples", []) for arm in (BEFORE, FEDERATED)]
    if (sample := telling_sample(*samples)) is not None:
        summary["sample"] = sample
    summary["reading"] = reading(config)
    return summary


def telling_sample(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the first question that training turned from wrong to right, else the first; None where none was kept.

    Samples are kept of synthetic records only.
    """
    pairs = list(zip(before, after, strict=True))
    if not pairs:
        return None
    told = [(b, a) for b, a in pairs if a["boxed"] == a["answer"] != b["boxed"]]
    first, second = (told or pairs)[0]
    return {
        "question": first["question"],
        "answer": first["answer"],
        "truth": first["truth"],
        "completions": {"before": first["completion"], "federated": second["completion"]},
        "boxed": {"before": first["boxed"], "federated": second["boxed"]},
    }


def reading(config: RunConfig) -> list[str]:
    """Say what the figures do and do not show."""
    if simulation_of(config).registry == SYNTHETIC:
        return [
            "The hospitals are synthetic and share a local practice (antibiogram, dosing and fluid ladders, followed "
            "nine times in ten) that the base model's public text does not contain: only reward can teach it.",
            "Reward teaches which of the listed options is right here, not medicine. A lookup table made at one site "
            "would answer many of these questions too; a site alone loses because it rarely sees what is common "
            "elsewhere.",
            "Best without training takes, per feature, the best of the base model, the majority and the public short "
            "list with the frequencies of all sites or of the patient's own, chosen on the test questions themselves.",
        ]
    tiny = (
        "The model is a tiny one made on this machine from random codebook records: the run shows that the path works "
        "on real input, not that such a model learns medicine from it."
    )
    return [
        *([tiny] if config.model.base == TINY else []),
        "Choices lie on a ladder around the truth, so the majority baseline, which looks at the training records of "
        "all sites, can be strong; read each accuracy beside it.",
    ]


def arms_of(config: RunConfig, names: Sequence[str]) -> list[str]:
    """Arms of a run, in the order of the table."""
    compare = config.simulation is not None and config.simulation.compare
    return [BEFORE, *(names if compare else ()), FEDERATED, *((POOLED,) if compare else ())]


def share(counts: Counts, items: Sequence[str], sites: Sequence[str], how: str = "free") -> float:
    """Share of right answers over some items and sites."""
    chosen = [counts[site][item] for site in sites for item in items if item in counts[site]]
    return sum(count[how] for count in chosen) / max(1, sum(count["asked"] for count in chosen))


def shares_at(site: str, counts: dict[str, Counts], items: Sequence[str]) -> dict[str, float]:
    """Share of right answers of each arm on one site's patients; nothing where none of them was asked."""
    return {
        arm: share(counted, items, [site])
        for arm, counted in counts.items()
        if any(count["asked"] for count in counted[site].values())
    }


def accuracies(
    counts: dict[str, Counts], base: dict[str, Baselines], items: Sequence[str], names: Sequence[str], how: str = "free"
) -> dict[str, float]:
    """Accuracy of everything that is compared, over some items."""
    asked = max(1, sum(base[item].asked for item in items))

    def mean(right: Callable[[str], float]) -> float:
        return sum(right(item) for item in items) / asked

    def untrained(item: str) -> float:
        warm = max(share(counts[BEFORE], [item], names, h) for h in ("free", "forced")) * base[item].asked
        return max(warm, base[item].majority, base[item].short_list or 0, base[item].own)

    result = {
        "chance": mean(lambda item: base[item].chance),
        "majority": mean(lambda item: base[item].majority),
        "before": share(counts[BEFORE], items, names, how),
        "best_no_training": mean(untrained),
    }
    solo = [share(counts[name], items, names, how) for name in names if name in counts]
    if solo:
        result["alone_mean"] = sum(solo) / len(solo)
    result["federated"] = share(counts[FEDERATED], items, names, how)
    if POOLED in counts:
        result["pooled"] = share(counts[POOLED], items, names, how)
    return result
