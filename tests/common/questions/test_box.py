"""The box that counts, first or last, is what the run states, wherever completions are read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from client.grpo.rollout import counts, roll_out
from client.training.engine import Engine
from client.training.held_out import DISAGREEING
from client.training.metrics import accuracy_counts
from common.config import AnswerBox, GrpoConfig
from common.decoding import evaluate
from common.decoding.generate import Completions
from common.questions.answer import parse_answer, reward
from common.questions.prompt import prompt_tokens
from common.questions.question import LETTERS, Question
from common.stream import Stream
from tests.common.questions.asked import questions_of
from tests.small import small_config


class Written:
    """Completions that are given."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> None:
        rows = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts]
        width = max(map(len, rows))
        tokens = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        self.completions = Completions(tokens, mask, torch.zeros(tokens.shape))

    def sample(self, *_: object, **__: object) -> Completions:
        return self.completions

    __call__ = sample


def texts_for(question: Question) -> list[str]:
    right, wrong = question.letter, LETTERS[1 - question.answer] if question.answer < 2 else LETTERS[0]
    return [
        f" \\boxed{{\\text{{{right}}}}}",
        f" \\boxed{{{right}. {question.truth}}}",
        f" \\boxed{{{right}}} \\boxed{{{wrong}}}",
        f" \\boxed{{{wrong}}} so ( \\boxed{{{right}}} )",
        f" \\boxed{{{question.truth}}}",
        f" \\boxed{{{right} or {wrong}}}",
        f" \\boxed{{{right}",
        " no",
    ]


@pytest.mark.parametrize(("box", "rewards"), [("first", [1, 1, 1, 0]), ("last", [1, 1, 0, 1])])
def test_rollouts_are_rewarded_and_counted_by_the_box_that_the_run_states(
    small_model: Path, box: AnswerBox, rewards: list[int]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(small_model)
    asked = questions_of(3)
    written = Written(tokenizer, [text for question in asked for text in texts_for(question)])
    config = GrpoConfig(group_size=8, max_completion_tokens=60, answer_box=box)
    rollouts = roll_out(written, tokenizer, asked, config, Stream.named("r"))
    assert rollouts is not None
    assert rollouts.rewards.tolist() == [[*rewards, 0, 0, 0, 0]] * 3
    assert rollouts.rewards.tolist() == [
        [reward(parse_answer(text, question.choices, box), question) for text in rollouts.texts[8 * i : 8 * i + 8]]
        for i, question in enumerate(asked)
    ]
    counted = counts(rollouts, (tokenizer.eos_token_id,))
    assert (counted.rollouts, counted.unboxed, counted.disagreeing) == (24, 12, 6)


@pytest.mark.parametrize("box", ["first", "last"])
def test_evaluation_answers_by_the_box_that_the_run_states(
    small_model: Path, monkeypatch: pytest.MonkeyPatch, box: AnswerBox
) -> None:
    config = small_config(small_model, grpo={"answer_box": box})
    engine = Engine(config, None, "cpu")
    asked = questions_of(7)
    texts = [texts_for(question)[i] for i, question in zip((0, 1, 2, 4, 5, 6, 7), asked, strict=True)]
    order = sorted(range(7), key=lambda i: -len(prompt_tokens(asked[i], engine.tokenizer)))
    monkeypatch.setattr(evaluate, "generate", Written(engine.tokenizer, [texts[i] for i in order]))
    given = evaluate.answer(
        engine.policy.model, engine.tokenizer, asked, GrpoConfig(max_completion_tokens=60, answer_box=box)
    )
    rights = [each.chosen == question.answer for each, question in zip(given, asked, strict=True)]
    assert rights == [True, True, box == "first", False, False, False, False]
    assert [each.chosen is None for each in given] == [False] * 3 + [True] * 4
    assert [each.disagrees for each in given] == [False, False, True] + [False] * 4
    assert all(each.forced == each.chosen for each in given[:3])
    assert all(0 <= each.forced < len(question.choices) for each, question in zip(given[3:], asked[3:], strict=True))
    counted = accuracy_counts(engine, asked, config)
    assert sum(item["free"] for item in counted.values()) == sum(rights)
    assert sum(item[DISAGREEING] for item in counted.values()) == 1


def test_the_box_that_counts_is_stated_in_the_configuration_and_changes_its_hash(small_model: Path) -> None:
    first, last = (small_config(small_model, grpo={"answer_box": box}) for box in ("first", "last"))
    assert small_config(small_model).sha256 == first.sha256 != last.sha256
    assert '"answer_box":"first"' in first.model_dump_json()
    with pytest.raises(ValidationError, match="answer_box"):
        small_config(small_model, grpo={"answer_box": "any"})
