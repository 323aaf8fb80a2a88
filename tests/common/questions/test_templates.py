"""A prompt is made of every chat template that takes a user's turn, and is the same one tomorrow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers.utils.chat_template_utils as rendering
from transformers import PreTrainedTokenizerBase

from common.config import ModelConfig, PromptConfig
from common.errors import Code, FedReasonError
from common.model.base import load_base
from common.questions.prompt import prompt_text, prompt_tokens
from common.questions.question import Question

WORDS = PromptConfig(system="Say which.", opening="Well:")
QUESTION = Question("", "sex", "categorical", ("Age: 64",), "What is the sex?", ("male", "female"), 0)
ASKED = "Age: 64\nWhat is the sex?\nA. male\nB. female"
TURNS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TURNS
SILENT = TURNS.replace("messages %}", "messages if m.role != 'system' %}")
DATED = " Today: {{ strftime_now(format='%d %b %Y') }} " + TURNS


@pytest.fixture
def tokenizer(small_model: Path) -> PreTrainedTokenizerBase:
    return load_base(ModelConfig(base=str(small_model)))[1]


def test_where_a_template_knows_no_system_its_words_begin_the_users_turn(tokenizer: PreTrainedTokenizerBase) -> None:
    """Gemma's and early Mistral's: every question would else fail, and a private run would be charged for noise."""
    tokenizer.chat_template = TURNS
    assert prompt_text(QUESTION, tokenizer, WORDS) == f"<system>Say which.<user>{ASKED}<assistant>Well:"
    for template in (NO_SYSTEM, SILENT):
        tokenizer.chat_template = template
        assert prompt_text(QUESTION, tokenizer, WORDS) == f"<user>Say which.\n\n{ASKED}<assistant>Well:"


def test_a_template_that_makes_no_prompt_is_refused_by_number(tokenizer: PreTrainedTokenizerBase) -> None:
    for template in ("{{ raise_exception('nothing at all') }}", "{{ 1 + 'x' }}", "nobody's words"):
        tokenizer.chat_template = template
        with pytest.raises(FedReasonError) as refusal:
            prompt_tokens(QUESTION, tokenizer, WORDS)
        assert refusal.value.code is Code.MODEL_UNFIT


def test_a_template_that_tells_the_date_makes_the_same_prompt_every_day(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Llama 3.2's: a round that is resumed tomorrow, or a site elsewhere, would read another question."""
    tokenizer.chat_template = DATED
    plain = [{"role": "user", "content": "x"}]
    assert "26 Jul 2024" not in str(tokenizer.apply_chat_template(plain, tokenize=False))

    class Tomorrow:
        @staticmethod
        def now() -> Any:
            raise AssertionError("the clock was asked")

    monkeypatch.setattr(rendering, "datetime", Tomorrow)
    assert prompt_text(QUESTION, tokenizer, WORDS).startswith(" Today: 26 Jul 2024 <system>Say which.<user>")
