"""The comparison page of a simulation: what training together gained over each site alone and over no training."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from common import wilson
from common.pages.page import Section, details, facts, html_table, page, paragraph
from common.pages.plots import BLUE, GREEN, GREY, OCHRE, VERMILION, Bars, bars
from server.amounts import duration_text
from server.reports.report import sections, traffic_facts
from server.reports.rows import RunRows, read_rows
from server.rounds.store import write_durably
from simulation.folders import BEFORE, FEDERATED
from simulation.prepare import POOLED
from simulation.summary import EXPECTED, ROWS

_ARMS: dict[str, dict[str, Any]] = {
    "before": {"name": "before", "colour": GREY},
    "alone": {"name": "this site alone", "colour": VERMILION},
    "elsewhere": {"name": "another site alone, mean", "colour": VERMILION, "hollow": True},
    "alone_mean": {"name": "one site alone, mean", "colour": VERMILION},
    "federated": {"name": "federated", "colour": BLUE},
    "pooled": {"name": "pooled", "colour": GREEN},
}


def write_report(folder: Path, summary: Mapping[str, Any]) -> Path:
    """Write `report.html` into a simulation's run folder and return its path.

    Parameters
    ----------
    folder
        Run folder of the federated arm, with `rounds.sqlite`.
    summary
        Content of `summary.json`; `sample` and `reading` may be absent.

    Raises
    ------
    FedReasonError
        Where the run store is missing or cannot be read.
    """
    rows = read_rows(folder)
    content = [
        Section("Accuracy", headline(summary)),
        Section("Reading", "\n".join(map(paragraph, summary.get("reading", ())))),
        Section("Federated and pooled", same_bits(summary)),
        Section("By site of the held-out patients", by_site(summary)),
        Section("By feature asked", by_feature(summary)),
        Section("A sample question", sample(summary["sample"]) if "sample" in summary else ""),
        *sections(rows),
        Section("The run", run_facts(summary, rows)),
    ]
    sites, rounds, questions = len(summary["sites"]), summary["rounds"], summary["questions"]
    lead = f"{sites} simulated sites, {rounds} rounds, {questions} held-out questions."
    path = folder / "report.html"
    write_durably(path, page(f"FedReason: {summary['name']}", lead, content))
    return path


def headline(summary: Mapping[str, Any]) -> str:
    """Tiles and the table of everything that is compared."""
    accuracy, forced, kinds = summary["accuracy"], summary["accuracy_forced"], sorted(summary["by_kind"])
    tiles = "".join(
        f'<div class="tile"><b>{accuracy[key]:.3f}</b><span>{escape(ROWS[key])}</span></div>'
        for key in ("before", "best_no_training", "alone_mean", "federated", "pooled")
        if key in accuracy
    )
    asked = summary["questions"]
    rows: list[list[object]] = []
    marked: dict[int, str] = {}
    for key, label in ROWS.items():
        if key == "alone_mean":
            for site, value in summary["alone"].items():
                marked[len(rows)] = "sub"
                spread = wilson.shown(value, asked)
                rows.append([f"{site} alone", value, spread, None, *[None] * len(kinds)])
        if key not in accuracy:
            continue
        if key == "federated":
            marked[len(rows)] = "main"
        told = None if key in EXPECTED else wilson.shown(accuracy[key], asked)
        rows.append([label, accuracy[key], told, forced[key], *(summary["by_kind"][kind][key] for kind in kinds)])
    head = ["", "free-form", wilson.NAME, "choice forced", *(f"{kind}, free-form" for kind in kinds)]
    caption = "Share of right answers over the held-out patients of all sites."
    table = html_table(head, rows, caption=caption, kinds=marked)
    note = (
        "Free-form counts what the model boxes itself; choice forced takes the likeliest choice where it "
        "boxes none. Best without training takes, feature by feature, the best of the base model, the majority answer "
        "and the public short list with the frequencies of all sites: a ceiling, not a method. The interval (Wilson "
        "score) takes the questions as independent and belongs to the free-form column."
    )
    return f'<div class="tiles">{tiles}</div>\n{table}\n{paragraph(note, "note")}'


def same_bits(summary: Mapping[str, Any]) -> str:
    """Say whether the federated and the pooled adapter are the same bits, and show their hashes."""
    if "federated_equals_pooled" not in summary:
        return ""
    if summary["federated_equals_pooled"]:
        verdict = (
            "The two adapters are the same bits: training across the sites gave exactly what one site holding all the "
            "records would have got."
        )
    elif summary["protocol"] == "fedavg":
        verdict = (
            "The two adapters are not the same bits. With fedavg they need not be: each site takes its own steps "
            "before they are averaged."
        )
    else:
        verdict = (
            "The two adapters are not the same bits. With fedsgd and no noise they are expected to be, unless a site "
            "was left out of a round (see refusals) or the arms ran on different hardware or library versions."
        )
    hashes = facts(
        {"Federated, SHA-256": summary["adapter_sha256"], "Pooled, SHA-256": summary["pooled_adapter_sha256"]}
    )
    return paragraph(verdict) + hashes


def by_site(summary: Mapping[str, Any]) -> str:
    """Bars of every arm on each site's held-out patients."""
    table = {site: site_arms(shares, site) for site, shares in summary["by_site"].items()}
    arms = [arm for arm in _ARMS if any(arm in row for row in table.values())]
    sites = [site for site in summary["sites"] if site in table]
    drawn = bars(
        "by-site",
        "Free-form accuracy on each site's held-out patients",
        sites,
        [Bars(values=[table[site].get(arm) for site in sites], **_ARMS[arm]) for arm in arms],
        x="share of right answers",
    )
    head = ["site of the held-out patients", *(_ARMS[arm]["name"] for arm in arms)]
    rows = [[site, *(table[site].get(arm) for arm in arms)] for site in sites]
    return drawn + details("Numbers by site", html_table(head, rows))


