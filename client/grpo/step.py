"""One patient's gradient: questions -> rollouts -> rewards -> advantages -> one backward pass.

Left out of GRPO on purpose: batch-wide normalisers, reward running means and reference models that move, because each
makes a patient's gradient depend on other patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from client.grpo.forked import completion_logprobs
from client.grpo.loss import advantages, surrogate_loss
from common.adapter import flatten, trainable
from common.arrays import Vector
from common.config import GrpoConfig
from common.generate import Completions, generate
from common.model import without_adapter
from common.questions.prompt import parse_answer, prompt_tokens, reward
from common.questions.question import Question
from common.stream import Stream


@dataclass(frozen=True)
class RolloutCounts:
    """What happened in the rollouts of some patients; sums, so that they add up."""

    patients: int = 0
    questions: int = 0
    rollouts: int = 0
    reward: float = 0.0
    zero_variance: int = 0
    unboxed: int = 0
    too_long: int = 0
    truncated: int = 0
    tokens: int = 0

    def __add__(self, other: RolloutCounts) -> RolloutCounts:
        """Sum field by field."""
        return RolloutCounts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class Rollouts:
    """Completions of one patient's questions with their rewards [Q, G] and advantages [Q, G]."""

    prompts: list[list[int]]
    completions: Completions
    texts: list[str]
    rewards: Tensor
    advantages: Tensor


def roll_out(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    config: GrpoConfig,
    stream: Stream,
) -> Rollouts | None:
    """Sample a group of completions for each question of one patient and reward them.

    A question whose prompt is longer than the run allows is left out; None where none is left.
    """
    tokens = [prompt_tokens(question, tokenizer) for question in questions]
    fits = [i for i, prompt in enumerate(tokens) if len(prompt) <= config.max_prompt_tokens]
    if not fits:
        return None
    prompts, asked = [tokens[i] for i in fits], [questions[i] for i in fits]
    group, length = config.group_size, config.max_completion_tokens
    uniforms = torch.from_numpy(stream.uniforms(len(prompts) * group * length)).view(-1, length)
    completions = generate(
        model,
        prompts,
        group_size=group,
        max_tokens=length,
        eos=tokenizer.eos_token_id,
        pad=tokenizer.pad_token_id,
        uniforms=uniforms,
        temperature=config.temperature,
    )
    texts = decode(tokenizer, completions)
    rewards = torch.tensor([reward(text, asked[i // group]) for i, text in enumerate(texts)]).view(-1, group)
    return Rollouts(prompts, completions, texts, rewards, advantages(rewards, config.scale_rewards))


def decode(tokenizer: PreTrainedTokenizerBase, completions: Completions) -> list[str]:
    """Texts of the completions without what follows their end."""
    lengths = completions.mask.sum(1).tolist()
    rows = [row[:length] for row, length in zip(completions.tokens.tolist(), lengths, strict=True)]
    return list(tokenizer.batch_decode(rows, skip_special_tokens=True))


def counts(rollouts: Rollouts, eos: int) -> RolloutCounts:
    """Count what happened in one patient's rollouts, the patient itself not counted."""
    mask, tokens = rollouts.completions.mask, rollouts.completions.tokens
    ended = ((tokens == eos) & mask.bool()).any(1)
    return RolloutCounts(
        questions=len(rollouts.prompts),
        rollouts=len(rollouts.texts),
        reward=float(rollouts.rewards.sum()),
        zero_variance=int((rollouts.rewards.std(1) == 0).sum()),
        unboxed=sum(parse_answer(text) is None for text in rollouts.texts),
        truncated=int((~ended).sum()),
        tokens=int(mask.sum()),
    )


def rollout_gradient(
    model: torch.nn.Module, rollouts: Rollouts, config: GrpoConfig, *, per_patient: int, pad: int
) -> Tensor:
    """Flat gradient of one patient's loss; groups that all agree teach nothing and are left out of the pass.

    The divisor is `per_patient` x group size x longest completion, however many questions this patient really gave.
    """
    parameters = trainable(model)
    group = config.group_size
    live = (rollouts.advantages != 0).any(1).nonzero()[:, 0] if config.kl == 0 else torch.arange(len(rollouts.prompts))
    if not len(live):
        return torch.zeros(sum(p.numel() for p in parameters))
    rows = (live[:, None] * group + torch.arange(group)).flatten().to(rollouts.completions.tokens.device)
    kept = rollouts.completions
    longest = int(kept.mask[rows].sum(1).max())
    kept = Completions(kept.tokens[rows, :longest], kept.mask[rows, :longest], kept.logprobs[rows, :longest])
    prompts = [rollouts.prompts[i] for i in live.tolist()]
    forked = partial(completion_logprobs, group_size=group, pad=pad, temperature=config.temperature)
    reference = None
    if config.kl:
        with torch.no_grad(), without_adapter(model):
            reference = forked(model, prompts, kept)
    logprobs = forked(model, prompts, kept)
    loss = surrogate_loss(
        logprobs,
        rollouts.advantages[live].flatten().to(logprobs),
        kept.mask,
        divisor=per_patient * group * config.max_completion_tokens,
        reference=reference,
        kl=config.kl,
    )
    return flatten(list(torch.autograd.grad(loss, parameters)))


def patient_gradient(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    config: GrpoConfig,
    *,
    per_patient: int,
    stream: Stream,
    policy: torch.nn.Module | None = None,
) -> tuple[Vector, RolloutCounts]:
    """Gradient of one patient and the counts of its rollouts; a patient without a question gives zero.

    A question whose prompt is longer than the run allows is left out and counted; the divisor stays.
    Rollouts are sampled from `policy`, the model itself where None, which must hold the same adapter.
    """
    rollouts = roll_out(policy or model, tokenizer, questions, config, stream)
    if rollouts is None:
        zero = flatten([torch.zeros_like(p) for p in trainable(model)])
        return zero.numpy(), RolloutCounts(patients=1, too_long=len(questions))
    gradient = rollout_gradient(model, rollouts, config, per_patient=per_patient, pad=tokenizer.pad_token_id)
    left_out = RolloutCounts(patients=1, too_long=len(questions) - len(rollouts.prompts))
    return gradient.numpy(), left_out + counts(rollouts, tokenizer.eos_token_id)
