"""A completion ends by any token that the model's makers say ends a turn, however it is decoded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from client.grpo.rollout import Rollouts, counts
from common.config import ModelConfig
from common.decoding.attend import Shape
from common.decoding.ends import ended, ends_of
from common.decoding.generate import Completions, generate
from common.decoding.shared import generate_shared
from common.model.base import load_base

pytestmark = pytest.mark.model
PROMPTS = [[5, 9, 20], [7, 30, 8, 11]]
SHAPE = Shape(2, 6, 4, 12)
UNIFORMS = torch.rand(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("stated", "more"), [([1, 6, 9], (6, 9)), ([6], (6,)), (6, ()), (None, ())])
def test_the_ends_are_the_tokenizers_and_those_that_are_listed(small_model: Path, stated: Any, more: Any) -> None:
    model, tokenizer = load_base(ModelConfig(base=str(small_model)))
    model.generation_config.eos_token_id = stated
    assert ends_of(model, tokenizer) == (tokenizer.eos_token_id, *more)


def test_each_token_is_told() -> None:
    tokens = torch.tensor([[1, 2], [6, 1]])
    assert ended(tokens, (1, 6)).tolist() == [[True, False], [True, True]]
    assert ended(tokens, (1,)).tolist() == [[True, False], [False, True]]


def test_nothing_is_written_after_any_of_them_and_what_met_one_is_whole(small_model: Path) -> None:
    model, _ = load_base(ModelConfig(base=str(small_model)))
    options: dict[str, Any] = {"pad": 0, "uniforms": UNIFORMS}
    free = generate(model, PROMPTS, group_size=6, max_tokens=12, ends=(-1,), **options).tokens
    first, second = (int(free[row, place]) for row, place in ((0, 4), (7, 2)))
    ends = (first, second)
    plain = generate(model, PROMPTS, group_size=6, max_tokens=12, ends=ends, **options)
    shared = generate_shared(model, PROMPTS, shape=SHAPE, ends=ends, **options)
    for done in (plain, shared):
        for row, written, kept in zip(free.tolist(), done.tokens.tolist(), done.mask.tolist(), strict=True):
            place = next((place for place, token in enumerate(row) if token in ends), len(row) - 1)
            assert sum(kept) == place + 1 and written[: place + 1] == row[: place + 1]
    whole = sum(any(token in ends for token in row) for row in free.tolist())
    nothing = torch.zeros(2, 6)
    rollouts = Rollouts(PROMPTS, Completions(plain.tokens, plain.mask, plain.logprobs), [""] * 12, nothing, nothing)
    assert counts(rollouts, ends).truncated == 12 - whole < counts(rollouts, (first,)).truncated
