"""Rollouts: a patient's questions -> groups of completions -> rewards and advantages within each group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import prod

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from client.grpo.counts import RolloutCounts, Rollouts
from client.grpo.log import UNWATCHED, Watch
from client.grpo.loss import advantages, agreed
from client.grpo.sampler import Sampler, TransformersSampler
from common.collapse import LETTERS
from common.config import GrpoConfig
from common.decoding.ends import Ends, ended
from common.decoding.generate import Completions
from common.decoding.read import Read
from common.questions.answer import parse_answer, reward
from common.questions.prompt import prompt_tokens
from common.questions.question import Question
from common.stream import Stream


def roll_out(
    sampler: Sampler,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    config: GrpoConfig,
    stream: Stream,
    watch: Watch = UNWATCHED,
    trained: PeftModel | None = None,
) -> Rollouts | None:
    """Sample a group of completions for each question of one patient and reward them.

    A question whose prompt is longer than the run allows is left out; None where none is left. What comes out depends
    on nobody else, bit for bit. A model that is `trained` on them reads the prompts, where the sampler can go on there.
    """
    asked = ask(tokenizer, questions, config, stream)
    if not asked.prompts:
        return None
    if trained is None or not isinstance(sampler, TransformersSampler):
        completions = sampler.sample(asked.prompts, asked.uniforms, config, watch)
        return _rewarded(tokenizer, asked, completions, config, watch, elsewhere=_elsewhere(sampler))
    reads = sampler.read(trained, asked.prompts, config, watch)
    completions = sampler.sample(asked.prompts, asked.uniforms, config, watch, reads)
    return _rewarded(tokenizer, asked, completions, config, watch, reads)


def _elsewhere(sampler: Sampler) -> bool:
    return not isinstance(sampler, TransformersSampler)


def roll_out_together(
    sampler: Sampler,
    tokenizer: PreTrainedTokenizerBase,
    patients: Sequence[tuple[Sequence[Question], Stream]],
    config: GrpoConfig,
    watch: Watch = UNWATCHED,
) -> list[Rollouts | None]:
    """Roll out several patients; faster where one does not fill the device. What comes out depends on nobody else."""
    everyone = [ask(tokenizer, questions, config, stream) for questions, stream in patients]
    return answered_together(sampler, tokenizer, everyone, config, watch)


def answered_together(
    sampler: Sampler,
    tokenizer: PreTrainedTokenizerBase,
    everyone: Sequence[Asked],
    config: GrpoConfig,
    watch: Watch = UNWATCHED,
) -> list[Rollouts | None]:
    """Roll out several patients' questions as they were asked, with the randomness that they were asked with."""
    prompts = [prompt for asked in everyone for prompt in asked.prompts]
    if not prompts:
        return [None for _ in everyone]
    uniforms = torch.cat([asked.uniforms for asked in everyone])
    sampled = sampler.sample(prompts, uniforms, config, watch)
    groups = iter(_by_group(sampled, config.group_size))
    return [
        _rewarded(
            tokenizer,
            asked,
            _joined([next(groups) for _ in asked.prompts]),
            config,
            watch,
            elsewhere=_elsewhere(sampler),
        )
        if asked.prompts
        else None
        for asked in everyone
    ]


@dataclass(frozen=True)
class Asked:
    """A patient's questions that fit, their prompts, and the randomness [Q, G, T] of their completions.

    `drawn` counts all of the patient's questions, those that are too long among them.
    """

    questions: list[Question]
    prompts: list[list[int]]
    uniforms: Tensor
    drawn: int


def ask(tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question], config: GrpoConfig, stream: Stream) -> Asked:
    """Write out one patient's questions that fit, and draw the randomness of their completions."""
    tokens = [prompt_tokens(question, tokenizer, config.prompt) for question in questions]
    fits = [i for i, prompt in enumerate(tokens) if 0 < len(prompt) <= config.max_prompt_tokens]
    shape = (len(fits), config.group_size, config.max_completion_tokens)
    uniforms = torch.from_numpy(stream.uniforms(prod(shape))).view(shape)
    return Asked([questions[i] for i in fits], [tokens[i] for i in fits], uniforms, len(questions))


def _by_group(completions: Completions, group_size: int) -> list[Completions]:
    split = (tensor.split(group_size) for tensor in (completions.tokens, completions.mask, completions.logprobs))
    return [Completions(*group) for group in zip(*split, strict=True)]


def _joined(groups: list[Completions]) -> Completions:
    return Completions(*(torch.cat([getattr(group, f.name) for group in groups]) for f in fields(Completions)))


def _rewarded(
    tokenizer: PreTrainedTokenizerBase,
    asked: Asked,
    completions: Completions,
    config: GrpoConfig,
    watch: Watch,
    reads: Sequence[Read] = (),
    *,
    elsewhere: bool = False,
) -> Rollouts:
    texts = decode(tokenizer, completions)
    questions = [question for question in asked.questions for _ in range(config.group_size)]
    box, form = config.answer_box, config.prompt.answer
    answers = [parse_answer(text, q.choices, box, form) for text, q in zip(texts, questions, strict=True)]
    right = [reward(given, question) for given, question in zip(answers, questions, strict=True)]
    rewards = torch.tensor(right).view(-1, config.group_size)
    gains = advantages(rewards, config.scale_rewards)
    rollouts = Rollouts(asked.prompts, completions, texts, rewards, gains, answers, reads, elsewhere)
    watch.rewarded(asked.questions, rollouts)
    return rollouts


def decode(tokenizer: PreTrainedTokenizerBase, completions: Completions) -> list[str]:
    """Texts of the completions without what follows their end."""
    lengths = completions.mask.sum(1).tolist()
    rows = [row[:length] for row, length in zip(completions.tokens.tolist(), lengths, strict=True)]
    return list(tokenizer.batch_decode(rows, skip_special_tokens=True))


def counts(rollouts: Rollouts, ends: Ends) -> RolloutCounts:
    """Count what happened in one patient's rollouts, the patient itself not counted."""
    mask, tokens = rollouts.completions.mask, rollouts.completions.tokens
    chosen = Counter(given.chosen for given in rollouts.answers)
    whole = (ended(tokens, ends) & mask.bool()).any(1)
    return RolloutCounts(
        questions=len(rollouts.prompts),
        rollouts=len(rollouts.texts),
        reward=float(rollouts.rewards.sum()),
        zero_variance=int(agreed(rollouts.rewards).sum()),
        unboxed=sum(given.chosen is None for given in rollouts.answers),
        disagreeing=sum(given.disagrees for given in rollouts.answers),
        truncated=int((~whole).sum()),
        tokens=int(mask.sum()),
        **{name: chosen[place] for place, name in enumerate(LETTERS)},
    )
