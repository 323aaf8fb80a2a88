"""With `top_p` the gradient is that of the policy that is sampled: on a toy, by enumeration, and through the passes."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from client.grpo import forked, packed
from client.grpo.loss import advantages, surrogate_loss
from client.grpo.rollout import roll_out_together
from client.grpo.sampler import TransformersSampler
from client.grpo.step import rollout_gradient
from common.decoding.generate import chosen_logprobs, sample_token
from common.model.adapter import flatten, trainable
from common.model.base import without_adapter
from common.model.policy import Policy
from common.stream import Stream
from tests.small import made_rollouts
from tests.tuned import SETTINGS, asked, load, with_random_b

END, LONGEST, TEMPERATURE, GROUP = 0, 3, 0.8, 2


class Toy:
    """A policy of three tokens, one of which ends; logits are linear in shared parameters, by what was written."""

    def __init__(self, seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        self.texts = [
            text
            for length in range(1, LONGEST + 1)
            for text in itertools.product(range(3), repeat=length)
            if END not in text[:-1] and (length == LONGEST or text[-1] == END)
        ]
        states = [state for length in range(LONGEST) for state in itertools.product(range(3), repeat=length)]
        self._place = {state: number for number, state in enumerate(states)}
        self._features = 1.5 * torch.randn(len(states), 5, generator=random, dtype=torch.float64)
        self.parameters = torch.randn(5, 3, generator=random, dtype=torch.float64).requires_grad_()
        self.rewards = torch.randint(2, (len(self.texts),), generator=random).double()
        self.tokens = torch.tensor([[*text, *[END] * (LONGEST - len(text))] for text in self.texts])
        self.mask = torch.tensor([[1] * len(text) + [0] * (LONGEST - len(text)) for text in self.texts])

    def logits(self) -> Tensor:
        """[texts, LONGEST, 3] logits of the token at each place."""
        places = [
            [self._place[text[:step]] if step < len(text) else 0 for step in range(LONGEST)] for text in self.texts
        ]
        return (self._features @ self.parameters)[torch.tensor(places)]

    def truncated(self, top_p: float) -> Tensor:
        """[texts] probabilities of being written, by the definition: token by token among the likeliest alone."""
        probabilities = torch.softmax(self.logits() / TEMPERATURE, -1)
        rows = []
        for text, steps in zip(self.texts, probabilities, strict=True):
            whole = torch.ones((), dtype=torch.float64)
            for token, row in zip(text, steps, strict=False):
                kept: list[int] = []
                for place in row.detach().argsort(descending=True, stable=True).tolist():
                    if float(row.detach()[kept].sum()) < top_p:
                        kept.append(place)
                whole = whole * (row[token] / row[kept].sum() if token in kept else 0.0)
            rows.append(whole)
        return torch.stack(rows)

    def gradient(self, of: Tensor) -> Tensor:
        return torch.autograd.grad(of, self.parameters, retain_graph=True)[0]

    def exact(self, top_p: float) -> Tensor:
        """Gradient of the expected reward of what is sampled."""
        return self.gradient((self.truncated(top_p) * self.rewards).sum())

    def mean(self, top_p: float, trained: float) -> Tensor:
        """Mean gradient of the loss over groups, as often as each is sampled; the pass has `trained` as its top_p."""
        chances = self.truncated(top_p).detach()
        logprobs = chosen_logprobs(self.logits(), self.tokens, TEMPERATURE, trained)
        total = torch.zeros((), dtype=torch.float64)
        for group in itertools.product(range(len(self.texts)), repeat=GROUP):
            rows = torch.tensor(group)
            if chance := float(chances[rows].prod()):
                gains = advantages(self.rewards[rows][None])[0]
                total = total + chance * surrogate_loss(logprobs[rows], gains, self.mask[rows], divisor=GROUP)
        return -self.gradient(total)


@pytest.mark.parametrize("top_p", [0.3, 0.5, 0.8, 0.9, 0.95, 1.0])
def test_the_mean_gradient_is_that_of_the_truncated_policy(top_p: float) -> None:
    """A group's mean takes its own reward in, hence the factor 1 - 1 / GROUP."""
    apart = []
    for seed in range(12):
        toy = Toy(seed)
        assert float(toy.truncated(top_p).detach().sum()) == pytest.approx(1.0)
        exact, mean = (1 - 1 / GROUP) * toy.exact(top_p), toy.mean(top_p, top_p)
        assert torch.allclose(mean, exact, atol=1e-12), seed
        if exact.norm() > 1e-3:
            apart.append(float((toy.mean(top_p, 1.0) - exact).norm() / exact.norm()))
    if top_p in (0.8, 0.9):
        assert max(apart) > 0.02, "over the whole softmax it is another"


