"""The advice for a question that answers itself: coarser steps are tried too, and what is said of them is true."""

from __future__ import annotations

import numpy as np
import pytest

from client.inspection.blind import ask, blind_rules
from client.inspection.unread import MOST_OVER_CHANCE, tempered, unread_items
from common.codebook import Codebook
from common.feature import Feature
from common.questions.question import Patient, QuestionMaker

RNG = np.random.default_rng(1)


def feature(**said: object) -> Feature:
    return Feature.model_validate({"name": "x", "section": "s", "label": "x", "kind": "numeric", **said})


TENS = [str(int(value) * 10) for value in RNG.uniform(3, 28, 400)]
FIVES = [str(int(value) * 5) for value in RNG.lognormal(2, 1, 400).clip(1, 150)]


@pytest.mark.long
@pytest.mark.parametrize(
    ("given", "truths"),
    [
        (feature(low=0, high=300, step=1), TENS),  # written in tens: the roundest choice is true
        (feature(low=1, high=1000, step=1.1, scale="log"), FIVES),
    ],
)
def test_a_coarser_step_is_advised_where_it_mends(given: Feature, truths: list[str]) -> None:
    before = blind_rules(given, ask(given, truths, 600))
    found = tempered(given, truths)
    assert before is not None and before.over_chance > 0.3 and found is not None
    assert given.step is not None and found[0].step is not None and found[0].step > given.step
    after = blind_rules(found[0], ask(found[0], truths, 2000))
    assert after is not None and after.over_chance < MOST_OVER_CHANCE + 0.05


def told(given: Feature, truths: list[str]) -> str:
    codebook = Codebook(title="T", patient="#", features=(given, feature(name="y", low=0, high=9, step=1)))
    patients = [Patient(str(place), {"x": text, "y": "5"}) for place, text in enumerate(truths)]
    (found,) = unread_items(QuestionMaker(codebook, "full"), patients, {"y"})
    return found.warning


@pytest.mark.long
def test_what_mends_nothing_is_said_to_mend_nothing() -> None:
    assert "No scale or step mends that" in told(feature(low=0, high=100, step=5), ["50"] * 380 + ["60"] * 20)


def test_a_column_of_one_value_is_advised_no_scale_or_step() -> None:
    """By a coarser step there are fewer choices: it gets less above chance, and is as right as before."""
    given, truths = feature(low=0, high=10, step=1), ["9"] * 60
    assert tempered(given, truths) is None
    warning = told(given, truths)
    assert "is right in 100% of its questions" in warning and "No scale or step mends that" in warning


@pytest.mark.long
def test_what_mends_most_of_it_is_named_with_what_is_left() -> None:
    fives = [str(int(value) * 5) for value in RNG.normal(16, 2, 400)]
    warning = told(feature(low=40, high=120, step=4), fives)
    assert "no rule that ignores the record is above" in warning and "No other that was tried does better" in warning
    assert "No scale or step mends" not in warning
