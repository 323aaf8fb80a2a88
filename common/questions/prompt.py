"""A question as the text that a model reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.config import PAPER, PromptConfig
from common.questions.question import LETTERS, Question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORCING = " Therefore, the answer is \\boxed{"


def question_text(question: Question) -> str:
    """Record, question and lettered choices, one per line."""
    lettered = (f"{letter}. {choice}" for letter, choice in zip(LETTERS, question.choices, strict=False))
    return "\n".join([*question.record, question.text, *lettered])


def prompt_text(question: Question, tokenizer: PreTrainedTokenizerBase, words: PromptConfig = PAPER) -> str:
    """Return the prompt: a chat with the assistant's turn begun where there is a template, else plain text."""
    if not tokenizer.chat_template:
        return question_text(question) + "\nAnswer:"
    turns = [{"role": "system", "content": words.system}, {"role": "user", "content": question_text(question)}]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)) + words.opening


def prompt_tokens(question: Question, tokenizer: PreTrainedTokenizerBase, words: PromptConfig = PAPER) -> list[int]:
    """Token ids of the prompt; a chat template has already placed the special tokens."""
    text = prompt_text(question, tokenizer, words)
    return list(tokenizer(text, add_special_tokens=not tokenizer.chat_template)["input_ids"])
