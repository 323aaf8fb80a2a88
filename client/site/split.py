"""Which patients are kept for evaluation: by a keyed hash of the identifier, never by question."""

from __future__ import annotations

from common.config import RunConfig
from common.questions.question import Patient
from common.stream import Stream


def held_out(patient: Patient, run: RunConfig) -> bool:
    """Whether a patient is kept for evaluation: the same in every run of a federation."""
    return Stream.named("split", run.federation.name, patient.id).uniform() < run.questions.held_out
