"""What answers the held-out questions without a language model: the majority, and gradient boosting on what is shown.

Both see the training patients of all sites at once, which no site could.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from client.training.workplace import Workplace
from common.codebook import Codebook, View
from common.config import RunConfig
from common.feature import number_of
from common.questions.ladder import Scale
from common.questions.question import Question, QuestionMaker
from common.stream import Stream
from simulation.baselines import frequencies, shown_values, training_values
from simulation.study.rows import Given

MOST_CLASSES = 10
"""Groups that a number's values are cut into, at quantiles; within one a choice counts by how often it is seen."""
_MOST_CATEGORIES = 200
"""scikit-learn takes 255 categories of a column; the rarest beyond so many count as not known."""


def majority(sites: Sequence[Workplace], config: RunConfig) -> dict[str, list[Given]]:
    """Answer by the choice seen most often in training, by site in the order of its questions."""
    values, maker = training_values(sites, config), sites[0].maker(config)

    def given(question: Question) -> Given:
        feature = maker.feature_of(question.item)
        seen = np.array(frequencies(feature, question.choices, values[feature.name]), dtype=float)
        return answered(seen)

    return {site.name: [given(question) for question in site.questions(config)] for site in sites}


def boosting(sites: Sequence[Workplace], config: RunConfig) -> dict[str, list[Given]]:
    """Answer by one HistGradientBoostingClassifier for each item, on the lines that the question shows."""
    maker = sites[0].maker(config)
    asked = [(site.name, question) for site in sites for question in site.questions(config)]
    items = dict.fromkeys(question.item for _, question in asked)
    models = {item: Boosted(maker, item, training_questions(sites, config, item)) for item in items}
    found: dict[str, list[Given]] = {site.name: [] for site in sites}
    predicted: dict[int, Given] = {}
    for item, model in models.items():
        places = [place for place, (_, question) in enumerate(asked) if question.item == item]
        questions = [asked[place][1] for place in places]
        predicted |= dict(zip(places, model.answers(questions), strict=True))
    for place, (site, _) in enumerate(asked):
        found[site].append(predicted[place])
    return found


def training_questions(sites: Sequence[Workplace], config: RunConfig, item: str) -> list[Question]:
    """Ask an item of every training patient of all sites, as it is asked of the held-out ones."""
    found = []
    for site in sites:
        maker = site.maker(config)
        for patient in site.training(config):
            question = maker.make(patient, item, Stream.named(config.seed, "boosting", item, patient.id))
            if question is not None:
                found.append(question)
    return found


def answered(weights: NDArray[np.float64]) -> Given:
    """Return the answer with the largest weight, the first of several; probabilities are the weights' shares."""
    total = weights.sum()
    shares = weights / total if total > 0 else np.full(len(weights), 1 / len(weights))
    best = int(shares.argmax())
    return Given(best, best, tuple(shares.tolist()))


def columns_of(questions: Iterable[Question], codebook: Codebook, view: View) -> pd.DataFrame:
    """Return what questions show as columns: numbers, and the texts of categories; what is not shown is missing.

    Free text and the masked value are left out.
    """

    def cell(name: str, text: str) -> float | str:
        number = number_of(text) if codebook.by_name[name].kind == "numeric" else text
        return np.nan if number is None else number

    rows = [{name: cell(name, text) for name, text in row.items()} for row in shown_values(questions, codebook, view)]
    return pd.DataFrame(rows, columns=[name for name in view.features if codebook.by_name[name].kind != "text"])


class Boosted:
    """The classifier of one item, fitted on training questions.

    A category is a class. The values of a number are cut into groups at quantiles, and a choice has the chance of its
    group, times how often what is nearer than half a step was seen within the group.
    """

    def __init__(self, maker: QuestionMaker, item: str, questions: Sequence[Question]) -> None:
        from sklearn.ensemble import HistGradientBoostingClassifier

        self._maker, self._feature = maker, maker.feature_of(item)
        self._seen = Counter(question.truth for question in questions)
        self._edges = edges_of([place for text in self._seen.elements() if (place := self.place(text)) is not None])
        classes = [self._class(question.truth) for question in questions]
        self._sizes = Counter(classes)
        self._order = sorted(self._sizes, key=str)
        table = columns_of(questions, maker.codebook, maker.view)
        self._categories: dict[str, list[str]] = {}
        self._numbers: list[str] = []
        for name in map(str, table):
            if maker.codebook.by_name[name].kind == "categorical":
                self._categories[name] = table[name].value_counts().index[:_MOST_CATEGORIES].tolist()
            elif table[name].nunique() > 1:
                self._numbers.append(name)
        self._model = None
        if len(self._order) > 1 and (self._numbers or any(self._categories.values())):
            model = HistGradientBoostingClassifier(categorical_features="from_dtype", random_state=0)
            self._model = model.fit(self._typed(table), [self._order.index(each) for each in classes])

    def answers(self, questions: Sequence[Question]) -> list[Given]:
        """Answer questions of this item."""
        often = np.array([self._sizes[each] for each in self._order], dtype=float)
        chances = np.tile(often / max(1.0, often.sum()), (len(questions), 1))
        if self._model is not None and questions:
            chances = self._model.predict_proba(self.columns(questions))
        return [answered(self._weights(question, row)) for question, row in zip(questions, chances, strict=True)]

    def columns(self, questions: Iterable[Question]) -> pd.DataFrame:
        """Return what questions show, as the columns that the classifier is fitted on."""
        return self._typed(columns_of(questions, self._maker.codebook, self._maker.view))

    def place(self, text: str) -> float | None:
        """Place of a number on its scale, None of a word or a category."""
        number = number_of(text) if self._feature.kind == "numeric" else None
        return None if number is None else Scale.of(self._feature).place(number)

    def _weights(self, question: Question, chances: NDArray[np.float64]) -> NDArray[np.float64]:
        classes = [self._class(choice) for choice in question.choices]
        weights = np.array([chances[self._order.index(each)] if each in self._sizes else 0.0 for each in classes])
        if self._feature.kind != "numeric":
            return weights
        near = frequencies(self._feature, question.choices, self._seen)
        shares = np.array([n / max(1, self._sizes[each]) for n, each in zip(near, classes, strict=True)])
        return np.asarray(weights * shares)

    def _class(self, text: str) -> str | int:
        place = self.place(text)
        return text if place is None else int(np.searchsorted(self._edges, place, side="right"))

    def _typed(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the columns that say anything, each with the type that it was fitted with."""
        numbers = {name: pd.to_numeric(table[name]) for name in self._numbers}
        texts = {name: pd.Categorical(table[name], categories=known) for name, known in self._categories.items()}
        return pd.DataFrame({**numbers, **texts}, index=table.index)


def edges_of(places: Sequence[float]) -> NDArray[np.float64]:
    """Return where the groups of a number's places begin, at quantiles."""
    if not places:
        return np.array([])
    return np.asarray(np.unique(np.quantile(places, np.linspace(0, 1, MOST_CLASSES + 1)[1:-1])))
