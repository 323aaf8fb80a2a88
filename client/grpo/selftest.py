"""What an engine asks of a sampler before a run relies on it, on made-up prompts that nobody's record is in.

That it samples from the adapter and not from the base, and that a group has the same bits whoever is sampled with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from client.grpo.sampler import Sampler
from common.arrays import Vector
from common.config import GrpoConfig
from common.decoding.generate import Completions
from common.errors import Code, FedReasonError
from common.stream import Stream

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}
"""Mean distance between two computations of one log-probability, by the base's dtype."""

_MOVED = 5.0
"""So many tolerances an adapter moves the log-probabilities by, before anything is read from it."""

_SHARES = (0.55, 0.11, 1.0, 0.3, 0.07, 0.8)
_TOKENS = 64
_DOUBLINGS = 24

Reference = Callable[[Sequence[list[int]], Completions], Tensor]
"""Log-probabilities [P*G, T] of completions' tokens by the model that is trained, as it stands; 0 where masked."""


@dataclass(frozen=True)
class Probe:
    """Random prompts of unequal lengths, with the randomness [P, G, T] of their completions."""

    prompts: list[list[int]]
    uniforms: Tensor
    config: GrpoConfig

    @classmethod
    def of(cls, config: GrpoConfig, vocabulary: int, groups: int) -> Probe:
        """Make prompts of up to the longest that the run allows, one more at least than `groups` of them.

        They are sampled as the run samples, from all tokens and not too long, and two of them begin alike, up to half
        of the shorter one, as a run's do: what is kept of one must not show in another. What holds for few rows at once
        need not hold for more: a kernel is chosen by their number (vLLM's issue 51187).
        """
        stream = Stream.named("self-test of a sampler")
        count = max(len(_SHARES), groups + 1)
        shares = [_SHARES[i % len(_SHARES)] / (1 + i // len(_SHARES)) for i in range(count)]
        lengths = [max(1, round(config.max_prompt_tokens * share)) for share in shares]
        drawn = (stream.uniforms(length) * vocabulary for length in (max(lengths), *lengths))
        alike, *own = (tokens.astype(np.int64).tolist() for tokens in drawn)
        prompts = [alike[: len(tail) // 2] + tail[len(tail) // 2 :] for tail in own]
        tokens = min(config.max_completion_tokens, _TOKENS)
        shape = (len(prompts), config.group_size, tokens)
        uniforms = torch.from_numpy(stream.uniforms(prod(shape))).view(shape)
        return cls(prompts, uniforms, config.model_copy(update={"max_completion_tokens": tokens, "top_p": 1.0}))

    def sampled(self, sampler: Sampler, places: Sequence[int]) -> list[Completions]:
        """Sample the groups of some of the prompts in one call, in this order."""
        done = sampler.sample([self.prompts[i] for i in places], self.uniforms[list(places)], self.config)
        tensors = (tensor.split(self.config.group_size) for tensor in (done.tokens, done.mask, done.logprobs))
        return [Completions(*group) for group in zip(*tensors, strict=True)]


def isolated(sampler: Sampler, config: GrpoConfig, *, vocabulary: int, groups: int) -> bool:
    """Whether a prompt's group is the same to the last bit alone and among others, wherever it stands among them.

    Parameters
    ----------
    vocabulary
        Number of tokens that prompts are made of.
    groups
        Groups that the run samples at once.
    """
    probe = Probe.of(config, vocabulary, groups)
    everyone = list(range(len(probe.prompts)))
    alone = [probe.sampled(sampler, [place])[0] for place in everyone]
    orders = [everyone, everyone[::-1], everyone[2:] + everyone[:2], everyone[1::2], everyone]
    for order in orders:
        among = probe.sampled(sampler, order)
        if not all(_same(alone[place], group) for place, group in zip(order, among, strict=True)):
            return False
    return all(_same(alone[place], probe.sampled(sampler, [place])[0]) for place in everyone[::-1])


def _same(one: Completions, other: Completions) -> bool:
    return (
        torch.equal(one.tokens, other.tokens)
        and torch.equal(one.mask, other.mask)
        and torch.equal(one.logprobs.view(torch.int32), other.logprobs.view(torch.int32))
    )


def require_isolated(sampler: Sampler, config: GrpoConfig, *, vocabulary: int, groups: int) -> None:
    """Refuse a sampler in which one prompt moves another's completions.

    Raises
    ------
    FedReasonError
        ROLLOUTS_SHARED.
    """
    if not isolated(sampler, config, vocabulary=vocabulary, groups=groups):
        raise FedReasonError(
            Code.ROLLOUTS_SHARED,
            "On this machine a prompt's completions change with the other prompts that are sampled beside it.",
            'A private run must not use these rollouts: write rollouts = "transformers" into site.toml, or have the '
            'run decode one patient at a time (grpo.decode = "patient").',
        )


def require_adapter(
    sampler: Sampler,
    set_adapter: Callable[[Vector], None],
    reference: Reference,
    config: GrpoConfig,
    *,
    size: int,
    vocabulary: int,
    groups: int,
    tolerance: float,
) -> None:
    """Refuse a sampler that does not sample from the adapter, or tells other log-probabilities than the model trained.

    Sampled is under the zero adapter and under a random one, large enough to tell them apart. Leaves the zero adapter.

    Parameters
    ----------
    size
        Number of the adapter's values.
    vocabulary, groups
        As in `isolated`.
    tolerance
        See `TOLERANCE`.

    Raises
    ------
    FedReasonError
        ROLLOUTS_ADAPTER.
    """
    probe = Probe.of(config, vocabulary, groups)
    zero = np.zeros(size, dtype=np.float32)

    def sampled() -> Completions:
        return sampler.sample(probe.prompts, probe.uniforms, probe.config)

    set_adapter(zero)
    base = sampled()
    _require_near(_distance(base, reference(probe.prompts, base)), tolerance, "the zero adapter")
    _set_moving(set_adapter, lambda: _distance(base, reference(probe.prompts, base)), size, tolerance)
    adapted = sampled()
    to_adapted = _distance(adapted, reference(probe.prompts, adapted))
    set_adapter(zero)
    if not _distance(adapted, reference(probe.prompts, adapted)) > tolerance:
        raise _refusal("The completions come from the base model, whatever the adapter is.")
    _require_near(to_adapted, tolerance, "an adapter")


def _set_moving(
    set_adapter: Callable[[Vector], None], distance: Callable[[], float], size: int, tolerance: float
) -> None:
    """Set a random adapter, twice as large each time until it moves the completions' log-probabilities."""
    direction = torch.randn(size, generator=torch.Generator().manual_seed(0)).numpy()
    for doubling in range(_DOUBLINGS):
        set_adapter(direction * np.float32(1e-4 * 2**doubling))
        if distance() > _MOVED * tolerance:
            return
    raise _refusal("No adapter moves the log-probabilities of the model that is trained.")


def _distance(completions: Completions, logprobs: Tensor) -> float:
    """Mean distance of the completions' log-probabilities from others of the same tokens."""
    kept = completions.mask.bool()
    return float((completions.logprobs[kept] - logprobs[kept].to(completions.logprobs)).abs().mean())


def _require_near(distance: float, tolerance: float, under: str) -> None:
    if not distance <= tolerance:
        raise _refusal(
            f"Under {under} the rollouts' log-probabilities are {distance:.3g} off those of the model trained; "
            f"{tolerance:.3g} is allowed."
        )


def _refusal(found: str) -> FedReasonError:
    return FedReasonError(
        Code.ROLLOUTS_ADAPTER, found, 'Nothing was trained. Write rollouts = "transformers" into site.toml.'
    )
