"""A prompt is read once: sampling and the training pass both go on from there, and nothing else changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from client.grpo.counts import Rollouts
from client.grpo.rollout import ask, roll_out
from client.grpo.sampler import TransformersSampler
from client.grpo.step import patient_gradient, rollout_gradient
from common.arrays import Vector
from common.config import GrpoConfig
from common.decoding.read import read_prompt
from common.decoding.row import PackedRow
from common.model.policy import Policy
from common.questions.question import Question
from common.stream import Stream
from tests.tuned import SETTINGS, load, questions, step_of, with_random_b

MANY = 20
"""Tokens that a prompt has and no group of completions."""


@pytest.fixture(autouse=True)
def _every_prompt_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.grpo.sampler._LONG", 1)


@contextmanager
def rows_read(*models: torch.nn.Module) -> Iterator[list[int]]:
    """Lengths of the rows that models are given, one of a single token left out."""
    seen: list[int] = []

    def told(_: torch.nn.Module, __: Any, named: dict[str, Any]) -> None:
        seen.extend([named["input_ids"].size(1)] * (named["input_ids"].size(1) > 1))

    hooks = [model.register_forward_pre_hook(told, with_kwargs=True) for model in models]
    yield seen
    for hook in hooks:
        hook.remove()


def rewarded(rollouts: Rollouts | None) -> Rollouts:
    """Give made-up rewards; those of the second question agree, so that it teaches nothing."""
    assert rollouts is not None
    rewards = torch.rand(rollouts.rewards.shape, generator=torch.Generator().manual_seed(3))
    rewards[1] = 0.5
    return replace(rollouts, rewards=rewards, advantages=rewards - rewards.mean(-1, keepdim=True))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_reads_each_prompt_once_and_what_teaches_once_behind_it(small_model: Path, dtype: str) -> None:
    model, tokenizer = load(small_model, dtype)
    policy = Policy(with_random_b(model)).model
    sampler = TransformersSampler.of(policy, tokenizer)
    with rows_read(*{model, policy}) as seen:
        rollouts = rewarded(roll_out(sampler, tokenizer, questions(), SETTINGS, Stream.named("a"), trained=model))
        rollout_gradient(model, rewarded(rollouts), SETTINGS, per_patient=3, pad=tokenizer.pad_token_id)
    written = rollouts.completions.mask.sum(1).view(3, -1).sum(1).tolist()
    assert seen == [*map(len, rollouts.prompts), written[0], written[2]]


def test_so_does_a_patient_s_gradient(small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = load(small_model)
    policy, rewards = Policy(with_random_b(model)).model, cycle([0.0, 1.0])
    monkeypatch.setattr("client.grpo.rollout.reward", lambda given, question: next(rewards))
    monkeypatch.setattr("tests.tuned.Policy", lambda model: SimpleNamespace(model=policy))
    with rows_read(model, policy) as seen:
        _, counted = step_of(model, tokenizer)
    prompts = [len(prompt) for prompt in ask(tokenizer, questions(), SETTINGS, Stream.named("a")).prompts]
    assert seen[:3] == prompts and len(seen) == 6 and sum(seen[3:]) == counted.tokens


def test_a_patient_has_the_same_bits_after_another_one(small_model: Path) -> None:
    model, tokenizer = load(small_model)
    with_random_b(model)
    config = SETTINGS.model_copy(update={"kl": 0.1})
    mine, other = questions()[:2], questions()[1:]

    def gradient(asked: Sequence[Question], name: str) -> Vector:
        return patient_gradient(model, tokenizer, asked, config, per_patient=3, stream=Stream.named(name))[0]

    first = gradient(mine, "me")
    assert first.any() and not np.array_equal(first, gradient(other, "somebody else"))
    assert np.array_equal(first, gradient(mine, "me"))


@pytest.mark.parametrize("changes", [{}, {"kl": 0.1}, {"top_p": 0.8}, {"temperature": 0.7}])
def test_the_gradient_is_that_of_prompts_read_anew(small_model: Path, changes: dict[str, float]) -> None:
    model, tokenizer = load(small_model)
    with_random_b(model)
    config = SETTINGS.model_copy(update=changes)
    sampler = TransformersSampler.of(Policy(model).model, tokenizer)
    anew, once = (
        roll_out(sampler, tokenizer, questions(), config, Stream.named("a"), trained=trained)
        for trained in (None, model)
    )
    assert anew is not None and once is not None and once.reads and not anew.reads
    assert torch.equal(anew.completions.tokens, once.completions.tokens)
    assert torch.allclose(anew.completions.logprobs, once.completions.logprobs, atol=1e-4)
    wanted, got = (
        rollout_gradient(model, rewarded(each), config, per_patient=3, pad=tokenizer.pad_token_id)
        for each in (anew, once)
    )
    assert wanted.norm() > 0 and (got - wanted).norm() < 1e-4 * wanted.norm()


def test_completions_that_saw_one_another_would_be_found_by_that(
    small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = load(small_model)
    with_random_b(model)
    sampler = TransformersSampler.of(Policy(model).model, tokenizer)
    rollouts = roll_out(sampler, tokenizer, questions(), SETTINGS, Stream.named("a"), trained=model)
    monkeypatch.setattr(PackedRow, "visible", lambda self, window=None: torch.ones(len(self.tokens), 1).tril() > 0)
    plain = roll_out(sampler, tokenizer, questions(), SETTINGS, Stream.named("a"))
    wanted, got = (
        rollout_gradient(model, rewarded(each), SETTINGS, per_patient=3, pad=tokenizer.pad_token_id)
        for each in (plain, rollouts)
    )
    assert (got - wanted).norm() > 1e-2 * wanted.norm()


@pytest.mark.parametrize("how", [{"checkpointing": True}, {"decode": "together", "decode_groups": 2}])
def test_nothing_is_kept_where_activations_are_made_again_or_patients_are_decoded_together(
    small_model: Path, how: dict[str, Any]
) -> None:
    model, tokenizer = load(small_model)
    config = GrpoConfig.model_validate(SETTINGS.model_dump() | how)
    assert TransformersSampler.of(Policy(model).model, tokenizer).read(model, [[5] * MANY], config) == []


def test_what_was_read_keeps_its_keys_and_values(small_model: Path) -> None:
    """Decoding copies them, and a training pass grows a cache of its own."""
    model, tokenizer = load(small_model)
    sampler = TransformersSampler.of(Policy(model).model, tokenizer)
    rollouts = roll_out(sampler, tokenizer, questions(), SETTINGS, Stream.named("a"), trained=with_random_b(model))
    assert rollouts is not None
    rollout_gradient(model, rewarded(rollouts), SETTINGS, per_patient=3, pad=tokenizer.pad_token_id)
    for prompt, kept in zip(rollouts.prompts, rollouts.reads, strict=True):
        for mine, fresh in zip(kept.cache.layers, read_prompt(model, prompt).cache.layers, strict=True):
            assert torch.equal(mine.keys, fresh.keys) and torch.equal(mine.values, fresh.values)


def test_no_more_is_kept_than_by_a_forked_cache(small_model: Path) -> None:
    """`client check` tells a forked cache's memory for both, of questions that all teach."""
    model, tokenizer = load(small_model)
    sampler = TransformersSampler.of(Policy(with_random_b(model)).model, tokenizer)
    kept: list[int] = []
    for trained in (None, model):
        storages: dict[int, Tensor] = {}

        with torch.autograd.graph.saved_tensors_hooks(partial(_kept, storages), lambda tensor: tensor):
            rollouts = roll_out(sampler, tokenizer, questions(), SETTINGS, Stream.named("a"), trained=trained)
            assert rollouts is not None
            all_teach = replace(rollouts, advantages=torch.ones_like(rollouts.rewards))
            rollout_gradient(model, all_teach, SETTINGS, per_patient=3, pad=tokenizer.pad_token_id)
        kept.append(sum(tensor.untyped_storage().nbytes() for tensor in storages.values()))
    assert kept[1] < kept[0], kept


def _kept(storages: dict[int, Tensor], tensor: Tensor) -> Tensor:
    storages[tensor.untyped_storage().data_ptr()] = tensor
    return tensor
