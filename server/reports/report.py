"""The HTML report of a run, from `rounds.sqlite` alone: reward, accuracy, traffic, time and refusals, round by round.

A site may keep its counts (metrics "none"): then the figures that need them say so instead of being drawn.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, inspect, select
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from common.errors import Code, FedReasonError
from server.amounts import byte_unit, duration_text, size_text
from server.reports.looks import Look, looks_of, looks_section
from server.reports.page import (
    BLUE,
    GREEN,
    GREY,
    OCHRE,
    PURPLE,
    SKY,
    VERMILION,
    Section,
    details,
    facts,
    figure,
    html_table,
    page,
    paragraph,
    shown,
)
from server.rounds.store import EvaluationRow, FallRow, LookRow, RoundRow, write_durably

_SITE_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, OCHRE, SKY)
_SITE_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star", "triangle-down", "cross")
_TOGETHER = "all sites"
_NO_COUNTS = "No site let its counts out (metrics = none)"


@dataclass(frozen=True)
class RunRows:
    """Everything that a run store holds, in order."""

    rounds: Sequence[RoundRow]
    evaluations: Sequence[EvaluationRow]
    looks: Sequence[Look] = ()

    @property
    def sites(self) -> list[str]:
        """Every site that contributed, refused or was evaluated."""
        named = {site for row in self.rounds for site in (*row.sites, *row.refused)}
        return sorted(named | {row.site for row in self.evaluations})


def read_rows(folder: Path) -> RunRows:
    """Read a run's rows without changing anything, also while the run goes on.

    Raises
    ------
    FedReasonError
        Where the folder holds no run, or its database cannot be read.
    """
    path = folder / "rounds.sqlite"
    if not path.exists():
        raise FedReasonError(Code.CONFIG_MISSING, f"{path} does not exist.", "Name the folder of a started run.")
    connect = partial(sqlite3.connect, f"{path.resolve().as_uri()}?mode=ro", uri=True)
    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)
    try:
        with Session(engine, expire_on_commit=False) as session:
            known = set(inspect(session.connection()).get_table_names())
            looks = list(session.scalars(select(LookRow))) if LookRow.__tablename__ in known else []
            falls = list(session.scalars(select(FallRow))) if FallRow.__tablename__ in known else []
            return RunRows(
                list(session.scalars(select(RoundRow).order_by(RoundRow.round))),
                list(session.scalars(select(EvaluationRow).order_by(EvaluationRow.round, EvaluationRow.site))),
                looks_of(looks, falls),
            )
    except DatabaseError:
        raise FedReasonError(Code.RUN_CHECKPOINT, f"{path} cannot be read.", "Put it back from a backup.") from None


def write_run_report(folder: Path) -> Path:
    """Write `report.html` into a run folder and return its path.

    Raises
    ------
    FedReasonError
        Where the folder holds no run, or a file of it cannot be read.
    """
    rows, claim = read_rows(folder), _claim_of(folder)
    config = claim.get("config", {})
    federation = config.get("federation", {})
    wanted = federation.get("rounds")
    done = f"{len(rows.rounds)} of {wanted}" if wanted else str(len(rows.rounds))
    run = facts(
        {
            "Protocol": federation.get("protocol"),
            "Sites": ", ".join(rows.sites) or None,
            "Rounds finished": done,
            **traffic_facts(rows.rounds),
            "Configuration SHA-256": claim.get("sha256"),
            "Adapter SHA-256": rows.rounds[-1].adapter_sha256 if rows.rounds else None,
        }
    )
    path = folder / "report.html"
    title = f"FedReason: {config.get('name', folder.resolve().name)}"
    lead = f"A federated run, {done} rounds finished."
    write_durably(path, page(title, lead, [Section("The run", run), *sections(rows)]))
    return path


def _claim_of(folder: Path) -> dict[str, Any]:
    """Return the configuration that a run folder belongs to, with its hash; empty where the file is not there."""
    path = folder / "config.json"
    if not path.exists():
        return {}
    try:
        claim: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise FedReasonError(
            Code.CONFIG_SYNTAX,
            f"{path} is damaged.",
            "Put it back from a backup, or move it away and report without it.",
        ) from None
    return claim


def traffic_facts(rounds: Sequence[RoundRow]) -> dict[str, object]:
    """Bytes and seconds of all rounds, and of one on average."""
    if not rounds:
        return {}
    up, down, seconds = (sum(getattr(row, name) for row in rounds) for name in ("bytes_up", "bytes_down", "seconds"))
    return {
        "Sent to the server": f"{size_text(up)}, {size_text(up // len(rounds))} a round",
        "Sent to the sites": f"{size_text(down)}, {size_text(down // len(rounds))} a round",
        "Time of the rounds": f"{duration_text(seconds)}, {seconds / len(rounds):.3f} s a round",
    }


def sections(rows: RunRows) -> list[Section]:
    """Return the sections that every run has, simulated or not."""
    return [
        Section("Reward by round", reward_section(rows.rounds)),
        Section("Held-out accuracy by round and site", accuracy_section(rows.evaluations)),
        *([Section("The guard's public questions", looks_section(rows.looks))] if rows.looks else []),
        Section("Bytes and seconds by round", traffic_section(rows.rounds)),
        Section("Refusals", refusal_section(rows.rounds)),
    ]


def reward_section(rounds: Sequence[RoundRow]) -> str:
    """Mean reward of the rollouts of each round, with a running mean where there are many rounds."""
    import plotly.graph_objects as go

    points = [(row.round, reward) for row in rounds if (reward := mean_reward(row)) is not None]
    if not points:
        return paragraph(f"{_NO_COUNTS}, so there is no reward to show." if rounds else "No round is finished yet.")
    numbers, rewards = [list(column) for column in zip(*points, strict=True)]
    window = max(1, len(points) // 10)
    alone = window == 1
    dots = {"mode": "lines+markers" if alone else "markers", "marker": {"color": BLUE if alone else GREY, "size": 6}}
    traces = [go.Scatter(x=numbers, y=rewards, name="one round", line={"color": BLUE}, showlegend=not alone, **dots)]
    if not alone:
        means = [sum(rewards[max(0, i - window + 1) : i + 1]) / min(window, i + 1) for i in range(len(rewards))]
        line = {"color": BLUE, "width": 3}
        traces.append(go.Scatter(x=numbers, y=means, name=f"mean of the last {window} rounds", mode="lines", line=line))
    drawn = figure(
        "reward",
        "Mean reward of the rollouts (1: the boxed letter is right)",
        traces,
        xaxis={"title": {"text": "round"}},
        yaxis={"title": {"text": "mean reward (0 to 1)"}, "rangemode": "tozero"},
    )
    return drawn + details("Numbers by round", html_table(["round", "mean reward"], points))


def mean_reward(row: RoundRow) -> float | None:
    """Mean reward of a round's rollouts; None where no site let its counts out."""
    counts = row.counts or {}
    return counts["reward"] / counts["rollouts"] if counts.get("rollouts") else None


