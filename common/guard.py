"""What a run states about the guard against poisoning: how often the adapter is looked at, and what it may lose."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from common.toml import Strict

PUBLIC = "public"
"""Item that the counts of the public questions are sent under, in place of those of held-out questions."""

ASKED, BOXED, RIGHT, OTHER = KINDS = ("asked", "boxed", "right", "other")
"""Of the public questions: those asked, those with a boxed answer, those with the right one boxed, and those with
another choice boxed than the commonest."""


class GuardConfig(Strict):
    """After every so many rounds all sites answer public questions, made from the codebook alone, with the adapter.

    The run goes back to its last good round and stops where a share of the questions falls by more than `margin` below
    the best one before. `evaluators` is the least number of sites that must agree about the answers, each share within
    `tolerance`: the same adapter may answer otherwise on another kind of machine.
    """

    every: Annotated[int, Field(ge=1)] = 5
    questions: int = Field(default=64, ge=16, le=1024)
    margin: float = Field(default=0.2, gt=0, lt=1)
    evaluators: int = Field(default=2, ge=2)
    tolerance: float = Field(default=0.05, ge=0, lt=0.5)
