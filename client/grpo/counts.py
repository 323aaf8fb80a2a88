"""What rollouts are, and what is counted in them: data, which log, sampling and the training pass share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

from torch import Tensor

from common.collapse import LETTERS
from common.decoding.generate import Completions
from common.decoding.read import Read
from common.questions.answer import Answer


@dataclass(frozen=True)
class RolloutCounts:
    """What happened in the rollouts of some patients; sums, so that they add up."""

    patients: int = 0
    questions: int = 0
    rollouts: int = 0
    reward: float = 0.0
    zero_variance: int = 0
    unboxed: int = 0
    disagreeing: int = 0
    too_long: int = 0
    truncated: int = 0
    tokens: int = 0
    letter_a: int = 0
    letter_b: int = 0
    letter_c: int = 0
    letter_d: int = 0
    letter_e: int = 0

    def __add__(self, other: RolloutCounts) -> RolloutCounts:
        """Sum field by field."""
        return RolloutCounts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def told(self, *, private: bool) -> dict[str, float]:
        """Return what a policy of plain metrics lets out; of a private run no letters, which were never let out."""
        return {name: count for name, count in asdict(self).items() if not (private and name in LETTERS)}


@dataclass(frozen=True)
class Rollouts:
    """Completions of one patient's questions with their rewards and advantages [Q, G]; `answers` are counted.

    `reads` are the prompts as sampling read them with gradient, where the training pass is to go on from there;
    `elsewhere` says that another program sampled than the one that trains.
    """

    prompts: list[list[int]]
    completions: Completions
    texts: list[str]
    rewards: Tensor
    advantages: Tensor
    answers: Sequence[Answer] = ()
    reads: Sequence[Read] = ()
    elsewhere: bool = False
