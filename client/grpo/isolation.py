"""Whether a sampler keeps patients apart on this machine: the same bits for a prompt, whoever else is sampled.

What one row's sums are may hang on its place among the others, by the kernels that a device chooses. Therefore a
private run tries it before anything is computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from client.grpo.sampler import Sampler
from common.config import GrpoConfig
from common.errors import Code, FedReasonError
from common.stream import Stream

_TOKENS = 12
"""Tokens of a completion in the trial: the passes of a real one have the same shape."""
_SHORTEST, _APART = 5, 7


def require_isolated(sampler: Sampler, config: GrpoConfig, vocabulary: int) -> None:
    """Refuse where completions depend on who else is sampled.

    Raises
    ------
    FedReasonError
        MODEL_BATCHED.
    """
    if not isolated(sampler, config, vocabulary):
        raise FedReasonError(
            Code.MODEL_BATCHED,
            f'On this machine completions depend on who else is decoded (grpo.decode "{config.decode}").',
            'Nothing was computed. Set grpo.decode = "patient", or ask for a device on which the trial holds.',
        )


def isolated(sampler: Sampler, config: GrpoConfig, vocabulary: int) -> bool:
    """Whether groups have the same tokens and log-prob bits alone, among others, and among them in reverse order.

    Random prompts of less than `vocabulary` kinds of tokens: one group more than is decoded together, of unequal
    lengths from a few tokens on, and two as long as the run allows.
    """
    config = config.model_copy(update={"max_completion_tokens": min(_TOKENS, config.max_completion_tokens)})
    longest = config.max_prompt_tokens
    lengths = [_SHORTEST + _APART * number for number in range((config.decode_groups or 1) + 1)]
    prompts = [
        (Stream.named("isolation prompt", length).uniforms(length) * vocabulary).astype(int).tolist()
        for length in [*(min(length, longest) for length in lengths), longest, max(1, longest - _APART)]
    ]
    shape = (len(prompts), config.group_size, config.max_completion_tokens)
    uniforms = torch.from_numpy(Stream.named("isolation").uniforms(torch.Size(shape).numel())).view(shape)

    def groups(order: Sequence[int]) -> dict[int, list[Tensor]]:
        """Sample the prompts in this order; what each has been given."""
        sampled = sampler.sample([prompts[number] for number in order], uniforms[list(order)], config)
        parts = [tensor.split(config.group_size) for tensor in (sampled.tokens, sampled.mask, sampled.logprobs)]
        return {number: [part[place] for part in parts] for place, number in enumerate(order)}

    everyone = range(len(prompts))
    among = groups(everyone)
    others = [groups(everyone[::-1]), *(groups([number]) for number in everyone)]
    return all(
        all(torch.equal(one, other) for one, other in zip(among[number], mine, strict=True))
        for trial in others
        for number, mine in trial.items()
    )
