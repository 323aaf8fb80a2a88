"""What another program sampled counts by how likely it is where it is trained; how far the two are apart is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log
from pathlib import Path

import pytest
import torch
from torch import Tensor

from client.grpo.counts import Rollouts
from client.grpo.log import UNWATCHED, StepWatch, Watch
from client.grpo.loss import MOST_WEIGHT
from client.grpo.rollout import roll_out, roll_out_together
from client.grpo.sampler import TransformersSampler
from client.grpo.step import rollout_gradient
from common.config import GrpoConfig
from common.decoding.generate import Completions
from common.stream import Stream
from tests.tuned import SETTINGS, load, questions, with_random_b


@dataclass
class Elsewhere:
    """Samples as the model does, and says that each token was so many times less likely."""

    own: TransformersSampler
    less: float

    def sample(
        self, prompts: Sequence[list[int]], uniforms: Tensor, config: GrpoConfig, watch: Watch = UNWATCHED
    ) -> Completions:
        done = self.own.sample(prompts, uniforms, config, watch)
        return replace(done, logprobs=(done.logprobs - log(self.less)) * done.mask)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["forked", "packed"])
@pytest.mark.parametrize("kl", [0.0, 0.3])
def test_a_token_weighs_as_much_more_as_it_is_likelier_where_it_is_trained_but_twice_at_most(
    small_model: Path, kl: float, checkpointing: bool
) -> None:
    model, tokenizer = load(small_model)
    with_random_b(model, 0.05)
    own = TransformersSampler.of(model, tokenizer)
    settings = SETTINGS.model_copy(update={"kl": kl, "checkpointing": checkpointing})

    def gradient(rollouts: Rollouts | None) -> tuple[Tensor, float | None]:
        assert rollouts is not None
        watch = StepWatch(torch.device("cpu"))
        found = rollout_gradient(model, rollouts, settings, per_patient=3, pad=0, watch=watch)
        elsewhere = watch._mismatch / watch._mismatched if watch._mismatched else None
        return found, elsewhere

    plain, told = gradient(roll_out(own, tokenizer, questions(), settings, Stream.named("a")))
    assert plain.norm() > 0 and told is None
    for less, weight in ((1.0, 1.0), (1.5, 1.5), (10.0, MOST_WEIGHT), (0.5, 0.5)):
        sampler = Elsewhere(own, less)
        found, told = gradient(roll_out(sampler, tokenizer, questions(), settings, Stream.named("a")))
        torch.testing.assert_close(found, weight * plain, rtol=1e-3, atol=1e-7)
        assert told == pytest.approx(abs(log(less)), abs=1e-4)
        (rollouts,) = roll_out_together(sampler, tokenizer, [(questions(), Stream.named("a"))], settings)
        torch.testing.assert_close(gradient(rollouts)[0], found)
