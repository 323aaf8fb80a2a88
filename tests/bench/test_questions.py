"""The bench asks the registry that it wrote, all of it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from bench.questions import codebook_of
from tests.paths import ROOT


@pytest.mark.long
def test_every_patient_is_read_and_every_question_shows_a_whole_record() -> None:
    words = ["--patients", "150", "--features", "40", "--questions", "60"]
    done = subprocess.run(
        [sys.executable, "-m", "bench.questions", *words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout)
    assert (told["patients"], told["features"], told["questions"]) == (150, 40, 60)
    assert told["questions_per_second"] > 0 and told["peak_gib"] > 0 and told["pandas_peak_gib"] > 0
    # Nine tenths of 40 values and a header for each of 20 sections.
    assert 45 < told["lines_per_question"] <= 60


def test_the_features_are_of_both_kinds_and_every_precision() -> None:
    features = codebook_of(100).features
    assert sum(feature.kind == "numeric" for feature in features) == 60
    assert {feature.decimals for feature in features if feature.kind == "numeric"} == {0, 1, 2}
