"""The step on a CUDA device; needs nothing of flwr, trl or opacus: `python -m pytest -m gpu tests/test_gpu.py`."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import DynamicCache

from bench.grpo_stages import stages
from bench.grpo_work import Work, named_model
from client.engine import Engine
from client.grpo import forked, packed
from client.grpo.attention import Attention
from client.grpo.rollout import Rollouts, roll_out
from client.grpo.sampler import TransformersSampler
from client.grpo.selftest import require_isolated
from client.grpo.step import patient_gradient, rollout_gradient
from common.adapter import flatten, read_adapter, trainable
from common.config import AdapterConfig, GrpoConfig, RunConfig
from common.determinism import prepare, repeatable
from common.generate import Completions, generate
from common.graph import Replayed
from common.model import add_lora, load_base
from common.policy import Policy
from common.questions.question import Question
from common.slots import Slots, generate_in_slots
from common.stream import Stream
from tests.small import small_config
from tests.test_grpo import SETTINGS, questions, with_random_b
from tests.test_rollout import asked

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
prepare("cuda")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_runs_on_cuda_and_keeps_the_adapter_float32(small_model: Path, dtype: str) -> None:
    config = small_config(small_model).model.model_copy(update={"dtype": dtype})
    base, tokenizer = load_base(config, device="cuda")
    model = with_random_b(add_lora(base, AdapterConfig(rank=4, alpha=8), 0).cpu()).to("cuda")
    policy = Policy(model).model
    gradient, counts = patient_gradient(
        model,
        tokenizer,
        questions(),
        SETTINGS,
        per_patient=3,
        stream=Stream.named("a"),
        sampler=TransformersSampler.of(policy, tokenizer),
    )
    assert counts.rollouts == 12
    assert np.isfinite(gradient).all()
    assert {p.dtype for p in trainable(model)} == {torch.float32}


@pytest.mark.parametrize("checkpointing", [False, True], ids=["forked", "packed"])
def test_cuda_gives_the_gradient_of_the_cpu(small_model: Path, checkpointing: bool) -> None:
    base, tokenizer = load_base(small_config(small_model).model)
    model = with_random_b(add_lora(base, AdapterConfig(rank=4, alpha=8), 0))
    settings = SETTINGS.model_copy(update={"checkpointing": checkpointing})
    rollouts = roll_out(TransformersSampler.of(model, tokenizer), tokenizer, questions(), settings, Stream.named("a"))
    assert rollouts is not None
    here = rollout_gradient(model, rollouts, settings, per_patient=3, pad=0)
    there = rollout_gradient(model.cuda(), on_cuda(rollouts), settings, per_patient=3, pad=0)
    assert here.any()
    assert torch.allclose(here, there, atol=1e-4 * float(here.abs().max()))


def on_cuda(rollouts: Rollouts) -> Rollouts:
    moved = copy.copy(rollouts)
    tensors = vars(rollouts.completions).values()
    object.__setattr__(moved, "completions", Completions(*(tensor.cuda() for tensor in tensors)))
    return moved


PROMPTS = [[5 + i for i in range(length)] for length in (40, 130)]
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
WINDOWS = pytest.mark.parametrize("window", [None, 24], ids=["full", "sliding"])


def completions() -> Completions:
    tokens = torch.randint(2, 1000, (6, 9), generator=torch.Generator().manual_seed(0)).cuda()
    mask = (torch.arange(9)[None] < torch.tensor([9, 3, 1, 9, 5, 8])[:, None]).long().cuda()
    return Completions(tokens, mask, torch.zeros(tokens.shape, device="cuda"))


def gradient(model: PeftModel, logprobs: torch.Tensor) -> torch.Tensor:
    return flatten(list(torch.autograd.grad(logprobs[completions().mask.bool()].sum(), trainable(model))))


@DTYPES
@WINDOWS
@pytest.mark.parametrize("attention", ["dense", "flex"])
def test_the_packed_pass_on_cuda_gives_the_logprobs_of_the_forked_one(
    dtype: torch.dtype, window: int | None, attention: Attention
) -> None:
    model, done = named_model("tiny-random", "cuda", dtype, window=window), completions()
    kept = done.mask.bool()
    config = model.get_base_model().config
    one = forked.completion_logprobs(model, PROMPTS, done, group_size=3, pad=0)
    other = packed.completion_logprobs(model, PROMPTS, done, group_size=3, attention=attention)
    assert torch.allclose(one[kept], other[kept], atol=1e-3 if dtype == torch.float32 else 0.1)
    theirs, ours = gradient(model, one), gradient(model, other)
    assert (ours - theirs).norm() < (1e-3 if dtype == torch.float32 else 0.1) * theirs.norm()
    assert config._attn_implementation == "sdpa", "rollouts go on as before"


@DTYPES
@WINDOWS
def test_flex_attention_gives_the_numbers_of_the_dense_mask_and_the_same_bits_again(
    dtype: torch.dtype, window: int | None
) -> None:
    model, done = named_model("tiny-random", "cuda", dtype, window=window), completions()

    def passed(attention: Attention) -> tuple[torch.Tensor, torch.Tensor]:
        logprobs = packed.completion_logprobs(model, PROMPTS, done, group_size=3, attention=attention)
        return logprobs.detach(), gradient(model, logprobs)

    with repeatable("cuda"):
        dense, flex, again = passed("dense"), passed("flex"), passed("flex")
    near = 1e-4 if dtype == torch.float32 else 0.1
    assert torch.allclose(dense[0], flex[0], atol=near)
    assert (dense[1] - flex[1]).norm() < near * dense[1].norm()
    assert torch.equal(flex[0], again[0]) and torch.equal(flex[1], again[1])


@pytest.mark.parametrize("checkpointing", [False, True], ids=["forked", "packed"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_patient_alone_gives_the_bits_that_it_gives_among_sixteen(
    small_model: Path, dtype: str, checkpointing: bool
) -> None:
    config = small_config(small_model).model.model_copy(update={"dtype": dtype})
    base, tokenizer = load_base(config, device="cuda")
    model = with_random_b(add_lora(base, AdapterConfig(rank=4, alpha=8), 0).cpu()).to("cuda")
    policy = Policy(model).model
    settings = SETTINGS.model_copy(update={"checkpointing": checkpointing, "kl": 0.05})

    def bits(number: int, mine: list[Question]) -> tuple[bytes, bytes]:
        """Tokens with their log-probabilities, and the gradient."""
        rollouts = roll_out(
            TransformersSampler.of(policy, tokenizer), tokenizer, mine, settings, Stream.named("rollout", number)
        )
        assert rollouts is not None
        gradient = rollout_gradient(model, rollouts, settings, per_patient=4, pad=0)
        done = rollouts.completions
        return b"".join(tensor.cpu().numpy().tobytes() for tensor in vars(done).values()), gradient.numpy().tobytes()

    everyone = list(enumerate(asked(16)))
    with repeatable("cuda"):
        forwards = {number: bits(number, mine) for number, mine in everyone}
        backwards = {number: bits(number, mine) for number, mine in everyone[::-1]}
    assert forwards == backwards and len(set(forwards.values())) == 16


@pytest.mark.parametrize("checkpointing", [False, True], ids=["forked", "packed"])
def test_a_four_bit_base_has_the_bits_of_the_cpu_on_cuda_and_gives_its_gradient(
    small_model: Path, checkpointing: bool
) -> None:
    pytest.importorskip("bitsandbytes")
    model = {"base": str(small_model), "dtype": "bfloat16", "quantization": "nf4"}
    table = small_config(small_model).model_dump() | {"model": model}
    config = RunConfig.model_validate(table)
    here, there = Engine(config, None, "cpu"), Engine(config, None, "cuda")
    layout = here.layout_sha256()
    assert there.layout_sha256() == layout
    for engine in (here, there):
        engine.set_adapter(read_adapter(with_random_b(here.model)))
    settings = SETTINGS.model_copy(update={"checkpointing": checkpointing, "kl": 0.05})
    rollouts = roll_out(here.sampler, here.tokenizer, questions(), settings, Stream.named("a"))
    assert rollouts is not None
    ours = rollout_gradient(here.model, rollouts, settings, per_patient=3, pad=0)
    theirs = rollout_gradient(there.model, on_cuda(rollouts), settings, per_patient=3, pad=0).cpu()
    assert ours.any() and (ours - theirs).norm() < 0.1 * ours.norm()
    assert roll_out(there.sampler, there.tokenizer, questions(), settings, Stream.named("a")) is not None
    assert {p.dtype for p in trainable(there.model)} == {torch.float32}
    assert there.layout_sha256() == layout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_replayed_step_has_the_bits_of_the_step_itself_also_at_another_adapter(dtype: torch.dtype) -> None:
    adapted = named_model("tiny-random", "cuda", dtype)
    policy = Policy(adapted)
    pairs = [(Slots(policy.model, 8, 64), DynamicCache()) for _ in range(2)]

    @torch.no_grad()
    def logits(slots: Slots, cache: DynamicCache) -> list[torch.Tensor]:
        if not cache.layers:
            policy.model(input_ids=torch.arange(5, 25)[None].cuda(), past_key_values=cache, use_cache=True)
        slots.admit([0, 3], cache)
        return [slots.step(torch.full((8,), token).cuda()).clone() for token in (7, 8, 9)]

    bits = []
    for scale in (1.0, 3.0):
        with torch.no_grad():
            for parameter in trainable(adapted):
                parameter.mul_(scale)
        policy.refresh()
        replayed = logits(*pairs[0])
        with patch.object(Replayed, "step", lambda _, function: function()):
            eager = logits(*pairs[1])
        assert all(torch.equal(one, other) for one, other in zip(replayed, eager, strict=True))
        bits.append(replayed[0])
    assert not torch.equal(*bits), "the recording reads the adapter that there is now"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_slots_on_cuda_keep_prompts_apart(dtype: torch.dtype) -> None:
    policy = Policy(named_model("tiny-random", "cuda", dtype)).model
    config = GrpoConfig(
        group_size=7, max_prompt_tokens=1500, max_completion_tokens=400, decode="slots", decode_groups=5
    )
    require_isolated(TransformersSampler(policy, eos=1, pad=0), config, vocabulary=1000)


def test_slots_on_cuda_give_what_a_batch_gives() -> None:
    policy = Policy(named_model("tiny-random", "cuda", torch.float32)).model
    prompts = [[5 + i for i in range(length)] for length in (40, 130, 20)]
    uniforms = torch.rand(12, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = {"group_size": 4, "max_tokens": 30, "eos": 1, "pad": 0, "uniforms": uniforms}
    here, there = generate_in_slots(policy, prompts, slots=8, **options), generate(policy, prompts, **options)
    assert torch.equal(here.tokens, there.tokens) and torch.allclose(here.logprobs, there.logprobs, atol=1e-3)


def test_the_stages_are_measured_against_the_roofline() -> None:
    result = stages(named_model("tiny-random", "cuda", torch.bfloat16), Work(200, 20, 2, 4), "cuda", 1)
    shares = {"prefill", "decode", "decode_slots", "forked", "packed", "packed_flex", "whole"}
    assert set(result["share_of_roofline"]) == shares
    assert all(0 < share < 1 for share in result["share_of_roofline"].values())
    assert all(peak > 0 for peak in result["peak_gib"].values()) and result["finite"]
    assert result["not_compiled"] == [] and result["passes_relative_difference"] < 0.1
