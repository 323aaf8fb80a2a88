"""One step on a small random model of every family that hospitals may bring, prompts longer than its window."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from client.grpo import continued, forked, packed
from client.grpo.attention import takes_parts
from client.grpo.counts import Rollouts
from client.grpo.rollout import roll_out
from client.grpo.sampler import TransformersSampler
from client.grpo.step import rollout_gradient
from common.config import AdapterConfig, GrpoConfig, ModelConfig
from common.decoding.generate import Completions
from common.decoding.read import read_prompt
from common.decoding.shared import unshareable
from common.model.adapter import trainable
from common.model.base import add_lora, load_base
from common.model.policy import Policy
from common.stream import Stream
from tests.families import FAMILIES, WINDOW, random_base
from tests.small import make_small_tokenizer
from tests.tuned import TEMPLATE, questions, step_of, with_random_b

pytestmark = pytest.mark.model

SETTINGS = GrpoConfig(group_size=3, max_prompt_tokens=600, max_completion_tokens=12)


@pytest.fixture(params=FAMILIES)
def loaded(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """Written to disk with a chat template, and loaded as a site loads it."""
    tokenizer = make_small_tokenizer()
    tokenizer.chat_template = TEMPLATE
    random_base(request.param, tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    base, tokenizer = load_base(ModelConfig(base=str(tmp_path)))
    return with_random_b(add_lora(base, AdapterConfig(rank=4, alpha=8), seed=0), 0.1), tokenizer


def alone(model: PeftModel, rollouts: Rollouts) -> torch.Tensor:
    """Log-probabilities of every completion in a row of its own: no padding, no cache, the model's own masks."""
    done, kept = rollouts.completions, []
    for row, tokens in enumerate(done.tokens):
        prompt, length = rollouts.prompts[row // SETTINGS.group_size], int(done.mask[row].sum())
        ids = torch.tensor([[*prompt, *tokens[:length].tolist()]])
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
        kept.append(torch.log_softmax(logits, -1).gather(-1, tokens[:length, None])[:, 0])
    return torch.cat(kept)


@pytest.mark.parametrize("groups", [None, 2])
def test_rollout_and_all_training_passes_agree_with_plain_rows(
    loaded: tuple[PeftModel, PreTrainedTokenizerBase], groups: int | None
) -> None:
    model, tokenizer = loaded
    how = {"decode": "patient" if groups is None else "together", "decode_groups": groups}
    settings = SETTINGS.model_copy(update=how)
    rollouts = roll_out(
        TransformersSampler.of(Policy(model).model, tokenizer), tokenizer, questions(), settings, Stream.named("a")
    )
    assert rollouts is not None and min(map(len, rollouts.prompts)) > 2 * WINDOW
    done, kept = rollouts.completions, rollouts.completions.mask.bool()
    expected = alone(model, rollouts)
    assert torch.allclose(done.logprobs[kept], expected, atol=1e-3)
    weights = torch.randn(expected.shape)
    wanted = gradient(model, weights, expected)
    for name, logprobs in passes(model, tokenizer, rollouts.prompts, done).items():
        assert torch.allclose(logprobs[kept], expected, atol=1e-3), name
        assert (gradient(model, weights, logprobs[kept]) - wanted).norm() < 1e-3 * wanted.norm(), name


def passes(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]], done: Completions
) -> dict[str, torch.Tensor]:
    results = {
        "forked": forked.completion_logprobs(model, prompts, done, group_size=3, pad=tokenizer.pad_token_id),
        "packed": packed.completion_logprobs(model, prompts, done, group_size=3),
    }
    if takes_parts(model.get_base_model()):
        results["parts"] = packed.completion_logprobs(model, prompts, done, group_size=3, attention="parts")
    if unshareable(model) is None:
        groups = [Completions(*each) for each in zip(*(tensor.split(3) for tensor in vars(done).values()), strict=True)]
        results["continued"] = torch.cat(
            [
                continued.completion_logprobs(model, prompt, read_prompt(model, prompt), group)
                for prompt, group in zip(prompts, groups, strict=True)
            ]
        )
    return results


def gradient(model: PeftModel, weights: torch.Tensor, logprobs: torch.Tensor) -> torch.Tensor:
    parts = torch.autograd.grad((weights * logprobs).sum(), trainable(model))
    return torch.cat([part.flatten() for part in parts])


def test_a_step_gives_one_gradient_however_activations_are_kept(
    loaded: tuple[PeftModel, PreTrainedTokenizerBase],
) -> None:
    model, tokenizer = loaded
    rollouts = roll_out(TransformersSampler.of(model, tokenizer), tokenizer, questions(), SETTINGS, Stream.named("a"))
    assert rollouts is not None
    rewards = torch.rand(rollouts.rewards.shape)
    rollouts = Rollouts(
        rollouts.prompts, rollouts.completions, rollouts.texts, rewards, rewards - rewards.mean(-1, keepdim=True)
    )
    settings = SETTINGS.model_copy(update={"kl": 0.05})
    thrifty = settings.model_copy(update={"checkpointing": True})
    reads = [read_prompt(model, prompt) for prompt in rollouts.prompts] if unshareable(model) is None else []
    kept, again, once = (
        rollout_gradient(model, each, how, per_patient=3, pad=tokenizer.pad_token_id)
        for each, how in ((rollouts, settings), (rollouts, thrifty), (replace(rollouts, reads=reads), settings))
    )
    assert 0 < (kept - again).norm() + 1e-12 < 1e-4 * kept.norm()
    assert (kept - once).norm() < 1e-4 * kept.norm()
    assert [p.requires_grad for p in model.parameters()] == ["lora_B" in n for n, _ in model.named_parameters()]
    assert not model.training and not any(module.training for module in model.modules())


def test_a_whole_step_runs_from_question_to_gradient(loaded: tuple[PeftModel, PreTrainedTokenizerBase]) -> None:
    model, tokenizer = loaded
    vector, counts = step_of(model, tokenizer, SETTINGS)
    assert (counts.patients, counts.questions, counts.rollouts) == (1, 3, 9)
    assert vector.shape == (sum(p.numel() for p in trainable(model)),)