@pytest.mark.parametrize("top_p", [0.3, 0.8, 1.0])
def test_what_is_sampled_has_the_log_probabilities_that_are_trained(top_p: float) -> None:
    toy = Toy(3)
    logits = toy.logits().detach()[:1, 0].float().expand(1000, -1)
    tokens, logprobs = sample_token(logits, (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000, TEMPERATURE, top_p)
    assert torch.allclose(logprobs, chosen_logprobs(logits, tokens, TEMPERATURE, top_p), atol=1e-6)
    shares = tokens.bincount(minlength=3) / 1000
    for token in tokens.unique().tolist():
        assert float(shares[token]) == pytest.approx(float(logprobs[tokens == token][0].exp()), abs=2e-3)


@pytest.mark.parametrize("top_p", [0.6, 0.9])
@pytest.mark.parametrize("decode", [{}, {"decode": "together", "decode_groups": 3}], ids=["plain", "together"])
def test_both_passes_give_the_log_probabilities_of_the_rollouts(
    small_model: Path, decode: dict[str, Any], top_p: float
) -> None:
    model, tokenizer = load(small_model)
    with_random_b(model)
    settings = SETTINGS.model_copy(update={"top_p": top_p, "temperature": 1.1, "decode_groups": 3, **decode})
    patients = [(questions, Stream.named("rollout", number)) for number, questions in enumerate(asked(4))]
    sampler = TransformersSampler.of(Policy(model).model, tokenizer)
    for rollouts in roll_out_together(sampler, tokenizer, patients, settings):
        assert rollouts is not None
        done = rollouts.completions
        options: dict[str, Any] = {"group_size": 4, "temperature": 1.1, "top_p": top_p}
        one = forked.completion_logprobs(model, rollouts.prompts, done, pad=0, **options)
        other = packed.completion_logprobs(model, rollouts.prompts, done, **options)
        kept = done.mask.bool()
        near = torch.isclose(one[kept], done.logprobs[kept], atol=1e-3)
        assert near.float().mean() > 0.95, "all but where a token on the edge came in or fell out by rounding"
        assert torch.isclose(one[kept], other[kept], atol=1e-3).float().mean() > 0.95
        whole = forked.completion_logprobs(model, rollouts.prompts, done, group_size=4, pad=0, temperature=1.1)
        assert (one[kept] >= whole[kept] - 1e-5).all() and (one[kept] > whole[kept] + 0.01).any()


def test_a_drawn_token_outside_the_likeliest_by_rounding_has_a_finite_log_probability() -> None:
    logits = torch.tensor([[4.0, 1.0, -3.0]], requires_grad=True)
    logprobs = chosen_logprobs(logits, torch.tensor([2]), 1.0, 0.5)
    (gradient,) = torch.autograd.grad(logprobs.sum(), logits)
    assert torch.isfinite(logprobs).all() and torch.isfinite(gradient).all()
    assert gradient[0, 1] == 0 and gradient[0, 0] < 0 < gradient[0, 2]


@pytest.mark.parametrize("kl", [0.0, 0.3], ids=["no kl", "kl"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["forked", "packed"])
def test_a_step_differentiates_the_policy_that_is_sampled(small_model: Path, checkpointing: bool, kl: float) -> None:
    """Its divergence is from the whole softmax of the base."""
    model = with_random_b(load(small_model)[0])
    settings = SETTINGS.model_copy(update={"top_p": 0.6, "checkpointing": checkpointing, "kl": kl})
    rollouts = made_rollouts([[5, 6, 7], [9, 8]], settings, vocabulary=500)
    done = rollouts.completions

    def by_hand(top_p: float) -> Tensor:
        logprobs = forked.completion_logprobs(model, rollouts.prompts, done, group_size=4, pad=0, top_p=top_p)
        with torch.no_grad(), without_adapter(model):
            base = forked.completion_logprobs(model, rollouts.prompts, done, group_size=4, pad=0)
        gains = rollouts.advantages.flatten()
        loss = surrogate_loss(logprobs, gains, done.mask, divisor=2 * 4 * 8, reference=base, kl=kl)
        return flatten(list(torch.autograd.grad(loss, trainable(model))))

    gradient = rollout_gradient(model, rollouts, settings, per_patient=2, pad=0)
    near = 1e-4 * float(gradient.abs().max())
    assert torch.allclose(gradient, by_hand(0.6), atol=near) and gradient.any()
    assert not torch.allclose(gradient, by_hand(1.0), atol=10 * near)
