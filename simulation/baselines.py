"""What the held-out questions yield without training: chance, majority, the public short list with local frequencies.

Frequencies are of the training patients of all sites at once, which no site could count, and of the hospital that asks.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from client.training.workplace import Workplace
from common.codebook import Codebook, View
from common.config import RunConfig
from common.feature import Feature, number_of
from common.questions.ladder import Scale
from common.questions.question import MASK, Question, QuestionMaker, label_of


@dataclass(frozen=True)
class Baselines:
    """Expected or counted right answers of one item over all sites' held-out questions.

    Attributes
    ----------
    majority
        By the choice seen most often at all sites together.
    short_list
        The same among the options that the codebook lists for what the question shows; None where it lists none.
    own
        By the choice seen most often at the patient's own site, listed ones first.
    """

    asked: int
    chance: float
    majority: int
    short_list: int | None
    own: int

    @property
    def listed_share(self) -> float | None:
        """Share that the short list gets right, None where the codebook has none."""
        return None if self.short_list is None else self.short_list / self.asked


def baselines(sites: Sequence[Workplace], config: RunConfig) -> dict[str, Baselines]:
    """Baselines by item."""
    maker = sites[0].maker(config)
    values = training_values(sites, config)
    at_home = {site.name: training_values([site], config) for site in sites}
    by_item: dict[str, list[tuple[str, Question]]] = {}
    for site in sites:
        for question in site.questions(config):
            by_item.setdefault(question.item, []).append((site.name, question))
    result = {}
    for item, asked in by_item.items():
        feature, homes, questions = maker.feature_of(item), [home for home, _ in asked], [each for _, each in asked]
        seen = values[feature.name]
        shown = shown_values(questions, maker.codebook, maker.view)
        lists = [listed(maker, maker.codebook, item, each) for each in shown]
        result[item] = Baselines(
            asked=len(questions),
            chance=sum(1 / len(question.choices) for question in questions),
            majority=sum(q.choices[commonest(feature, q.choices, seen)] == q.truth for q in questions),
            short_list=sum(
                q.choices[commonest(feature, q.choices, seen, options)] == q.truth
                for q, options in zip(questions, lists, strict=True)
            )
            if any(lists)
            else None,
            own=sum(
                q.choices[commonest(feature, q.choices, at_home[home][feature.name], options)] == q.truth
                for home, q, options in zip(homes, questions, lists, strict=True)
            ),
        )
    return result


def training_values(sites: Sequence[Workplace], config: RunConfig) -> dict[str, Counter[str]]:
    """How often each value stands in the training records of all sites, by feature."""
    values: dict[str, Counter[str]] = {feature.name: Counter() for feature in sites[0].codebook.features}
    for site in sites:
        for patient in site.training(config):
            for record in patient.records:
                for name, value in record.values.items():
                    values[name][value] += 1
    return values


def listed(maker: QuestionMaker, codebook: Codebook, item: str, values: dict[str, str]) -> tuple[str, ...]:
    """Options that the codebook's short list gives this record; empty where it has none."""
    if item in maker.tasks:
        return ()
    return next((s.options(values) for s in codebook.short_lists if s.feature == item), ())


def shown_values(questions: Iterable[Question], codebook: Codebook, view: View) -> list[dict[str, str]]:
    """Return what each question shows of its record by feature; free text and the masked value are left out."""
    features = [codebook.by_name[name] for name in view.features if codebook.by_name[name].kind != "text"]
    places = {(feature.section, label_of(feature, view)): feature.name for feature in features}
    rows = []
    for question in questions:
        row: dict[str, str] = {}
        section = ""
        for line in question.record:
            if line.startswith("[") and line.endswith("]"):
                section = line[1:-1]
            for colon in re.finditer(": ", line):  # a label may hold some too
                name, text = places.get((section, line[: colon.start()])), line[colon.end() :]
                if name is not None and text != MASK:
                    row[name] = text
        rows.append(row)
    return rows


def commonest(feature: Feature, choices: Sequence[str], seen: Counter[str], options: Sequence[str] = ()) -> int:
    """Index of the choice seen most often; listed ones first."""
    often = frequencies(feature, choices, seen)
    return max(range(len(choices)), key=lambda i: (choices[i] in options, often[i]))


def frequencies(feature: Feature, choices: Sequence[str], seen: Counter[str]) -> list[int]:
    """How often each choice was seen, a number counting all values nearer than half a step."""
    scale = Scale.of(feature) if feature.kind == "numeric" else None

    def frequency(choice: str) -> int:
        number = number_of(choice) if scale is not None else None
        if number is None or scale is None:
            return seen[choice]
        here = scale.place(number)
        return sum(
            n
            for value, n in seen.items()
            if (other := number_of(value)) is not None and abs(scale.place(other) - here) <= 0.5 + 1e-9
        )

    return [frequency(choice) for choice in choices]
