"""The bench of choices finds a leak that is there, and none where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from bench.choices import MOST_ACCURACY, Row, asked, fare
from common.codebook import Codebook
from common.questions.question import Patient, QuestionMaker
from tests.bench.called import figures
from tests.paths import DATA

SUPPORT2 = DATA / "support2" / "support2_sepsis_dev.csv"

pytest.importorskip("sklearn")


def codebook(**content: object) -> Codebook:
    pressure = {"section": "Vitals", "kind": "numeric", "low": 0, "high": 300, "step": 10}
    features = [
        {"name": "sbp", "label": "Systolic"} | pressure,
        {"name": "cuff", "label": "Systolic: by cuff"} | pressure,
        {"name": "lactate", "label": "Lactate", "words": {"<70": "<70"}} | pressure,
        {"name": "ward", "label": "Ward", "section": "Stay", "kind": "categorical", "categories": list("abcdef")},
        {"name": "floor", "label": "Floor", "section": "Stay", "kind": "categorical", "categories": list("123456")},
    ]
    return Codebook.model_validate({"title": "t", "patient": "id", "features": features} | content)


def patients(count: int = 400) -> list[Patient]:
    """Return patients whose systolic pressure was taken twice, and whose ward is on one floor."""
    random = np.random.default_rng(0)
    people = []
    for i in range(count):
        pressure, ward = random.normal(120, 30), random.integers(6)
        values = {
            "sbp": f"{pressure:.0f}",
            "cuff": f"{pressure + random.normal(0, 2):.0f}",
            "lactate": f"{lactate:.0f}" if (lactate := random.normal(100, 30)) >= 70 else "<70",
            "ward": "abcdef"[ward],
            "floor": str(ward + 1),
        }
        people.append(Patient(str(i), values))
    return people


def row(book: Codebook, item: str) -> Row:
    maker = QuestionMaker(book, "full")
    return fare(maker, item, asked(maker, patients(), item))


@pytest.mark.long
@pytest.mark.parametrize("item", ["sbp", "ward"])
def test_a_copy_of_what_is_asked_is_a_leak_until_it_is_hidden(item: str) -> None:
    open_row = row(codebook(), item)
    hidden = row(codebook(leak_groups=(("sbp", "cuff"), ("ward", "floor"))), item)
    assert open_row.answered > 0.9 and open_row.accuracy > MOST_ACCURACY > hidden.answered
    assert open_row.bounded == (item == "sbp")
    assert 395 < open_row.questions == sum(open_row.positions) <= 400
    assert open_row.chance == pytest.approx(0.2)


@pytest.mark.long
def test_words_and_numbers_are_answered_together() -> None:
    lactate = row(codebook(), "lactate")
    assert lactate.kind == "numeric"
    assert 0.2 < lactate.majority < MOST_ACCURACY and lactate.questions < 400


def test_a_value_that_nearly_all_have_is_found_without_the_record() -> None:
    people = [Patient(str(i), {"sbp": "110" if i % 5 else str(50 + i % 70)}) for i in range(200)]
    maker = QuestionMaker(codebook(), "full")
    crowded = fare(maker, "sbp", asked(maker, people, "sbp"))
    assert crowded.majority >= 0.8
    assert crowded.answered > MOST_ACCURACY


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.skipif(not SUPPORT2.exists(), reason="SUPPORT2 is not on this machine")
def test_support2_gives_no_number_away() -> None:
    told = figures("choices", "--patients", 150, "--folds", 2, "--blind", 3000, "--registry", SUPPORT2)
    assert told["worst_numeric_accuracy"] < MOST_ACCURACY and told["position_p"] > 0.01
    assert told["worst_rule_over_chance"] <= 0.1 and told["registries"] == 9
    assert told["features"] > 15 and told["questions"] > 2000
