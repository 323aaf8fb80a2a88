"""Whether choices give answers away: `python -m bench.choices`.

Every numeric feature of all registries is answered by rules that never read the record (`bench.blind`). On SUPPORT2,
or the registry named, gradient boosting then sees of a record what the question shows and answers as in a study
(`simulation.study.references`) and, of a number, by the choice nearest to the one that it expects; four times fitted on
three quarters of the patients. Beside it stand the best answer that ignores the record, and chance. A numeric feature
that any of these answers in more than 60 % is a leak rather than skill.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from scipy.stats import chisquare
from threadpoolctl import threadpool_limits

from bench.blind import ASKED, DATA, unread
from bench.blind import table_of as unread_table
from bench.result import print_result
from client.inspection.unread import MOST_OVER_CHANCE
from client.registry.delimited import read_delimited
from client.registry.load import registry_from
from common.codebook import load_codebook
from common.questions.choices import MOST_CHOICES
from common.questions.question import Patient, Question, QuestionMaker
from common.stream import Stream
from simulation.baselines import commonest
from simulation.study.references import Boosted

SUPPORT2 = Path("configs/registries/support2.toml")

MOST_ACCURACY = 0.6
LEAST_QUESTIONS = 100
FOLDS = 4


@dataclass(frozen=True)
class Row:
    """How the questions of one item were answered, and how often the truth stood at each letter of five."""

    item: str
    kind: str
    questions: int
    accuracy: float
    nearest: float
    majority: float
    chance: float
    positions: tuple[int, ...]

    @property
    def answered(self) -> float:
        """Accuracy of a model or of the best constant answer, whichever is right most often."""
        return max(self.accuracy, self.nearest, self.majority)

    @property
    def bounded(self) -> bool:
        """Whether the limit holds for it."""
        return self.kind == "numeric"


def asked(maker: QuestionMaker, patients: Iterable[Patient], item: str) -> list[Question]:
    """Ask an item of all of whom it can be asked, each once."""
    made = (maker.make(patient, item, Stream.named("bench", item, patient.id)) for patient in patients)
    return [question for question in made if question is not None]


def fare(maker: QuestionMaker, item: str, questions: Sequence[Question], folds: int = FOLDS) -> Row:
    """Answer the questions of one item, each by what was learnt from other patients."""
    feature, right, near, constant = maker.feature_of(item), 0, 0, 0
    for part in range(folds):
        held = questions[part::folds]
        known = [question for place, question in enumerate(questions) if place % folds != part]
        boosted = Boosted(maker, item, known)
        given, numbers = boosted.answers(held), nearest(boosted, known, held)
        right += sum(one.chosen == question.answer for one, question in zip(given, held, strict=True))
        near += sum(one == question.answer for one, question in zip(numbers, held, strict=True))
        seen = Counter(question.truth for question in known)
        constant += sum(commonest(feature, question.choices, seen) == question.answer for question in held)
    five = Counter(question.answer for question in questions if len(question.choices) == MOST_CHOICES)
    return Row(
        item=item,
        kind=questions[0].kind,
        questions=len(questions),
        accuracy=right / len(questions),
        nearest=near / len(questions),
        majority=constant / len(questions),
        chance=float(np.mean([1 / len(question.choices) for question in questions])),
        positions=tuple(five[place] for place in range(MOST_CHOICES)),
    )


def nearest(boosted: Boosted, known: Sequence[Question], held: Sequence[Question]) -> list[int | None]:
    """Answer by the choice nearest, on its scale, to the number that boosting expects; None where none is.

    It finds a copy of what is asked sooner than a classifier of ten groups does.
    """
    from sklearn.ensemble import HistGradientBoostingRegressor

    measured = [(question, place) for question in known if (place := boosted.place(question.truth)) is not None]
    if not measured:
        return [None] * len(held)
    questions, places = zip(*measured, strict=True)
    model = HistGradientBoostingRegressor(
        loss="absolute_error", max_iter=80, categorical_features="from_dtype", random_state=0
    )
    model.fit(boosted.columns(questions), places)
    expected = model.predict(boosted.columns(held)).tolist()
    return [_nearest(boosted, question, place) for question, place in zip(held, expected, strict=True)]


def _nearest(boosted: Boosted, question: Question, expected: float) -> int | None:
    places = [(boosted.place(choice), letter) for letter, choice in enumerate(question.choices)]
    far = [(abs(place - expected), letter) for place, letter in places if place is not None]
    return min(far)[1] if far else None


def table_of(rows: Sequence[Row]) -> Table:
    """Return the accuracies, numeric and categorical apart, the best answered first."""
    table = Table(title="answers without reasoning")
    table.add_column("item", no_wrap=True)
    for column in ("kind", "questions", "boosting", "nearest", "majority", "chance"):
        table.add_column(column)
    for row in sorted(rows, key=lambda row: (row.kind == "categorical", -row.answered)):
        figures = [f"{value:.1%}" for value in (row.accuracy, row.nearest, row.majority, row.chance)]
        table.add_row(row.item, row.kind, f"{row.questions:,}", *figures)
    return table


def main(
    codebook: Annotated[Path, typer.Option(help="Describes the registry.")] = SUPPORT2,
    registry: Annotated[Path, typer.Option(help="CSV file.")] = DATA / "support2" / "support2_sepsis_dev.csv",
    view: Annotated[str, typer.Option(help="Of the codebook: what a record shows.")] = "full",
    patients: Annotated[int, typer.Option(min=100, help="At most so many, drawn by a fixed seed.")] = 3000,
    folds: Annotated[int, typer.Option(min=2, help="Parts, each answered by what was learnt of the others.")] = FOLDS,
    blind: Annotated[
        int, typer.Option(min=100, help="Questions of an item for rules that never read the record.")
    ] = ASKED,
) -> None:
    """Ask every feature and task of every patient; what is printed is one line of JSON."""
    description = load_codebook(codebook)
    people = Stream.named("bench").shuffled(registry_from(read_delimited(registry), description).patients)[:patients]
    maker = QuestionMaker(description, view)
    console = Console(stderr=True)
    ignorant = list(unread(lambda text: console.print(text, highlight=False), blind))
    console.print(unread_table(ignorant))
    for each in ignorant:
        if each.blind.over_chance > MOST_OVER_CHANCE:
            console.print(f"{each.registry} {each.item}: {each.reason or 'answers itself'}", highlight=False)
    rows: list[Row] = []
    for item in maker.weights:
        questions = asked(maker, people, item)
        if len(questions) >= LEAST_QUESTIONS:
            with threadpool_limits(1, user_api="openmp"):  # two threads on a busy core crawl
                rows.append(fare(maker, item, questions, folds))
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