def accuracy_section(evaluations: Sequence[EvaluationRow]) -> str:
    """Free-form and forced accuracy of each site and of all sites together."""
    points = {how: accuracy_points(evaluations, how) for how in ("free", "forced")}
    if not points["free"]:
        return paragraph(f"{_NO_COUNTS}, or none was evaluated yet, so there is no accuracy to show.")
    titles = {"free": "Free-form: the letter the model boxes", "forced": "Letter forced after the completion"}
    pair = "\n".join(_accuracy_figure(f"accuracy-{how}", titles[how], points[how]) for how in points)
    rows = [
        (name, number, free, dict(points["forced"][name])[number])
        for name, series in points["free"].items()
        for number, free in series
    ]
    table = html_table(["site", "round", "free-form", "letter forced"], rows)
    return f'<div class="pair">{pair}</div>' + details("Numbers by site and round", table)


def accuracy_points(evaluations: Sequence[EvaluationRow], how: str) -> dict[str, list[tuple[int, float]]]:
    """Return rounds and accuracies by site.

    Where there are several sites, "all sites" follows them, over the rounds in which every one of them was evaluated:
    a mean over changing sites would move without any change in the model.
    """
    series: dict[str, list[tuple[int, float]]] = {}
    by_round: dict[int, list[tuple[int, int]]] = {}
    for row in evaluations:
        right, asked = (sum(count[key] for count in row.counts.values()) for key in (how, "asked"))
        if asked > 0:
            series.setdefault(row.site, []).append((row.round, right / asked))
            by_round.setdefault(row.round, []).append((right, asked))
    whole = {number: sums for number, sums in by_round.items() if len(sums) == len(series) > 1}
    together = [(number, sum(r for r, _ in sums) / sum(a for _, a in sums)) for number, sums in whole.items()]
    return dict(sorted(series.items())) | ({_TOGETHER: together} if together else {})


