"""The GRPO objective as pure functions: group-relative advantages, clipped surrogate, constant normaliser.

No term of one patient's loss depends on another patient: groups are a patient's own, and the divisor is a constant of
the run, not a count of the batch.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

MOST_WEIGHT = 2.0
"""Of a token that another program sampled."""


def advantages(rewards: Tensor, scale: Literal["none", "group"] = "none") -> Tensor:
    """Reward minus the group's mean, [Q, G]; "group" divides by the group's standard deviation (arXiv 2402.03300).

    Exactly 0 where a group agrees, also on a reward that is no sum of powers of two.
    """
    centred = (rewards - rewards.mean(-1, keepdim=True)).masked_fill(agreed(rewards)[..., None], 0.0)
    return centred / (rewards.std(-1, keepdim=True) + 1e-4) if scale == "group" else centred


def agreed(rewards: Tensor) -> Tensor:
    """Whether all completions of a group earned the same, [Q] of [Q, G]."""
    return (rewards == rewards[..., :1]).all(-1)


def k3(gap: Tensor) -> Tensor:
    """Estimate of the divergence by token, never negative, of `gap` = reference - log-probability.

    Its mean over samples is the divergence of the policy from the reference (joschu.net/blog/kl-approx.html), where
    both are of the same tokens. So is its mean gradient where the ratio weighs it (DeepSeek-V3.2, arXiv 2512.02556):
    through the log-probabilities of what was sampled alone it would be that of the reference's divergence from the
    policy.
    """
    return torch.exp(gap) - gap - 1


def mismatch_weight(trained: Tensor, sampled: Tensor) -> Tensor:
    """How much more likely a token is where it is trained than where it was sampled, [R, T], without gradient.

    Two programs that hold the same weights do not give the same probabilities. At most `MOST_WEIGHT`: importance
    sampling, truncated (fengyao.notion.site/off-policy-rl), token by token, so that nothing depends on another patient.
    """
    return torch.exp(trained.detach() - sampled).clamp(max=MOST_WEIGHT)


def surrogate_loss(
    logprobs: Tensor,
    advantage: Tensor,
    mask: Tensor,
    *,
    divisor: float,
    sampled: Tensor | None = None,
    weight: Tensor | None = None,
    reference: Tensor | None = None,
    kl: float = 0.0,
    clip: float = 0.2,
) -> Tensor:
    """Token-level clipped surrogate, summed and divided by a constant (dr_grpo, arXiv 2503.20783).

    Parameters
    ----------
    logprobs, mask
        [R, T] log-probabilities of the completions' tokens, and which of them count.
    advantage
        [R].
    divisor
        Constant of the run: questions per patient x group size x longest completion.
    sampled
        [R, T] log-probabilities when sampled; None is on-policy, where the ratio is 1 and only its gradient matters.
    weight
        [R, T] of each token's term, as `mismatch_weight` gives it; None is 1.
    reference
        [R, T] log-probabilities under the frozen base, for `kl` times the ratio times `k3`, as TRL adds it.

    Returns
    -------
    Tensor
        Scalar loss.
    """
    ratio = torch.exp(logprobs - (logprobs.detach() if sampled is None else sampled))
    gain = advantage[:, None]
    loss = -torch.minimum(gain * ratio, gain * ratio.clamp(1 - clip, 1 + clip))
    if kl and reference is not None:
        loss = loss + kl * ratio * k3(reference - logprobs)
    if weight is not None:
        loss = loss * weight
    return (loss * mask).sum() / divisor
