"""One patient's gradient: questions -> rollouts -> rewards -> advantages -> one backward pass.

Left out of GRPO on purpose: batch-wide normalisers, reward running means and reference models that move, because each
makes a patient's gradient depend on other patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from client.grpo import continued, forked, packed
from client.grpo.attention import Attention
from client.grpo.counts import RolloutCounts, Rollouts
from client.grpo.log import UNWATCHED, Watch
from client.grpo.loss import mismatch_weight, surrogate_loss
from client.grpo.rollout import counts, roll_out
from client.grpo.sampler import Sampler, TransformersSampler
from common.arrays import Vector
from common.config import GrpoConfig
from common.decoding.ends import ends_of
from common.decoding.generate import Completions
from common.model.adapter import AdapterLayout, flatten, trainable
from common.model.base import without_adapter
from common.questions.question import Question
from common.stream import Stream


def rollout_gradient(
    model: PeftModel,
    rollouts: Rollouts,
    config: GrpoConfig,
    *,
    per_patient: int,
    pad: int,
    watch: Watch = UNWATCHED,
    attention: Attention | None = None,
) -> Tensor:
    """Flat gradient of one patient's loss; what teaches nothing (`_teaching`) is left out, and zero where all is.

    The divisor is `per_patient` x group size x longest completion, however many questions this patient really gave.
    With `checkpointing` one question is passed after another, packed, by `attention` (`client.grpo.attention`); where
    sampling read the prompts with gradient one after another goes on from there, once; else all of the patient's are
    passed together.
    """
    parameters = trainable(model)
    taught = _teaching(rollouts, config)
    if not len(taught):
        return _zero(model)
    passes = taught.split(1) if config.checkpointing or rollouts.reads else (taught,)
    logprobs_of = (
        partial(packed.completion_logprobs, attention=attention)
        if config.checkpointing
        else partial(forked.completion_logprobs, pad=pad)
    )
    total = _zero(model)
    for questions in passes:
        prompts, completions, gains = _part(rollouts, questions, config.group_size)
        with watch.training(prompts, completions):
            logprobs_now = partial(
                logprobs_of, model, prompts, completions, group_size=config.group_size, temperature=config.temperature
            )
            reference = None
            if config.kl:
                with torch.no_grad(), without_adapter(model):
                    reference = logprobs_now()
            if rollouts.reads:
                logprobs_now = partial(
                    continued.completion_logprobs,
                    model,
                    prompts[0],
                    rollouts.reads[int(questions)],
                    completions,
                    temperature=config.temperature,
                )
            logprobs = logprobs_now(top_p=config.top_p)
            if reference is not None:
                watch.compared(logprobs, reference, completions.mask)
            weight = None
            if rollouts.elsewhere:
                watch.mismatched(logprobs, completions)
                weight = mismatch_weight(logprobs, completions.logprobs)
            loss = surrogate_loss(
                logprobs,
                gains.to(logprobs),
                completions.mask,
                divisor=per_patient * config.group_size * config.max_completion_tokens,
                reference=reference,
                weight=weight,
                kl=config.kl,
            )
            gradient = flatten(list(torch.autograd.grad(loss, parameters)))
        total = gradient if len(passes) == 1 else total.to(gradient) + gradient
    return total


def _zero(model: PeftModel) -> Tensor:
    return torch.zeros(AdapterLayout.of(model).size)


def _teaching(rollouts: Rollouts, config: GrpoConfig) -> Tensor:
    """Numbers [N] of the questions that have a gradient: not all completions empty, and some advantage unless `kl`."""
    written = rollouts.completions.mask.bool().any(1).view(-1, config.group_size).any(1).cpu()
    return (written if config.kl else written & (rollouts.advantages != 0).any(1).cpu()).nonzero()[:, 0]


def _part(rollouts: Rollouts, questions: Tensor, group_size: int) -> tuple[list[list[int]], Completions, Tensor]:
    """Prompts, completions as long as the longest, and advantages [R] of some of the questions."""
    kept = rollouts.completions
    rows = (questions[:, None] * group_size + torch.arange(group_size)).flatten().to(kept.tokens.device)
    longest = int(kept.mask[rows].sum(1).max())
    completions = Completions(kept.tokens[rows, :longest], kept.mask[rows, :longest], kept.logprobs[rows, :longest])
    return [rollouts.prompts[i] for i in questions.tolist()], completions, rollouts.advantages[questions].flatten()


def patient_gradient(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    config: GrpoConfig,
    *,
    per_patient: int,
    stream: Stream,
    sampler: Sampler | None = None,
    watch: Watch = UNWATCHED,
) -> tuple[Vector, RolloutCounts]:
    """Gradient of one patient and the counts of its rollouts; a patient without a question gives zero.

    A question whose prompt is longer than the run allows is left out and counted; the divisor stays.
    Rollouts come from `sampler`, the model itself where None, which must hold the same adapter.
    """
    sampler = sampler or TransformersSampler.of(model, tokenizer)
    rollouts = roll_out(sampler, tokenizer, questions, config, stream, watch, trained=model)
    return counted_gradient(
        model, tokenizer, rollouts, config, questions=len(questions), per_patient=per_patient, watch=watch
    )


def counted_gradient(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rollouts: Rollouts | None,
    config: GrpoConfig,
    *,
    questions: int,
    per_patient: int,
    watch: Watch = UNWATCHED,
) -> tuple[Vector, RolloutCounts]:
    """Gradient of one patient's rollouts and their counts; of so many questions some may have been too long."""
    if rollouts is None:
        return _zero(model).numpy(), RolloutCounts(patients=1, too_long=questions)
    gradient = rollout_gradient(
        model, rollouts, config, per_patient=per_patient, pad=tokenizer.pad_token_id, watch=watch
    )
    left_out = RolloutCounts(patients=1, too_long=questions - len(rollouts.prompts))
    return gradient.numpy(), left_out + counts(rollouts, ends_of(model, tokenizer))