def _accuracy_figure(name: str, title: str, points: dict[str, list[tuple[int, float]]]) -> str:
    import plotly.graph_objects as go

    traces = []
    for i, (site, series) in enumerate(points.items()):
        together = site == _TOGETHER
        colour = GREY if together else _SITE_COLOURS[i % len(_SITE_COLOURS)]
        traces.append(
            go.Scatter(
                x=[number for number, _ in series],
                y=[value for _, value in series],
                name=shown(site),
                mode="lines" if together else "lines+markers",
                line={"color": colour, "width": 4 if together else 2, "dash": "dot" if together else "solid"},
                marker={"symbol": _SITE_SYMBOLS[i % len(_SITE_SYMBOLS)], "size": 8},
                hovertemplate="round %{x}: %{y:.3f}",
            )
        )
    return figure(
        name,
        title,
        traces,
        xaxis={"title": {"text": "round"}},
        yaxis={"title": {"text": "share of right answers"}, "range": [0, 1.02]},
    )


def traffic_section(rounds: Sequence[RoundRow]) -> str:
    """Bytes to and from the server and seconds of each round."""
    import plotly.graph_objects as go

    if not rounds:
        return paragraph("No round is finished yet.")
    numbers = [row.round for row in rounds]
    unit, size = byte_unit(max(max(row.bytes_up, row.bytes_down) for row in rounds))
    up, down = [row.bytes_up / size for row in rounds], [row.bytes_down / size for row in rounds]
    x = {"title": {"text": "round"}}
    mode = "lines+markers" if len(rounds) <= 30 else "lines"
    traces = [
        go.Scatter(x=numbers, y=up, name="to the server", mode=mode, line={"color": BLUE}),
        go.Scatter(
            x=numbers,
            y=down,
            name="to the sites",
            mode=mode,
            line={"color": VERMILION, "dash": "dash"},
            marker={"symbol": "square"},
        ),
    ]
    y = {"title": {"text": f"sent in a round ({unit})"}, "rangemode": "tozero"}
    bytes_figure = figure("bytes", "Content of all messages, without the transport's framing", traces, xaxis=x, yaxis=y)
    line = go.Scatter(x=numbers, y=[row.seconds for row in rounds], mode=mode, line={"color": BLUE})
    y = {"title": {"text": "duration of a round (s)"}, "rangemode": "tozero"}
    seconds_figure = figure("seconds", "Time from asking the sites to the new adapter", [line], xaxis=x, yaxis=y)
    table = html_table(
        ["round", "sites", f"to the server ({unit})", f"to the sites ({unit})", "seconds", "gradient norm"],
        [
            (row.round, len(row.sites), u, d, float(row.seconds), f"{row.gradient_norm:.4g}")
            for row, u, d in zip(rounds, up, down, strict=True)
        ],
    )
    return f'<div class="pair">{bytes_figure}{seconds_figure}</div>' + details("Numbers by round", table)


def refusal_section(rounds: Sequence[RoundRow]) -> str:
    """Which sites were left out of which rounds, and the numbers they gave."""
    import plotly.graph_objects as go

    left_out: dict[tuple[str, int], list[int]] = {}
    for row in rounds:
        for site, code in sorted(row.refused.items()):
            left_out.setdefault((site, code), []).append(row.round)
    if not left_out:
        return paragraph("No site refused or failed in any round." if rounds else "No round is finished yet.")
    traces = [
        go.Scatter(
            x=numbers,
            y=[shown(site)] * len(numbers),
            name=f"{shown(site)}: E{code}",
            mode="markers",
            marker={"color": VERMILION, "symbol": "x", "size": 9},
            hovertemplate=f"round %{{x}}: E{code}<extra></extra>",
        )
        for (site, code), numbers in sorted(left_out.items())
    ]
    drawn = figure(
        "refusals",
        "Rounds that went on without a site",
        traces,
        height=110 + 40 * len({site for site, _ in left_out}),
        showlegend=False,
        xaxis={"title": {"text": "round"}, "range": [0.5, rounds[-1].round + 0.5]},
        yaxis={"type": "category", "title": {"text": "site"}},
    )
    rows = [(site, code_text(code), len(n), n[0], n[-1]) for (site, code), n in sorted(left_out.items())]
    return drawn + html_table(["site", "refusal (docs/errors.md)", "rounds", "first", "last"], rows)


def code_text(code: int) -> str:
    """Text of a refusal's number, with its name where this version knows it."""
    return f"E{code} {Code(code).name}" if code in set(Code) else f"E{code}"
