"""A question as the text that a model reads."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from common.config import PAPER, PromptConfig
from common.errors import Code, FedReasonError
from common.questions.question import LETTERS, Question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TODAY = "{%- macro strftime_now(format) -%}26 Jul 2024{%- endmacro %}"
"""What a template that tells today's date tells instead: else a question would be another one tomorrow."""
FORCING = " Therefore, the answer is \\boxed{"


def question_text(question: Question) -> str:
    """Record, question and lettered choices, one per line."""
    lettered = (f"{letter}. {choice}" for letter, choice in zip(LETTERS, question.choices, strict=False))
    return "\n".join([*question.record, question.text, *lettered])


def prompt_text(question: Question, tokenizer: PreTrainedTokenizerBase, words: PromptConfig = PAPER) -> str:
    """Return the prompt: a chat with the assistant's turn begun where there is a template, else plain text.

    Where the template knows no system's turn its words begin the user's.

    Raises
    ------
    FedReasonError
        MODEL_UNFIT where the template makes nothing of it.
    """
    asked = question_text(question)
    if not tokenizer.chat_template:
        return asked + "\nAnswer:"
    from jinja2 import TemplateError

    system, user = ({"role": role, "content": text} for role, text in (("system", words.system), ("user", asked)))
    joined = {"role": "user", "content": f"{words.system}\n\n{asked}"}
    for turns in ([system, user], [joined]):
        with suppress(TemplateError, TypeError, ValueError):  # what a template raises, and what is none
            text = _chat(tokenizer, turns)
            if words.system.strip() in text and asked in text:
                return text + words.opening
    raise FedReasonError(
        Code.MODEL_UNFIT,
        "The base model's chat template makes no prompt of a question, with a system's turn or without.",
        "Name another base, or give its folder a template that takes a user's turn.",
    )


def _chat(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]]) -> str:
    template = tokenizer.get_chat_template()
    if "strftime_now" in template:
        template = _TODAY + template
    return str(tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False, add_generation_prompt=True))


def prompt_tokens(question: Question, tokenizer: PreTrainedTokenizerBase, words: PromptConfig = PAPER) -> list[int]:
    """Token ids of the prompt; a chat template has already placed the special tokens."""
    text = prompt_text(question, tokenizer, words)
    return list(tokenizer(text, add_special_tokens=not tokenizer.chat_template)["input_ids"])
