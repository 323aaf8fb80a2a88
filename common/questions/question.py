"""From one patient's record to a question: which value is masked, what is hidden, what is offered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from common.codebook import Codebook, View
from common.feature import OTHER, Feature
from common.questions.choices import codebook_choices
from common.stream import Stream
from common.tasks import Task

LETTERS = "ABCDE"
MASK = "[MASK]"


@dataclass(frozen=True)
class Moment:
    """A time in a record from which a task asks for what came later: its series' last values until then."""

    values: Mapping[str, str]
    truth: str


@dataclass(frozen=True)
class Patient:
    """A person: identifier and the shown text of every feature that was measured.

    `later` holds the moments of a record by task. `visits` are further records of the same person, under the same
    identifier: together they are one privacy unit.
    """

    id: str
    values: Mapping[str, str]
    later: Mapping[str, Moment] = field(default_factory=dict)
    visits: tuple[Patient, ...] = ()

    @property
    def records(self) -> tuple[Patient, ...]:
        """All records of the person."""
        return (self, *self.visits)


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


@dataclass(frozen=True)
class Consultation:
    """A question that is answered in free text and read by a clinician; `reference` is what was done."""

    patient: str
    item: str
    record: tuple[str, ...]
    text: str
    reference: str


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
    leaks
        Features to hide where that feature is asked for, masked or by a task, beside the codebook's groups.
    """

    def __init__(
        self,
        codebook: Codebook,
        view: str,
        *,
        weights: Mapping[str, float] | None = None,
        choices: ChoiceBuilder = codebook_choices,
        leaks: Mapping[str, frozenset[str]] | None = None,
    ) -> None:
        self.codebook = codebook
        self.view = codebook.view(view)
        self.choices = choices
        self.leaks = leaks or {}
        self.tasks = {task.name: task for task in codebook.tasks if task.kind != "consultation"}
        self.consultations = tuple(task for task in codebook.tasks if task.kind == "consultation")
        everything = [name for name in self.view.features if codebook.by_name[name].asked] + list(self.tasks)
        self.weights = dict(weights) if weights else dict.fromkeys(everything, 1.0)
        timed = {name for name, task in self.tasks.items() if task.kind == "later"}
        self._columns = {item: self.feature_of(item).name for item in self.weights if item not in timed}
        self._series = frozenset(feature.name for feature in codebook.features if feature.series)

    def feature_of(self, item: str) -> Feature:
        """Feature whose value an item asks for."""
        return self.codebook.by_name[self.tasks[item].feature if item in self.tasks else item]

    def hidden(self, feature: Feature, task: Task | None) -> frozenset[str]:
        """Features that a question for a masked value, or a task's for it, does not show."""
        leaks = self.leaks.get(feature.name, frozenset())
        if task is None:
            return self.codebook.hidden_for(feature.name) | leaks
        return self.codebook.hidden_for_task(task) | (leaks - self._series if task.kind == "later" else leaks)

    def items(self, patient: Patient) -> list[str]:
        """Items that can be asked of some record of this patient: known, and a category that the codebook lists."""
        able: set[str] = set()
        for record in patient.records:
            values = dict(record.values.items())
            able.update(item for item, column in self._columns.items() if values.get(column, OTHER) != OTHER)
            able.update(item for item in record.later if item in self.weights and record.later[item].truth != OTHER)
        return [item for item in self.weights if item in able]

    def make(self, patient: Patient, item: str, stream: Stream) -> Question | None:
        """Ask `item` of a record of the patient, drawn where several could be asked; None where none allows it."""
        able = [record for record in patient.records if self._truth(item, record.values, record.later) is not None]
        if not able:
            return None
        record = able[0] if len(able) == 1 else able[stream.below(len(able))]
        task = self.tasks.get(item)
        feature = self.feature_of(item)
        truth = self._truth(item, record.values, record.later)
        assert truth is not None
        choices = self.choices(feature, truth, stream)
        if len(choices) < 2:
            return None
        label = label_of(feature, self.view)
        within = "" if self.view.compact else f" in the section '{feature.section}'"
        return Question(
            patient=patient.id,
            item=item,
            kind="numeric" if feature.kind == "numeric" else "categorical",
            record=self._lines(record, feature, task),
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

    def consult(self, patient: Patient) -> list[Consultation]:
        """Return the free-text questions that the patient's records have a reference for."""
        return [
            Consultation(
                patient=patient.id,
                item=task.name,
                record=self._lines(record, self.codebook.by_name[task.feature], task),
                text=task.question,
                reference=record.values[task.feature],
            )
            for task in self.consultations
            for record in patient.records
            if task.feature in record.values
        ]

    def truths(self, item: str, patients: Iterable[Patient]) -> list[str]:
        """Right answers to an item for every record of these patients that it can be asked of."""
        found = (self._truth(item, record.values, record.later) for patient in patients for record in patient.records)
        return [truth for truth in found if truth is not None]

    def _truth(self, item: str, values: Mapping[str, str], later: Mapping[str, Moment]) -> str | None:
        """Right answer to an item for a record, None where it cannot be asked."""
        task = self.tasks.get(item)
        if task is not None and task.kind == "later":
            truth = later[item].truth if item in later else None
        else:
            truth = values.get(task.feature if task else item)
        return None if truth == OTHER else truth

    def _lines(self, record: Patient, feature: Feature, task: Task | None) -> tuple[str, ...]:
        """Return what a question shows of a record."""
        values, masked = dict(record.values.items()), feature.name if task is None else None
        if task is not None and task.kind == "later":
            values = {name: text for name, text in values.items() if name not in self._series}
            values |= record.later[task.name].values
        return record_lines(self.codebook, self.view, values, masked=masked, hidden=self.hidden(feature, task))
