"""The curves of a run, each with its numbers: reward, accuracy, bytes and seconds, round by round.

A site may keep its counts (metrics "none"): then what needs them says so instead of being drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

from common import wilson
from common.pages.page import details, html_table, paragraph
from common.pages.plots import BLUE, COLOURS, GREY, VERMILION, Line, lines
from server.amounts import byte_unit
from server.rounds.shares import mean_reward
from server.rounds.store import EvaluationRow, RoundRow

TOGETHER = "all sites"
_NO_COUNTS = "No site let its counts out (metrics = none)"
_MOST_ROWS = 1000
"""Rows of a table; of a longer run every second round is listed, or every third, and so on."""

Counted = dict[str, list[tuple[int, int, int]]]
"""Round, right answers and questions asked, by site."""


def reward_section(rounds: Sequence[RoundRow]) -> str:
    """Mean reward of the rollouts of each round, with a running mean where there are many rounds."""
    points = [(row.round, reward) for row in rounds if (reward := mean_reward(row.counts)) is not None]
    if not points:
        return paragraph(f"{_NO_COUNTS}, so there is no reward to show." if rounds else "No round is finished yet.")
    window = max(1, len(points) // 10)
    series = [Line("one round", points, BLUE if window == 1 else GREY, joined=window == 1)]
    if window > 1:
        sums = [[value for _, value in points[max(0, i - window + 1) : i + 1]] for i in range(len(points))]
        means = [(number, sum(last) / len(last)) for (number, _), last in zip(points, sums, strict=True)]
        series.append(Line(f"mean of the last {window} rounds", means, BLUE, mark=None, thick=True))
    title = "Mean reward of the rollouts (1: the boxed answer is right)"
    drawn = lines("reward", title, series, x="round", y="mean reward (0 to 1)")
    return drawn + _numbers("Numbers by round", ["round", "mean reward"], points)


def accuracy_section(evaluations: Sequence[EvaluationRow]) -> str:
    """Free-form and forced accuracy of each site and of all sites together, with intervals."""
    counted = {how: accuracy_counts(evaluations, how) for how in ("free", "forced")}
    if not counted["free"]:
        return paragraph(f"{_NO_COUNTS}, or none was evaluated yet, so there is no accuracy to show.")
    titles = {"free": "Free-form: what the model boxes", "forced": "Choice forced after the completion"}
    pair = "\n".join(_accuracy_figure(f"accuracy-{how}", titles[how], of) for how, of in counted.items())
    rows = [
        (name, number, asked, *_share(right, asked), *_share(forced, asked))
        for name, series in counted["free"].items()
        for (number, right, asked), (_, forced, _) in zip(series, counted["forced"][name], strict=True)
    ]
    head = ["site", "round", "questions", "free-form", wilson.NAME, "choice forced", wilson.NAME]
    note = (
        f"Upright lines are the {wilson.NAME} (Wilson score), which takes the questions as independent; noise that the "
        "counts hold for privacy is not in it."
    )
    return f'<div class="pair">{pair}</div>{paragraph(note, "note")}' + _numbers(
        "Numbers by site and round", head, rows
    )


def accuracy_counts(evaluations: Sequence[EvaluationRow], how: str) -> Counted:
    """Return rounds, right answers and questions by site.

    Where there are several sites, "all sites" follows them, over the rounds in which every one of them was evaluated:
    a mean over changing sites would move without any change in the model.
    """
    series: Counted = {}
    by_round: dict[int, list[tuple[int, int]]] = {}
    for row in evaluations:
        right, asked = (sum(count.get(key, 0) for count in row.counts.values()) for key in (how, "asked"))
        if asked > 0:
            series.setdefault(row.site, []).append((row.round, right, asked))
            by_round.setdefault(row.round, []).append((right, asked))
    whole = {number: sums for number, sums in by_round.items() if len(sums) == len(series) > 1}
    together = [(number, sum(r for r, _ in sums), sum(a for _, a in sums)) for number, sums in whole.items()]
    return dict(sorted(series.items())) | ({TOGETHER: together} if together else {})


def _share(right: int, asked: int) -> tuple[float, str]:
    """Return a share with its interval; noise may have brought the right answers out of 0 to `asked`."""
    return right / asked, wilson.shown(min(1.0, max(0.0, right / asked)), asked)


def _accuracy_figure(name: str, title: str, counted: Counted) -> str:
    series = []
    for i, (site, of) in enumerate(counted.items()):
        together = site == TOGETHER
        shares = [(number, min(1.0, max(0.0, right / asked)), asked) for number, right, asked in of]
        series.append(
            Line(
                site,
                [(number, share) for number, share, _ in shares],
                GREY if together else COLOURS[i % len(COLOURS)],
                mark=None if together else i,
                dashed=together,
                thick=together,
                spread=[] if together else [wilson.interval(share, asked) for _, share, asked in shares],
            )
        )
    return lines(name, title, series, x="round", y="share of right answers", top=1.0)


def traffic_section(rounds: Sequence[RoundRow]) -> str:
    """Bytes to and from the server and seconds of each round."""
    if not rounds:
        return paragraph("No round is finished yet.")
    unit, size = byte_unit(max(max(row.bytes_up, row.bytes_down) for row in rounds))
    up, down = [row.bytes_up / size for row in rounds], [row.bytes_down / size for row in rounds]
    numbers = [row.round for row in rounds]
    sent = [
        Line("to the server", list(zip(numbers, up, strict=True)), BLUE),
        Line("to the sites", list(zip(numbers, down, strict=True)), VERMILION, mark=1, dashed=True),
    ]
    title = "Content of all messages, without the transport's framing"
    bytes_figure = lines("bytes", title, sent, x="round", y=f"sent in a round ({unit})")
    took = [Line("seconds", [(row.round, float(row.seconds)) for row in rounds], BLUE)]
    title = "Time from asking the sites to the new adapter"
    seconds_figure = lines("seconds", title, took, x="round", y="duration of a round (s)")
    head = ["round", "sites", f"to the server ({unit})", f"to the sites ({unit})", "seconds", "gradient norm"]
    rows = [
        (row.round, len(row.sites), u, d, float(row.seconds), f"{row.gradient_norm:.4g}")
        for row, u, d in zip(rounds, up, down, strict=True)
    ]
    return f'<div class="pair">{bytes_figure}{seconds_figure}</div>' + _numbers("Numbers by round", head, rows)


def _numbers(summary: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table that opens on a click, its rows thinned out where there are very many."""
    every = -(-len(rows) // _MOST_ROWS)
    told = paragraph(f"Every row whose place can be divided by {every}, and the last.", "note") if every > 1 else ""
    kept = [row for i, row in enumerate(rows, start=1) if i % every == 0 or i == len(rows)]
    return details(summary, told + html_table(head, kept))
