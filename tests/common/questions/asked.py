"""Questions of synthetic patients, one each."""

from __future__ import annotations

from common import synthetic
from common.questions.question import Patient, Question, QuestionMaker
from common.stream import Stream
from tests.small import shown


def questions_of(count: int) -> list[Question]:
    maker = QuestionMaker(synthetic.codebook(), "core")
    people = [Patient(row["patient_id"], shown(row)) for row in synthetic.registry("north", count, seed=2)]
    return [maker.draw(person, 1, Stream.named("asked", person.id))[0] for person in people]
