"""From one patient's record to a question: which value is masked, what is hidden, what is offered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from common.codebook import OTHER, Codebook, Feature, Task, View
from common.questions.choices import codebook_choices
from common.stream import Stream

LETTERS = "ABCDE"
MASK = "[MASK]"


@dataclass(frozen=True)
class Patient:
    """A record: identifier and the shown text of every feature that was measured."""

    id: str
    values: Mapping[str, str]


@dataclass(frozen=True)
class Question:
    """A multiple-choice question with its answer.

    `record` holds the lines shown, section headers included; `item` is the feature or task asked for.
    """

    patient: str
    item: str
    kind: Literal["numeric", "categorical"]
    record: tuple[str, ...]
    text: str
    choices: tuple[str, ...]
    answer: int

    @property
    def letter(self) -> str:
        """The right letter."""
        return LETTERS[self.answer]

    @property
    def truth(self) -> str:
        """The right choice."""
        return self.choices[self.answer]


class ChoiceBuilder(Protocol):
    """Gives the choices for a masked value; `codebook_choices` is the one that looks at nothing private."""

    def __call__(self, feature: Feature, truth: str, stream: Stream) -> list[str]:
        """Return distinct choices, the truth once among them; fewer than 2 where it cannot be asked."""
        ...


def label_of(feature: Feature, view: View) -> str:
    """Label as a view shows it."""
    if view.compact:
        return feature.short or feature.label
    return f"{feature.label} ({feature.unit})" if feature.unit else feature.label


def record_lines(
    codebook: Codebook,
    view: View,
    values: Mapping[str, str],
    *,
    masked: str | None = None,
    hidden: frozenset[str] = frozenset(),
) -> tuple[str, ...]:
    """Serialise a record section by section: `[Section]`, `Label (unit): value`; blanks and hidden ones left out."""
    lines: list[str] = []
    section = ""
    for name in view.features:
        feature = codebook.by_name[name]
        if name not in values or (name in hidden and name != masked):
            continue
        if feature.section != section:
            section = feature.section
            lines.append(f"[{section}]")
        lines.append(f"{label_of(feature, view)}: {MASK if name == masked else values[name]}")
    return tuple(lines)


class QuestionMaker:
    """Makes the questions of one codebook and view.

    Parameters
    ----------
    weights
        Relative frequency by feature or task name; empty asks every feature of the view and every task alike.
    """

    def __init__(
        self,
        codebook: Codebook,
        view: str,
        *,
        weights: Mapping[str, float] | None = None,
        choices: ChoiceBuilder = codebook_choices,
    ) -> None:
        self.codebook = codebook
        self.view = codebook.view(view)
        self.choices = choices
        self.tasks = {task.name: task for task in codebook.tasks}
        everything = [name for name in self.view.features if codebook.by_name[name].ask] + list(self.tasks)
        self.weights = dict(weights) if weights else dict.fromkeys(everything, 1.0)

    def feature_of(self, item: str) -> Feature:
        """Feature whose value an item asks for."""
        return self.codebook.by_name[self.tasks[item].feature if item in self.tasks else item]

    def items(self, patient: Patient) -> list[str]:
        """Items that can be asked of this patient: measured, and a category that the codebook lists."""
        return [item for item in self.weights if patient.values.get(self.feature_of(item).name, OTHER) != OTHER]

    def make(self, patient: Patient, item: str, stream: Stream) -> Question | None:
        """Ask `item` of a patient; None where it was not measured or allows fewer than two choices."""
        task: Task | None = self.tasks.get(item)
        feature = self.feature_of(item)
        truth = patient.values.get(feature.name)
        if truth is None:
            return None
        choices = self.choices(feature, truth, stream)
        if len(choices) < 2:
            return None
        masked = None if task else feature.name
        hidden = self.codebook.hidden_for(feature.name, task) | ({feature.name} if task else frozenset())
        label = label_of(feature, self.view)
        within = "" if self.view.compact else f" in the section '{feature.section}'"
        return Question(
            patient=patient.id,
            item=item,
            kind=feature.kind,
            record=record_lines(self.codebook, self.view, patient.values, masked=masked, hidden=hidden),
            text=task.question if task else f"What would be the masked value of {label}{within}?",
            choices=tuple(choices),
            answer=choices.index(truth),
        )

    def draw(self, patient: Patient, count: int, stream: Stream) -> list[Question]:
        """Draw at most `count` different items by weight and ask them."""
        items = self.items(patient)
        questions: list[Question] = []
        while items and len(questions) < count:
            item = stream.weighted(items, [self.weights[name] for name in items])
            items.remove(item)
            question = self.make(patient, item, stream)
            if question is not None:
                questions.append(question)
        return questions