def site_arms(shares: Mapping[str, float], site: str) -> dict[str, float]:
    """Accuracy on one site's patients: before, its own model, the other sites' models on average, federated, pooled."""
    result = {arm: shares[arm] for arm in (BEFORE, FEDERATED, POOLED) if arm in shares}
    if site in shares:
        result["alone"] = shares[site]
    others = [value for arm, value in shares.items() if arm not in (BEFORE, FEDERATED, POOLED, site)]
    if others:
        result["elsewhere"] = sum(others) / len(others)
    return result


def by_feature(summary: Mapping[str, Any]) -> str:
    """Bars by feature, one figure and table for each kind."""
    features = list(summary["by_feature"].values())
    parts = []
    for kind in sorted({feature["kind"] for feature in features}):
        parts.append(_kind_figure(kind, [feature for feature in features if feature["kind"] == kind]))
    note = (
        f"Thin lines are the {wilson.NAME} of the federated accuracy for the questions asked. The diamond is the best "
        "that needs no training: base model, majority answer or public short list."
    )
    return paragraph(note, "note") + "\n".join(parts)


def _kind_figure(kind: str, features: list[dict[str, Any]]) -> str:
    arms = [arm for arm in _ARMS if arm in features[0]]
    series = [
        Bars(
            values=[feature[arm] for feature in features],
            spread=[wilson.interval(f[arm], f["asked"]) for f in features] if arm == "federated" else [],
            **_ARMS[arm],
        )
        for arm in arms
    ]
    best = [feature["best_no_training"] for feature in features]
    series.append(Bars("best without training", best, OCHRE, diamond=True))
    drawn = bars(
        f"by-feature-{kind}",
        f"{kind.capitalize()} features: free-form accuracy (questions asked)",
        [f"{feature['label']} ({feature['asked']})" for feature in features],
        series,
        x="share of right answers",
    )
    columns = [key for key in ROWS if key in features[0]]
    head = ["feature", "asked", *(ROWS[key] for key in columns), "public short list"]
    rows = [[f["label"], f["asked"], *(f[key] for key in columns), f["short_list"]] for f in features]
    return drawn + details(f"Numbers of {kind} features", html_table(head, rows))


def sample(question: Mapping[str, Any]) -> str:
    """Return one question of the synthetic registry with the completions before and after; never of a real table."""
    parts = [
        paragraph("From the synthetic registry: no real patient.", "note"),
        f"<pre>{escape(question['question'])}</pre>",
        paragraph(f"Right answer: {question['answer']}, {question['truth']}."),
    ]
    for arm, completion in question["completions"].items():
        boxed = question["boxed"][arm]
        verdict = "no answer boxed" if boxed is None else "right" if boxed == question["answer"] else "wrong"
        parts.append(f"<h3>{escape(ROWS.get(arm, arm).capitalize())}: {verdict}</h3>\n<pre>{escape(completion)}</pre>")
    return "\n".join(parts)


def run_facts(summary: Mapping[str, Any], rows: RunRows) -> str:
    """Name, sizes, times and hashes of the run."""
    return facts(
        {
            "Name": summary["name"],
            "Protocol": summary["protocol"],
            "Sites": ", ".join(summary["sites"]),
            "Rounds": summary["rounds"],
            **traffic_facts(rows.rounds),
            "Time of the whole simulation": duration_text(summary["seconds"]),
            "Configuration SHA-256": summary["config_sha256"],
            "Adapter SHA-256": summary["adapter_sha256"],
        }
    )
