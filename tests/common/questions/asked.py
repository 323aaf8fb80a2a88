"""Choices that a completion may name, which one it chose, and questions of synthetic patients, one each."""

from __future__ import annotations

from common import synthetic
from common.questions.answer import parse_answer
from common.questions.question import LETTERS, Patient, Question, QuestionMaker
from common.stream import Stream
from tests.small import shown

FINDINGS = ("sodium", "lactate", "urea", "creatinine (serum)", "white cells")
NUMBERS = ("2.0", "2.5", "3.0", "3.5", "12000")
ORGANISMS = ("MRSA", "E. coli", "C. difficile", "none")
GROUPS = ("B", "A", "O", "AB")


def chosen(completion: str, choices: tuple[str, ...] = FINDINGS) -> str | None:
    """Letter of a completion's answer."""
    index = parse_answer(completion, choices).chosen
    return None if index is None else LETTERS[index]


def questions_of(count: int) -> list[Question]:
    maker = QuestionMaker(synthetic.codebook(), "core")
    people = [Patient(row["patient_id"], shown(row)) for row in synthetic.registry("north", count, seed=2)]
    return [maker.draw(person, 1, Stream.named("asked", person.id))[0] for person in people]
