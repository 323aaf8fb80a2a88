"""Which patients are kept for evaluation: by a keyed hash of the identifier, never by question."""

from __future__ import annotations

from common.config import RunConfig
from common.questions.question import Patient
from common.stream import Stream


def held_out(patient: Patient, run: RunConfig, secret: str | None) -> bool:
    """Whether a patient is kept for evaluation: the same in every run of a site; `secret` as `split_secret` has it."""
    return kept(patient.id, run.questions.held_out, run.federation.name if secret is None else secret)


def kept(patient: str, share: float, key: str) -> bool:
    """Whether the patient of this identifier is among the share that is kept for evaluation under a key."""
    return Stream.named("split", key, patient).uniform() < share
