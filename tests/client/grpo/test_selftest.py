"""What an engine asks of a sampler finds the faults that it is for: every check here has something that it refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from client.grpo import packed
from client.grpo.log import UNWATCHED, Watch
from client.grpo.sampler import Sampler, TransformersSampler
from client.grpo.selftest import TOLERANCE, Probe, isolated, require_adapter, require_isolated
from client.training.engine import Engine
from common.config import GrpoConfig
from common.decoding.generate import Completions
from common.errors import Code, FedReasonError
from common.model.adapter import read_adapter
from common.model.base import without_adapter
from tests.small import small_config

GRPO = GrpoConfig(group_size=3, temperature=0.7, max_completion_tokens=6, max_prompt_tokens=60)


@dataclass
class Changed:
    """A sampler that does something else than the one inside."""

    sampler: Sampler
    change: Callable[[Sequence[list[int]], Tensor, GrpoConfig], Completions]

    def sample(
        self, prompts: Sequence[list[int]], uniforms: Tensor, config: GrpoConfig, watch: Watch = UNWATCHED
    ) -> Completions:
        return self.change(prompts, uniforms, config)


@pytest.fixture(params=["float32", "bfloat16"])
def engine(request: pytest.FixtureRequest, small_model: Path) -> Iterator[Engine]:
    config = small_config(small_model)
    yield Engine(
        config.model_copy(update={"model": config.model.model_copy(update={"dtype": request.param})}), None, "cpu"
    )


def require(engine: Engine, sampler: Sampler) -> None:
    with torch.no_grad():
        require_adapter(
            sampler,
            engine.set_adapter,
            partial(packed.completion_logprobs, engine.model, group_size=3, temperature=0.7),
            GRPO,
            size=engine.layout.size,
            vocabulary=len(engine.tokenizer),
            groups=2,
            tolerance=TOLERANCE[str(engine.model.get_base_model().dtype).removeprefix("torch.")],
        )


def test_a_sampler_of_the_live_policy_passes_and_the_zero_adapter_is_left(engine: Engine) -> None:
    engine.set_adapter(np.ones(engine.layout.size, dtype=np.float32))
    require(engine, engine.sampler)
    assert not read_adapter(engine.model).any()


def test_a_sampler_of_the_base_is_refused(engine: Engine) -> None:
    def of_the_base(prompts: Sequence[list[int]], uniforms: Tensor, config: GrpoConfig) -> Completions:
        with without_adapter(engine.model):
            return TransformersSampler.of(engine.model, engine.tokenizer).sample(prompts, uniforms, config)

    with pytest.raises(FedReasonError, match="from the base model") as refusal:
        require(engine, Changed(engine.sampler, of_the_base))
    assert refusal.value.code == Code.ROLLOUTS_ADAPTER


def test_an_adapter_of_half_the_strength_is_refused(engine: Engine) -> None:
    def halved(prompts: Sequence[list[int]], uniforms: Tensor, config: GrpoConfig) -> Completions:
        whole = read_adapter(engine.model)
        engine.set_adapter(whole * np.float32(0.5))
        done = engine.sampler.sample(prompts, uniforms, config)
        engine.set_adapter(whole)
        return done

    with pytest.raises(FedReasonError, match="Under an adapter") as refusal:
        require(engine, Changed(engine.sampler, halved))
    assert refusal.value.code == Code.ROLLOUTS_ADAPTER


def test_logprobs_at_another_temperature_are_refused(engine: Engine) -> None:
    def warm(prompts: Sequence[list[int]], uniforms: Tensor, config: GrpoConfig) -> Completions:
        return engine.sampler.sample(prompts, uniforms, config.model_copy(update={"temperature": 1.0}))

    with pytest.raises(FedReasonError) as refusal:
        require(engine, Changed(engine.sampler, warm))
    assert refusal.value.code == Code.ROLLOUTS_ADAPTER


def test_logprobs_that_are_no_numbers_are_refused(engine: Engine) -> None:
    def broken(prompts: Sequence[list[int]], uniforms: Tensor, config: GrpoConfig) -> Completions:
        done = engine.sampler.sample(prompts, uniforms, config)
        return Completions(done.tokens, done.mask, done.logprobs * float("nan"))

    with pytest.raises(FedReasonError) as refusal:
        require(engine, Changed(engine.sampler, broken))
    assert refusal.value.code == Code.ROLLOUTS_ADAPTER


def one_by_one(sampler: Sampler) -> Changed:
    """Sample one prompt a batch, whatever is asked for at once."""

    def apart(prompts: Sequence[list[int]], uniforms: Tensor, config: GrpoConfig) -> Completions:
        parts = [sampler.sample([prompts[i]], uniforms[i : i + 1], config) for i in range(len(prompts))]
        return Completions(
            *(torch.cat(tensors) for tensors in zip(*(vars(part).values() for part in parts), strict=True))
        )

    return Changed(sampler, apart)


def test_prompts_sampled_one_by_one_are_isolated(engine: Engine) -> None:
    assert isolated(one_by_one(engine.sampler), GRPO, vocabulary=len(engine.tokenizer), groups=2)


def test_prompts_in_one_padded_batch_are_not(engine: Engine) -> None:
    """Of sixteen: of two or three, a processor may add up alike whatever stands beside a prompt."""
    with pytest.raises(FedReasonError) as refusal:
        require_isolated(engine.sampler, GRPO, vocabulary=len(engine.tokenizer), groups=16)
    assert refusal.value.code == Code.ROLLOUTS_SHARED


def test_one_bit_of_one_logprob_in_company_is_found(engine: Engine) -> None:
    apart = one_by_one(engine.sampler)

    def nudged(prompts: Sequence[list[int]], uniforms: Tensor, config: GrpoConfig) -> Completions:
        done = apart.sample(prompts, uniforms, config)
        if len(prompts) > 1:
            done.logprobs.view(torch.int32)[-1, 0] += 1
        return done

    assert not isolated(Changed(apart, nudged), GRPO, vocabulary=len(engine.tokenizer), groups=2)


def test_a_sampler_that_remembers_is_found(engine: Engine) -> None:
    """Alone it tells other bits after it has sampled in company, as one with a cache of prompts might."""
    apart, seen = one_by_one(engine.sampler), set[int]()

    def remembering(prompts: Sequence[list[int]], uniforms: Tensor, config: GrpoConfig) -> Completions:
        done = apart.sample(prompts, uniforms, config)
        seen.add(len(prompts))
        if len(prompts) == 1 and len(seen) > 1:
            done.logprobs.view(torch.int32)[0, 0] += 1
        return done

    assert not isolated(Changed(apart, remembering), GRPO, vocabulary=len(engine.tokenizer), groups=2)


def test_a_sampler_that_mixes_prompts_only_where_as_many_are_sampled_as_the_run_does_is_found(engine: Engine) -> None:
    """As vLLM's batch-invariant mode did: right for 8 rows, wrong for 44."""
    apart = one_by_one(engine.sampler)

    def crowded(prompts: Sequence[list[int]], uniforms: Tensor, config: GrpoConfig) -> Completions:
        done = apart.sample(prompts, uniforms, config)
        if len(prompts) >= 9:
            done.logprobs.view(torch.int32)[0, 0] += 1
        return done

    trial = partial(isolated, Changed(apart, crowded), GRPO, vocabulary=len(engine.tokenizer))
    assert trial(groups=5)
    assert not trial(groups=8)


def test_a_probe_is_the_same_everywhere_and_no_two_prompts_are_of_one_length() -> None:
    one, other = (Probe.of(GRPO, 500, 2) for _ in range(2))
    assert one.prompts == other.prompts and torch.equal(one.uniforms, other.uniforms)
    assert len({len(prompt) for prompt in one.prompts}) == len(one.prompts)
    assert max(map(len, one.prompts)) == 60
    assert len(one.prompts) == 6
    assert len(Probe.of(GRPO, 500, 44).prompts) == 45
    assert all(0 <= token < 500 for prompt in one.prompts for token in prompt)
