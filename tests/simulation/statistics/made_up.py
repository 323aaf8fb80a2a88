"""A small study's answers, made up so that its figures can be worked out by hand."""

from __future__ import annotations

import pandas as pd

from simulation.study.config import StudyConfig
from simulation.study.rows import schema_of

CONFIG = StudyConfig.model_validate(
    {
        "name": "made-up",
        "config": "none.toml",
        "seeds": [1, 2],
        "arms": ["before", "alone", "federated"],
        "comparisons": [["federated", "alone"], ["federated", "own"], ["federated", "chance"]],
        "outcomes": {"death": "died"},
        "subgroups": {"sex": []},
        "resamples": 199,
    }
)


def row(arm: str, patient: int, correct: bool, **more: object) -> dict[str, object]:
    """One answer of two choices to patients of which the odd ones are at north."""
    site = "north" if patient % 2 else "south"
    blank = dict.fromkeys(schema_of(CONFIG).names)
    answer = {"answer": "A" if correct else "B", "truth": "A", "correct": correct, "forced_correct": correct}
    where = {"seed": 1, "arm": arm, "site": site, "patient": patient, "item": "gcs", "kind": "categorical"}
    return blank | answer | where | {"choices": 2, "group_sex": "male" if patient < 30 else "female"} | more


def made_up() -> pd.DataFrame:
    """60 patients, one question each: the federation is right, a site alone at its own patients, before nobody."""
    rows = []
    for patient in range(60):
        rows += [row("before", patient, False), row("federated", patient, True)]
        rows += [
            row("alone", patient, (patient % 2 == 1) == (at == "north"), trained_at=at) for at in ("north", "south")
        ]
    return pd.DataFrame(rows)
