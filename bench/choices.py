"""Whether choices give answers away: `python -m bench.choices`.

Every numeric feature of all registries is answered by rules that never read the record (`bench.blind`). On SUPPORT2,
or the registry named, gradient boosting then sees of a record what the question shows, and answers with the choice
nearest to the number that it expects or the likeliest text offered. Beside it stand the best answer that ignores the
record, and chance. A numeric feature that either answers in more than 60 % is a leak rather than skill.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import chisquare

from bench.blind import DATA, unread
from bench.blind import table_of as unread_table
from bench.result import print_result
from client.inspection.unread import MOST_OVER_CHANCE
from client.registry.delimited import read_delimited
from client.registry.load import registry_from
from common.codebook import load_codebook
from common.questions.choices import MOST_CHOICES
from common.questions.question import MASK, Patient, Question, QuestionMaker
from common.stream import Stream

SUPPORT2 = Path("configs/registries/support2.toml")

MOST_ACCURACY = 0.6
LEAST_QUESTIONS = 100
FOLDS = 4
MOST_CATEGORIES = 250
NUMBER = "number"
"""Stands for all numbers where the model says which text a cell holds."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """How the questions of one item were answered, and how often the truth stood at each letter of five."""

    item: str
    kind: str
    questions: int
    accuracy: float
    majority: float
    chance: float
    positions: tuple[int, ...]

    @property
    def answered(self) -> float:
        """Accuracy of model or best constant answer, whichever is right more often."""
        return max(self.accuracy, self.majority)

    @property
    def bounded(self) -> bool:
        """Whether the limit holds for it."""
        return self.kind == "numeric"


def asked(maker: QuestionMaker, patients: Iterable[Patient], item: str) -> list[Question]:
    """Ask an item of all of whom it can be asked, each once."""
    made = (maker.make(patient, item, Stream.named("bench", item, patient.id)) for patient in patients)
    return [question for question in made if question is not None]


def fare(questions: Sequence[Question]) -> Row:
    """Answer the questions of one item, each by what was learnt from other patients."""
    records, categories = shown(questions)
    right = constant = 0
    fold = np.arange(len(questions)) % FOLDS
    for part in range(FOLDS):
        held = questions[part::FOLDS]
        known = [question for question, own in zip(questions, fold, strict=True) if own != part]
        texts, numbers = learnt(known, records[fold != part], records[fold == part], categories)
        for question, chances, number in zip(held, texts, numbers, strict=True):
            right += by_record(question, chances, number) == question.answer
        counts = Counter(question.truth for question in known)
        values = np.array([float(question.truth) for question in known if _is_numeric(question, question.truth)])
        constant += sum(by_frequency(question, counts, values) == question.answer for question in held)
    five = Counter(question.answer for question in questions if len(question.choices) == MOST_CHOICES)
    return Row(
        item=questions[0].item,
        kind=questions[0].kind,
        questions=len(questions),
        accuracy=right / len(questions),
        majority=constant / len(questions),
        chance=float(np.mean([1 / len(question.choices) for question in questions])),
        positions=tuple(five[place] for place in range(MOST_CHOICES)),
    )


def shown(questions: Sequence[Question]) -> tuple[Matrix, list[bool]]:
    """Return what the records show, a row for each question, and which columns are categories.

    The first column is the number of lines. Each label gives one for its numbers and one for its texts, if it has such.
    """
    records = [_lines(question.record) for question in questions]
    columns: list[list[float]] = [[len(record) for record in records]]
    categories = [False]
    for label in sorted({label for record in records for label in record}):
        texts = [record.get(label, "") for record in records]
        numbers = [float(text) if _is_number(text) else np.nan for text in texts]
        words = Counter(text for text in texts if text and not _is_number(text)).most_common(MOST_CATEGORIES)
        code = {word: place for place, (word, _) in enumerate(words)}
        if not np.isnan(numbers).all():
            columns.append(numbers)
            categories.append(False)
        if code:
            columns.append([code.get(text, np.nan) for text in texts])
            categories.append(True)
    return np.array(columns, dtype=np.float64).T, categories


def _lines(record: Sequence[str]) -> dict[str, str]:
    """Texts of a record by section and label."""
    section, texts = "", dict[str, str]()
    for line in record:
        label, colon, text = line.rpartition(": ")
        if not colon:
            section = line
        elif text != MASK:
            texts[f"{section} {label}"] = text
    return texts


def learnt(
    known: Sequence[Question], records: Matrix, others: Matrix, categories: list[bool]
) -> tuple[list[dict[str, float]], Matrix]:
    """Return for other records how likely every text is and, if it is a number, which is expected."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    names = [NUMBER if _is_numeric(question, question.truth) else question.truth for question in known]
    texts = [{names[0]: 1.0}] * len(others)
    if len(set(names)) > 1:
        classifier = HistGradientBoostingClassifier(max_iter=40, categorical_features=categories, random_state=0)
        classifier.fit(records, names)
        texts = [dict(zip(classifier.classes_, row, strict=True)) for row in classifier.predict_proba(others)]
    numbers = np.zeros(len(others))
    measured = [place for place, name in enumerate(names) if name == NUMBER]
    if measured:
        regressor = HistGradientBoostingRegressor(
            loss="absolute_error", max_iter=80, categorical_features=categories, random_state=0
        )
        regressor.fit(records[measured], [float(known[place].truth) for place in measured])
        numbers = np.asarray(regressor.predict(others))
    return texts, numbers


