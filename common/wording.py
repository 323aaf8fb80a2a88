"""What a run states about the words around a question and the form of its answer; by default C-Reason's."""

from __future__ import annotations

from typing import Literal

from common.toml import Strict

AnswerForm = Literal["letter", "text"]
"""What is boxed: the letter of a choice, or the choice itself."""


class PromptConfig(Strict):
    r"""Words that a chat model reads beside the question, and what it is to box.

    `opening` begins the assistant's turn. With `answer` "text" the choice itself is boxed, as in `\boxed{4.5}`, and a
    letter alone is no answer; `system` has to say so. A model without a chat template reads the question alone.
    """

    system: str = (
        "You answer multiple-choice questions about a patient's record. Reason step by step, then give the letter of "
        "your choice alone inside \\boxed{}. Do not add a disclaimer."
    )
    opening: str = "Let's think step by step."
    answer: AnswerForm = "letter"


PAPER = PromptConfig()
"""What C-Reason's models read and box (arXiv 2505.02722)."""


def is_paper(value: object) -> bool:
    """Whether a run states the default: it is then left out of the hash, which is as before there was the key."""
    return value == PAPER
