"""The term for the frozen base, enumerated over all tokens: it is the policy's divergence, by value and by gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from client.grpo.loss import k3, surrogate_loss

BASE = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def divergence(one: Tensor, other: Tensor) -> Tensor:
    return (one * (one / other).log()).sum()


@pytest.mark.parametrize("logits", [[0.0, 0.0, 0.0], [2.0, 0.0, -1.0], [6.0, 0.0, 0.0]])
def test_k3_is_the_policy_s_divergence_and_pulls_like_it(logits: list[float]) -> None:
    theta = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    policy = torch.softmax(theta, 0)
    same = policy.detach()
    assert float((same * k3((BASE / same).log())).sum()) == pytest.approx(float(divergence(same, BASE)))
    means = torch.zeros(3, dtype=torch.float64)
    for token, chance in enumerate(same):
        loss = surrogate_loss(
            torch.log_softmax(theta, 0)[token].view(1, 1),
            torch.zeros(1, dtype=torch.float64),
            torch.ones(1, 1),
            divisor=1.0,
            reference=BASE.log()[token].view(1, 1),
            kl=1.0,
        )
        means += chance * torch.autograd.grad(loss, theta)[0]
    (wanted,) = torch.autograd.grad(divergence(torch.softmax(theta, 0), BASE), theta)
    torch.testing.assert_close(means, wanted)
    (other,) = torch.autograd.grad(divergence(BASE, torch.softmax(theta, 0)), theta)
    assert not torch.allclose(means, other, rtol=0.05), "nor like the base's, which it would without the ratio"


def test_among_fewer_tokens_it_is_none() -> None:
    """A policy that is the base, cut to the likeliest tokens (docs/method.md: 0.0054 for 0.1054)."""
    base = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    kept = base[:2] / base[:2].sum()
    assert float((kept * k3((base[:2] / kept).log())).sum()) == pytest.approx(0.0054, abs=5e-5)
    assert float(divergence(kept, base[:2])) == pytest.approx(0.1054, abs=5e-5)
