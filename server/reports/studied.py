"""What a study found of the arm that an exported run belongs to: `results.json` of the folder that the run lies in.

A study is of one machine that holds all records. Its figures by group of patients are what no site of a real federation
lets out, so only a run of a study has them on its card, and only one without noise: they hold none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from common.codebook import Codebook
from common.config import RunConfig
from common.errors import Code, FedReasonError

RESULTS = "results.json"
LEAST = 20
"""Patients of a published group, and of those that are left over where small groups are not shown."""
SIDES = {
    "chance": "chance",
    "majority": "majority answer",
    "boosting": "gradient boosting",
    "before": "before training",
    "federated": "this run's arm",
}
"""What is compared on a card; the federation without noise is the run's own arm."""
OWN = "federated"
SHOWN = 0.0005
"""Least gap that three digits show."""
_FOLDER = re.compile(r"seed--?\d+")


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Ends(_Read):
    """A figure with its 95 % interval, by patient."""

    estimate: float | None
    low: float | None
    high: float | None

    def __str__(self) -> str:
        """Return the figure and its interval, a dash where there is none."""
        if self.estimate is None:
            return "-"
        return f"{self.estimate:.3f}" + (
            "" if self.low is None or self.high is None else f" ({self.low:.3f} to {self.high:.3f})"
        )


class Group(_Read):
    """Who is in a group."""

    patients: int
    questions: int


class Worst(_Read):
    """An arm's worst group, and how far it is below the best."""

    group: str
    gap: float


class Column(_Read):
    """Groups of patients by the values of one column."""

    groups: dict[str, Group]
    intervals: dict[str, dict[str, Ends]]
    worst: dict[str, Worst]

    @model_validator(mode="after")
    def _of_the_same_groups(self) -> Column:
        if self.groups.keys() != self.intervals.keys():
            raise ValueError("groups and their intervals differ")
        return self


class Accuracy(_Read):
    """Shares of right answers."""

    free: Ends
    forced: Ends


class Studied(_Read):
    """The part of a study's results that a card tells."""

    study: str
    seeds: tuple[int, ...]
    patients: int
    questions: int
    accuracy: dict[str, Accuracy]
    subgroups: dict[str, Column]


@dataclass(frozen=True)
class Grouped:
    """A column whose groups may be published, by the name that the codebook gives it."""

    label: str
    column: Column


def study_of(run: Path, config: RunConfig) -> Studied | None:
    """Return what the study that a run folder belongs to found; None where it belongs to none, or that is not done.

    Raises
    ------
    FedReasonError
        STUDY_DAMAGED where the results cannot be read, or are of another study.
    """
    path = run.absolute().parent / RESULTS
    if not _FOLDER.fullmatch(run.absolute().name) or not path.exists():
        return None
    try:
        found = Studied.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise FedReasonError(
            Code.STUDY_DAMAGED,
            f"{path} cannot be read, or is of an older version.",
            "Run the study again: it is computed anew from its table.",
        ) from None
    if found.study != config.name or config.seed not in found.seeds or OWN not in found.accuracy:
        raise FedReasonError(
            Code.STUDY_DAMAGED,
            f"{path} is of the study '{found.study}', and {run.name} is no run of it.",
            "Leave a study's folder as the study wrote it, or move the run out of it.",
        )
    return found


def published(study: Studied, codebook: Codebook | None) -> list[Grouped]:
    """Return the columns whose groups may be told: named by a codebook that is public, no small group left over."""
    found = []
    for name, column in study.subgroups.items():
        feature = codebook.by_name.get(name) if codebook else None
        shown = [group.patients for group in column.groups.values()]
        if feature and shown and min(shown) >= LEAST and (not (rest := study.patients - sum(shown)) or rest >= LEAST):
            found.append(Grouped(feature.label, column))
    return found
