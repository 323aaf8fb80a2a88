"""Which patients are kept for evaluation: by a keyed hash of the identifier, never by question."""

from __future__ import annotations

from common.config import RunConfig
from common.questions.question import Patient
from common.stream import Stream


def held_out(patient: Patient, run: RunConfig, secret: str | None) -> bool:
    """Whether a patient is kept for evaluation: the same in every run of a site; `secret` as `split_secret` has it."""
    key = run.federation.name if secret is None else secret
    return Stream.named("split", key, patient.id).uniform() < run.questions.held_out
