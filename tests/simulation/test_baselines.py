"""What is right without training is reckoned from what each question shows."""

from __future__ import annotations

from pathlib import Path

from client.training.workplace import Workplace
from common import synthetic
from common.synthetic.codebook import SHORT_LIST
from simulation.baselines import baselines, shown_values
from simulation.prepare import write_site
from tests.small import small_config

CONFIG = small_config(
    Path("tiny"), questions={"held_out": 0.5, "weights": {"antibiotic": 1.0}}, evaluation={"every": 0, "per_patient": 1}
)
VISITS = {
    pathogen: next(drug for drug in SHORT_LIST[pathogen] if drug not in SHORT_LIST[other])
    for pathogen, other in (
        ("ecoli", "saureus"),
        ("saureus", "ecoli"),
    )
}
"""Two visits of a patient: the pathogen of each, and a drug that is listed for it and not for the other."""


def two_visits(folder: Path, name: str) -> Workplace:
    book = synthetic.codebook().model_copy(update={"record": "visit"})
    rows = [
        row | {"visit": f"{row['patient_id']}-{visit}", "pathogen": pathogen, "antibiotic": VISITS[pathogen]}
        for row in synthetic.registry(name, 60, seed=1)
        for visit, pathogen in enumerate(VISITS)
    ]
    return Workplace(write_site(folder / name, name, list(rows[0]), rows, book))


def test_the_short_list_is_that_of_the_visit_that_is_asked_of(tmp_path: Path) -> None:
    site = two_visits(tmp_path, "north")
    questions = site.questions(CONFIG)
    pathogens = [shown["pathogen"] for shown in shown_values(questions, site.codebook, site.maker(CONFIG).view)]
    assert [VISITS[pathogen] for pathogen in pathogens] == [question.truth for question in questions]
    assert min(pathogens.count(pathogen) for pathogen in VISITS) > 5
    found = baselines([site], CONFIG)["antibiotic"]
    assert found.short_list == found.own == found.asked == len(questions)