def by_record(question: Question, chances: dict[str, float], number: float) -> int:
    """Choose the likeliest text offered, where the number nearest to the expected one stands for all numbers."""
    offered = [choice for choice in question.choices if _is_numeric(question, choice)]
    nearest = min(offered, key=lambda choice: abs(float(choice) - number), default=None)
    likely = [chances.get(NUMBER if choice == nearest else choice, 0.0) for choice in question.choices]
    return int(np.argmax(likely))


def by_frequency(question: Question, counts: Counter[str], numbers: Matrix) -> int:
    """Choose what most other patients have: a text, or a number within half the distance between numbers offered."""
    offered = sorted(float(choice) for choice in question.choices if _is_numeric(question, choice))
    reach = min(np.diff(offered), default=0.0) / 2

    def patients(choice: str) -> int:
        if not _is_numeric(question, choice):
            return counts[choice]
        return int(np.count_nonzero(np.abs(numbers - float(choice)) <= reach))

    return int(np.argmax([patients(choice) for choice in question.choices]))


def _is_numeric(question: Question, text: str) -> bool:
    return question.kind == "numeric" and _is_number(text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def table_of(rows: Sequence[Row]) -> Table:
    """Return the accuracies, numeric and categorical apart, the best answered first."""
    table = Table(title="answers without reasoning")
    table.add_column("item", no_wrap=True)
    for column in ("kind", "questions", "accuracy", "majority", "chance"):
        table.add_column(column)
    for row in sorted(rows, key=lambda row: (row.kind == "categorical", -row.answered)):
        figures = [f"{value:.1%}" for value in (row.accuracy, row.majority, row.chance)]
        table.add_row(row.item, row.kind, f"{row.questions:,}", *figures)
    return table


def main(
    codebook: Annotated[Path, typer.Option(help="Describes the registry.")] = SUPPORT2,
    registry: Annotated[Path, typer.Option(help="CSV file.")] = DATA / "support2" / "support2_sepsis_dev.csv",
    view: Annotated[str, typer.Option(help="Of the codebook: what a record shows.")] = "full",
    patients: Annotated[int, typer.Option(min=100, help="At most so many, drawn by a fixed seed.")] = 3000,
) -> None:
    """Ask every feature and task of every patient; what is printed is one line of JSON."""
    os.environ.setdefault(
        "OMP_NUM_THREADS", "1"
    )  # read when scikit-learn is imported: two threads on a busy core crawl
    description = load_codebook(codebook)
    people = Stream.named("bench").shuffled(registry_from(read_delimited(registry), description).patients)[:patients]
    maker = QuestionMaker(description, view)
    console = Console(stderr=True)
    ignorant = list(unread(tell=lambda text: console.print(text, highlight=False)))
    console.print(unread_table(ignorant))
    for each in ignorant:
        if each.blind.over_chance > MOST_OVER_CHANCE:
            console.print(f"{each.registry} {each.item}: {each.reason or 'answers itself'}", highlight=False)
    rows: list[Row] = []
    for item in maker.weights:
        questions = asked(maker, people, item)
        if len(questions) >= LEAST_QUESTIONS:
            rows.append(fare(questions))
            console.print(f"{item}: {rows[-1].answered:.1%}", highlight=False)
    console.print(table_of(rows))
    for row in rows:
        if row.kind == "numeric" and row.answered > MOST_ACCURACY:
            console.print(f"{row.item}: a leak", highlight=False)
    positions = np.sum([each.positions for each in (*rows, *ignorant)], axis=0)
    print_result(
        {
            "worst_rule_over_chance": round(max(each.blind.over_chance for each in ignorant if each.reason is None), 4),
            "listed": {
                f"{each.registry} {each.item}": round(each.blind.over_chance, 4) for each in ignorant if each.reason
            },
            "registries": len({each.registry for each in ignorant}),
            "worst_numeric_accuracy": round(max((row.answered for row in rows if row.bounded), default=0.0), 4),
            "position_p": round(float(chisquare(positions).pvalue), 4),
            "questions": sum(row.questions for row in rows),
            "features": len(rows),
        }
    )


if __name__ == "__main__":
    typer.run(main)
