"""What a codebook lets be asked beside masked values: tasks, what guidelines narrow them to, and textbook knowledge."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from common.alike import bare
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


class Knowledge(Strict):
    """A question that a textbook answers, of no patient: practised in a warm-up, asked in no run."""

    question: str = Field(min_length=1)
    right: str = Field(min_length=1)
    wrong: tuple[str, ...] = Field(min_length=1, max_length=4)

    @model_validator(mode="after")
    def _told_apart(self) -> Knowledge:
        choices = [self.right, *self.wrong]
        if any(len(text.splitlines()) != 1 or not text.strip() for text in (self.question, *choices)):
            raise ValueError("question, right and wrong of knowledge are a line of text each")
        if any(sign in text for text in choices for sign in "\\{}"):
            raise ValueError(f"a choice of {self.question!r} holds \\, {{ or }}, which a box cannot")
        if len({bare(text) for text in choices}) != len(choices):
            raise ValueError(f"two choices of {self.question!r} are the same")
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
