"""A figure that the README takes from a page of docs is the one on that page, rounded; commands make those pages.

`python -m simulation results` writes docs/results.md, `bench.learning` and `bench.utility` write parts of the others.
"""

from __future__ import annotations

import re

import pytest

from tests.paths import ROOT

README = "README.md"
_NUMBER = re.compile(r"[+-]?\d\.\d+")


def numbers(text: str) -> list[str]:
    return _NUMBER.findall(text)


def row(page: str, *cells: str, below: str = "") -> str:
    """Return the one table row below a heading or a text that begins with these cells."""
    text = (ROOT / page).read_text(encoding="utf-8").partition(below)[2] if below else (ROOT / page).read_text()
    start = "| " + " | ".join(cells) + " |"
    return next(line for line in text.splitlines() if line.startswith(start))


def difference(study: str, name: str) -> list[str]:
    """Return a stated difference with its interval and its adjusted p, of docs/results.md."""
    return numbers(row("docs/results.md", name, below=f"## {study}\n"))[:4]


def recipe() -> list[str]:
    """Return the demo's accuracy before, the best without training, after with its interval, of docs/method.md."""
    line = next(
        line for line in (ROOT / "docs/method.md").read_text().splitlines() if line.startswith("`demo`, seed 1")
    )
    before, best, *interval = numbers(line)
    return [before, best, numbers(row("docs/method.md", "recipe", below="`demo`, seed 1"))[0], *interval]


def costs(epsilon: str) -> list[str]:
    """Return accuracy before and after the private demo at an epsilon, of docs/privacy.md."""
    return (
        numbers(row("docs/privacy.md", "demo-dp", "fedsgd", epsilon).partition("->")[0])[-1:]
        + numbers(row("docs/privacy.md", "demo-dp", "fedsgd", epsilon).partition("->")[2])[:1]
    )


def by_noise(who: str) -> str:
    """Return the mean over seeds by who adds the noise, of docs/privacy.md."""
    return next(
        part for part in row("docs/privacy.md", who, below="bench.utility -->").split("|") if "±" in part
    ).split()[0]


def demo() -> list[str]:
    rows = ("before training", "best without training", "**federated**")
    return [number for name in rows for number in numbers(row(README, name))]


def measured(name: str) -> list[str]:
    return numbers(row(README, name).split("|")[3])


def poisoned() -> list[str]:
    """Return accuracy under the attack of which the README tells, with the guard and without it, of docs/privacy.md."""
    attack = "its sum -10 times"
    with_guard = row("docs/privacy.md", "the same", "plain, AdamW", below=f"| {attack} ")
    return [numbers(line)[0] for line in (with_guard, row("docs/privacy.md", attack, "plain, AdamW", "off"))]


BY_NOISE = ("before training", "the sites, a share each", "one trusted server", "every site, all of it")
FIGURES = {
    "the demo": lambda: (demo(), recipe()),
    "the recipe": lambda: (
        measured("the recipe learns"),
        [numbers(row("docs/method.md", seed, below="| seed | best").split("|")[-3])[0] for seed in ("11", "12", "13")],
    ),
    "federation": lambda: (
        measured("federation helps hospitals that are unlike"),
        [
            *difference("synthetic", "federated less alone")[:3],
            *difference("synthetic", "federated less boosting")[:3],
            *difference("support2", "federated less alone"),
            *difference("support2", "federated less majority")[:3],
        ],
    ),
    "privacy": lambda: (measured("a private run learns"), [*costs("8"), costs("3")[1]]),
    "who adds the noise": lambda: (
        measured("noise that sites share costs less than noise that each adds"),
        [by_noise(who) for who in BY_NOISE],
    ),
    "poisoning": lambda: (
        measured("a site that poisons the sum is noticed where it breaks the model, on sums alike")[:2],
        poisoned(),
    ),
    "the demo, in privacy.md": lambda: (
        re.findall(r"`make demo`, which .*\n?.*reaches (\d\.\d+)", (ROOT / "docs/privacy.md").read_text()),
        recipe()[2:3],
    ),
}  # fmt: skip
"""What is said -> its figures as they are said, and as the page says them."""


@pytest.mark.parametrize("what", FIGURES)
def test_a_figure_of_the_readme_is_that_of_its_page(what: str) -> None:
    said, stands = FIGURES[what]()
    assert said and len(said) == len(stands), f"{said} is to be {stands}"
    digits = [len(figure.partition(".")[2]) for figure in said]
    assert [f"{float(figure):.{n}f}" for figure, n in zip(said, digits, strict=True)] == [
        f"{float(figure):.{n}f}" for figure, n in zip(stands, digits, strict=True)
    ]


def test_what_the_readme_says_of_studies_is_looked_at_here() -> None:
    lines = [line for line in (ROOT / README).read_text().splitlines() if "docs/results.md" in line and numbers(line)]
    assert lines == [row(README, "federation helps hospitals that are unlike")]
