"""What a codebook lets be asked beside masked values: tasks, and the choices that public guidelines narrow them to."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from common.toml import Strict


class Task(Strict):
    """A question beside those for masked values; `hidden` columns and all that is known later are left out.

    "outcome" asks for the value of `feature`. "later" asks for the value of a series `hours` after the last record
    shown, at most `tolerance` hours off. "consultation" is answered in free text, with `feature` as the reference: it
    has no choices and no reward, and is never trained on.
    """

    name: str = Field(min_length=1)
    kind: Literal["outcome", "later", "consultation"] = "outcome"
    feature: str
    question: str = Field(min_length=1)
    hidden: tuple[str, ...] = ()
    hours: float | None = Field(default=None, gt=0)
    tolerance: float = Field(default=6.0, ge=0)

    @model_validator(mode="after")
    def _timed(self) -> Task:
        if (self.kind == "later") != (self.hours is not None):
            raise ValueError(f"task {self.name}: hours belong to kind 'later', and it needs them")
        return self


class Case(Strict):
    """What a public guideline lists when the given feature has this category, or lies in [at_least, below)."""

    model_config = ConfigDict(allow_inf_nan=True)

    value: str | None = None
    at_least: float = float("-inf")
    below: float = float("inf")
    options: tuple[str, ...] = Field(min_length=1)

    def applies(self, shown: str) -> bool:
        """Whether the case covers this shown value."""
        if self.value is not None:
            return shown == self.value
        try:
            return self.at_least <= float(shown) < self.below
        except ValueError:
            return False


class ShortList(Strict):
    """Public knowledge that narrows the choices of `feature` by the value of `given`."""

    feature: str
    given: str
    cases: tuple[Case, ...] = Field(min_length=1)

    def options(self, values: dict[str, str]) -> tuple[str, ...]:
        """Return the listed options for a record; empty where no case applies."""
        shown = values.get(self.given)
        return next((case.options for case in self.cases if shown is not None and case.applies(shown)), ())
