"""The words around a question and the form of its answer are the run's, wherever a model reads or answers are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from client.grpo.rollout import ask
from client.inspection.prompt_lengths import prompt_lengths
from client.training.engine import Engine
from client.training.metrics import accuracy_counts
from client.training.public import public_counts
from common import synthetic
from common.config import PAPER, GrpoConfig, PromptConfig, RunConfig
from common.decoding import evaluate
from common.questions.answer import parse_answer
from common.questions.prompt import FORCING, prompt_tokens
from common.stream import Stream
from tests.common.questions.asked import questions_of
from tests.small import small_config

WORDS = PromptConfig(system="Say which.", opening="Well:")
CHOICES = ("1.3", "2.6", "5.2", "<0.5")


def test_a_run_that_states_the_paper_s_words_is_the_run_that_states_none(small_model: Path) -> None:
    plain = small_config(small_model)
    assert "prompt" not in plain.model_dump(mode="json")["grpo"]
    assert small_config(small_model, grpo={"prompt": PAPER.model_dump()}).sha256 == plain.sha256
    for change in ({"system": "Say which."}, {"opening": ""}, {"answer": "text"}):
        other = small_config(small_model, grpo={"prompt": change})
        assert other.sha256 != plain.sha256
        assert RunConfig.model_validate(other.model_dump(mode="json")).sha256 == other.sha256


def test_every_prompt_is_in_the_words_of_the_run(small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config(
        small_model, grpo={"prompt": WORDS.model_dump()}, guard={"questions": 16}, federation={"sites": 3}
    )
    engine = Engine(config, None, "cpu")
    engine.tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    read: list[list[int]] = []
    real = evaluate.generate

    def reads(model: Any, prompts: list[list[int]], **options: Any) -> Any:
        read.extend(prompts)
        return real(model, prompts, **options)

    monkeypatch.setattr(evaluate, "generate", reads)
    asked = questions_of(4)
    accuracy_counts(engine, asked, config)
    public_counts(engine, synthetic.codebook(), config)
    read += ask(engine.tokenizer, asked, config.grpo, Stream.named("words")).prompts
    assert len(read) == 4 + 16 + 4
    for prompt in read:
        text = engine.tokenizer.decode(prompt)
        assert text.startswith("<system>Say which.<user>") and text.endswith("<assistant>Well:")
    longest = prompt_lengths(asked, engine.tokenizer, config.grpo).longest
    assert longest == max(len(prompt) for prompt in read[-4:])


@pytest.mark.parametrize(
    ("box", "by_text", "by_letter"),
    [
        ("2.6", 1, None),
        ("2.60 mg/dL", 1, None),
        (r"\text{5.2}", 2, None),
        ("<0.5", 3, None),
        ("B", None, 1),
        ("B. 2.6", None, 1),
        ("1.3 or 2.6", None, None),
        ("12.6", None, None),
        ("", None, None),
    ],
)
def test_a_text_is_an_answer_where_the_run_has_the_text_boxed(
    box: str, by_text: int | None, by_letter: int | None
) -> None:
    completion = f" so \\boxed{{{box}}}"
    assert parse_answer(completion, CHOICES, form="text").chosen == by_text
    assert parse_answer(completion, CHOICES).chosen == by_letter


def test_a_forced_text_is_the_likeliest_with_the_brace_behind_it(small_model: Path) -> None:
    engine = Engine(small_config(small_model), None, "cpu")
    tokenizer, model = AutoTokenizer.from_pretrained(small_model), engine.policy.model
    asked = questions_of(5)
    prompts = [prompt_tokens(question, tokenizer) for question in asked]
    forced = evaluate.forced_texts(model, tokenizer, prompts, asked)
    for prompt, question, chosen in zip(prompts, asked, forced, strict=True):
        scores = []
        for choice in question.choices:
            told, given = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (FORCING, f"{choice}}}"))
            ids = torch.tensor([[*prompt, *told, *given]])
            logprobs = model(input_ids=ids).logits[0].log_softmax(-1)
            start = ids.size(1) - len(given) - 1
            scores.append(sum(logprobs[start + at, token].item() for at, token in enumerate(given)))
        assert scores[chosen] == pytest.approx(max(scores), abs=1e-4)


def test_evaluation_forces_a_text_where_texts_are_boxed(small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(small_config(small_model), None, "cpu")
    asked = questions_of(3)
    grpo = GrpoConfig(max_completion_tokens=8, prompt=PromptConfig(answer="text"))
    monkeypatch.setattr(evaluate, "forced_texts", lambda *_: [0] * len(_[3]))
    monkeypatch.setattr(evaluate, "forced_letters", lambda *_: [1] * len(_[3]))
    given = evaluate.answer(engine.policy.model, engine.tokenizer, asked, grpo)
    assert all(each.chosen is None and each.forced == 0 for each in given), "the small model boxes letters"
