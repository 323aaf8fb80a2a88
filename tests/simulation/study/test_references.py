"""What needs no language model sees what the questions show, and nothing else."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from client.training.workplace import Workplace
from common import synthetic
from common.config import RunConfig
from common.feature import number_of
from common.questions.question import MASK, Question, QuestionMaker, label_of
from simulation.baselines import baselines, frequencies
from simulation.prepare import prepare
from simulation.study.references import (
    MOST_CLASSES,
    Boosted,
    boosting,
    columns_of,
    edges_of,
    majority,
    training_questions,
)
from tests.small import small_config

CONFIG = small_config(
    Path("tiny"),
    simulation={"patients": 150},
    questions={"held_out": 0.3, "weights": {"antibiotic": 1.0, "platelets": 1.0, "mortality": 1.0}},
    evaluation={"every": 0, "per_patient": 3},
)


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> list[Workplace]:
    folders = prepare(CONFIG, synthetic.codebook(), tmp_path_factory.mktemp("sites"))
    return [Workplace(folder) for folder in folders.values()]


def questions_of(sites: list[Workplace], config: RunConfig = CONFIG) -> list[Question]:
    return [question for site in sites for question in site.questions(config)]


def test_the_majority_is_the_one_of_the_summary(sites: list[Workplace]) -> None:
    given = [each for answers in majority(sites, CONFIG).values() for each in answers]
    right: dict[str, int] = {}
    for question, each in zip(questions_of(sites), given, strict=True):
        right[question.item] = right.get(question.item, 0) + (each.chosen == question.answer)
        assert sum(each.probabilities) == pytest.approx(1)
        assert each.chosen == int(np.argmax(each.probabilities)) == each.forced
    assert right == {item: base.majority for item, base in baselines(sites, CONFIG).items()}


def test_columns_are_what_the_question_shows_and_never_what_it_asks(sites: list[Workplace]) -> None:
    codebook, view = sites[0].codebook, sites[0].maker(CONFIG).view
    patients = {patient.id: dict(patient.values.items()) for site in sites for patient in site.patients}
    questions = questions_of(sites)
    table = columns_of(questions, codebook, view)
    assert len({question.item for question in questions}) == 3
    for question, (_, row) in zip(questions, table.iterrows(), strict=True):
        shown = {name: value for name, value in row.items() if not pd.isna(value)}
        lines = [line for line in question.record if MASK not in line and not line.startswith("[")]
        assert len(shown) == len(lines)
        for name, value in shown.items():
            text = patients[question.patient][str(name)]
            assert f"{label_of(codebook.by_name[str(name)], view)}: {text}" in question.record
            assert value == (number_of(text) if codebook.by_name[str(name)].kind == "numeric" else text)
        asked = "hospital_outcome" if question.item == "mortality" else question.item
        hidden = codebook.hidden_for(asked)
        assert asked not in shown and not hidden & set(shown)


def test_boosting_of_a_category_is_scikit_learn_s_on_these_columns(sites: list[Workplace]) -> None:
    maker = sites[0].maker(CONFIG)
    asked = training_questions(sites, CONFIG, "antibiotic")
    held_out = [question for question in questions_of(sites) if question.item == "antibiotic"]
    given = Boosted(maker, "antibiotic", asked).answers(held_out)

    def typed(questions: list[Question]) -> pd.DataFrame:
        table = columns_of(questions, maker.codebook, maker.view)
        for name in table:
            if maker.codebook.by_name[str(name)].kind == "categorical":
                known = sorted(known_texts(maker, str(name)))
                table[name] = pd.Categorical(table[name], categories=known)
        return table.drop(columns=[name for name in table if table[name].isna().all()])

    model = HistGradientBoostingClassifier(categorical_features="from_dtype", random_state=0)
    model.fit(typed(asked), [question.truth for question in asked])
    classes = list(model.classes_)
    for question, each, row in zip(held_out, given, model.predict_proba(typed(held_out)), strict=True):
        offered = np.array([row[classes.index(choice)] if choice in classes else 0.0 for choice in question.choices])
        assert each.probabilities == pytest.approx(offered / offered.sum(), abs=0.02)
    right = np.mean([each.chosen == question.answer for each, question in zip(given, held_out, strict=True)])
    assert right > 0.8, "pathogen and site's practice decide it"


def known_texts(maker: QuestionMaker, name: str) -> set[str]:
    return set(maker.codebook.by_name[name].categories.values())


@pytest.mark.long
def test_boosting_answers_every_held_out_question_in_its_order(sites: list[Workplace]) -> None:
    found = boosting(sites, CONFIG)
    for site in sites:
        questions = site.questions(CONFIG)
        assert len(found[site.name]) == len(questions)
        for question, each in zip(questions, found[site.name], strict=True):
            assert len(each.probabilities) == len(question.choices)
            assert sum(each.probabilities) == pytest.approx(1)
    numbers = [
        each.chosen == question.answer
        for site in sites
        for question, each in zip(site.questions(CONFIG), found[site.name], strict=True)
        if question.item == "platelets"
    ]
    assert np.mean(numbers) > 0.4, "chance is 0.2, and the SOFA points tell the range"


def test_boosting_is_taught_by_training_patients_alone(sites: list[Workplace]) -> None:
    held_out = {patient.id for site in sites for patient in site.held_out(CONFIG)}
    asked = training_questions(sites, CONFIG, "mortality")
    assert asked and not {question.patient for question in asked} & held_out


def test_where_one_value_is_all_there_is_or_nothing_is_shown_the_frequencies_answer(sites: list[Workplace]) -> None:
    maker = sites[0].maker(CONFIG)
    asked = training_questions(sites, CONFIG, "mortality")
    died = [question for question in asked if question.truth == "died"]
    (given,) = Boosted(maker, "mortality", died).answers(asked[:1])
    assert given.probabilities[asked[0].choices.index("died")] == 1.0
    blank = [replace(question, record=()) for question in asked]
    (given,) = Boosted(maker, "mortality", blank).answers(blank[:1])
    assert given.probabilities[blank[0].choices.index("died")] == pytest.approx(len(died) / len(asked))
    nothing = Boosted(maker, "mortality", []).answers(asked[:1])
    assert nothing[0].probabilities == (0.5, 0.5)


def test_a_number_of_which_nothing_is_shown_is_answered_by_how_often_values_occur(sites: list[Workplace]) -> None:
    maker = sites[0].maker(CONFIG)
    asked = [replace(q, record=()) for q in training_questions(sites, CONFIG, "platelets")]
    seen = Counter(question.truth for question in asked)
    for question, each in zip(asked[:40], Boosted(maker, "platelets", asked).answers(asked[:40]), strict=True):
        often = np.array(frequencies(maker.feature_of("platelets"), question.choices, seen))
        assert len(set(often)) > 1 and each.probabilities == pytest.approx(often / often.sum())


def test_a_number_has_at_most_ten_groups() -> None:
    edges = edges_of(list(np.random.default_rng(0).normal(size=500)))
    assert len(edges) == MOST_CLASSES - 1 and (np.diff(edges) > 0).all()
    assert len(edges_of([3.0] * 9)) == 1 and len(edges_of([])) == 0
