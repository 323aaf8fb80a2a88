"""How likely a model finds each letter, asked where its own completion gives one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from common import synthetic
from common.config import GrpoConfig
from common.decoding.evaluate import answer, letter_probabilities, up_to_letter
from common.questions.prompt import FORCING, prompt_tokens
from common.questions.question import LETTERS, Patient, Question, QuestionMaker
from common.stream import Stream
from tests.small import shown


def asked() -> list[Question]:
    maker = QuestionMaker(synthetic.codebook(), "core")
    people = [Patient(row["patient_id"], shown(row)) for row in synthetic.registry("west", 12, seed=2)]
    return [q for person in people for q in maker.draw(person, 2, Stream.named("letters", person.id))]


GRPO = GrpoConfig(max_completion_tokens=8)


@pytest.mark.parametrize(
    ("completion", "told"),
    [
        (" so \\boxed{B}", " so \\boxed{"),
        ("\\boxed{A} or \\boxed{B}", "\\boxed{"),
        (" x \\fbox {B}", " x \\fbox {"),
        (" x \\framebox[2cm][c]{B}", " x \\framebox[2cm][c]{"),
        (" \\boxed B", " \\boxed "),
        (" never closed \\boxed{", " never closed \\boxed{"),
        (" \\boxedB is no box \n", " \\boxedB is no box" + FORCING),
        ("", FORCING),
    ],
)
def test_a_completion_is_read_until_its_first_box_opens(completion: str, told: str) -> None:
    assert up_to_letter(completion) == told


def test_probabilities_are_those_of_the_letters_behind_what_was_written(small_model: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(small_model), AutoTokenizer.from_pretrained(small_model)
    questions = asked()
    completions = [[" \\boxed{A}", " none", ""][i % 3] for i in range(len(questions))]
    found = letter_probabilities(model, tokenizer, questions, completions, GRPO)
    letters = [tokenizer(letter, add_special_tokens=False)["input_ids"][-1] for letter in LETTERS]
    for question, completion, given in zip(questions, completions, found, strict=True):
        text = tokenizer(up_to_letter(completion), add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt_tokens(question, tokenizer), *text]])).logits[0, -1]
        own = letters[: len(question.choices)]
        assert given == pytest.approx(torch.softmax(logits[own].double(), 0).tolist(), abs=1e-5)
        assert sum(given) == pytest.approx(1)
    assert len({len(question.choices) for question in questions}) > 1, "chance differs"


def test_the_likeliest_letter_is_the_one_that_was_boxed(small_model: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(small_model), AutoTokenizer.from_pretrained(small_model)
    questions = asked()
    given = answer(model, tokenizer, questions, GRPO)
    found = letter_probabilities(model, tokenizer, questions, [each.completion for each in given], GRPO)
    boxed = [(each, row) for each, row in zip(given, found, strict=True) if each.chosen is not None]
    assert boxed and all(max(range(len(row)), key=row.__getitem__) == each.chosen for each, row in boxed)


def test_without_questions_nothing_is_computed() -> None:
    assert letter_probabilities(torch.nn.Identity(), None, [], [], GRPO) == []  # type: ignore[arg-type]
