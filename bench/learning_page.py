"""The part of docs/method.md that shows what `bench.learning` found: curves, and what each setting is worth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.page import Part
from common import wilson

BEGIN = "<!-- written by bench.learning -->"
Result = dict[str, Any]


def write(results: Sequence[Result], docs: Path) -> None:
    """Keep the results in `learning.json` and show them in `method.md`, between its two marks."""
    Part("method.md", "learning.json", BEGIN).write(results, shown(results), docs)


def shown(results: Sequence[Result]) -> str:
    """Return the results as Markdown."""
    recipe = [result for result in results if len(result["curve"]) > 2]
    varied = [result for result in results if len(result["curve"]) <= 2]
    parts = [chart(recipe), table(recipe)]
    for run in dict.fromkeys(result["run"] for result in varied):
        parts.append(sheet([result for result in varied if result["run"] == run]))
    return "\n".join(parts)


def chart(recipe: Sequence[Result]) -> str:
    """Draw held-out accuracy by round, a line for each seed."""
    rounds = list(recipe[0]["curve"])
    lines = [f"    line [{', '.join(f'{value:.3f}' for value in result['curve'].values())}]" for result in recipe]
    head = [
        "```mermaid",
        "xychart-beta",
        '    title "Held-out accuracy by round, a line for each seed"',
        f'    x-axis "round" [{", ".join(rounds)}]',
        '    y-axis "accuracy" 0.4 --> 1',
    ]
    return "\n".join([*head, *lines, "```", ""])


def table(recipe: Sequence[Result]) -> str:
    """Accuracy of each seed beside what needs no training."""
    rounds = list(recipe[0]["curve"])
    head = ["seed", "best without training", *(f"round {at}" for at in rounds), "gain", "CPU s"]
    rows = [
        [
            str(result["seed"]),
            f"{result['best_no_training']:.3f}",
            *(f"{value:.3f}" for value in result["curve"].values()),
            f"**{result['gain_over_no_training']:+.3f}**",
            f"{result['cpu_seconds']:.0f}",
        ]
        for result in recipe
    ]
    return _markdown(head, rows)


def sheet(varied: Sequence[Result]) -> str:
    """Give what became of one run when one setting was changed; the first row is the recipe itself."""
    first = varied[0]
    spread = wilson.shown(first["federated"], first["questions"])
    text = (
        f"`{first['run']}`, seed {first['seed']}: {first['before']:.3f} before, {first['best_no_training']:.3f} the "
        f"best without training; {first['questions']} held-out questions; {wilson.NAME} of the recipe's "
        f"accuracy {spread}.\n\n"
    )
    head = ["changed", "after", "beside the recipe", "reward", "groups that teach nothing", "without a box", "CPU s"]
    rows = []
    for result in varied:
        start, end = result["first"], result["last"]
        rows.append(
            [
                result["variation"],
                f"{result['federated']:.3f}",
                "" if result is first else f"{result['federated'] - first['federated']:+.3f}",
                f"{start['reward']:.2f} to {end['reward']:.2f}",
                f"{start['zero_variance']:.2f} to {end['zero_variance']:.2f}",
                f"{end['unboxed']:.3f}",
                f"{result['cpu_seconds']:.0f}",
            ]
        )
    return text + _markdown(head, rows)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
