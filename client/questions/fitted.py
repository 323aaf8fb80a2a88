"""Everything that empirical questions take from a training split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from client.questions.empirical import EmpiricalChoices
from client.questions.leaks import leaks
from common.codebook import Codebook
from common.questions.question import Patient


@dataclass(frozen=True)
class Fitted:
    """Choices and the features that leak, of one training split."""

    choices: EmpiricalChoices
    leaks: Mapping[str, frozenset[str]]


def fit(codebook: Codebook, patients: Sequence[Patient]) -> Fitted:
    """Fit both on the patients of a training split."""
    return Fitted(EmpiricalChoices.fitted(codebook, patients), leaks(codebook, patients))
