"""The step on a CUDA device, and the same tests on the CPU, so that they do not rot where there is no GPU.

Needs nothing of flwr, trl or opacus: `python -m pytest -m gpu tests/client/grpo/test_gpu.py` runs what is for a GPU.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import DynamicCache, PreTrainedTokenizerBase

from bench.grpo_stages import stages
from bench.grpo_work import Work, named_model
from client.grpo import forked, packed
from client.grpo.attention import Attention
from client.grpo.counts import Rollouts
from client.grpo.rollout import roll_out
from client.grpo.sampler import TransformersSampler
from client.grpo.selftest import require_isolated
from client.grpo.step import patient_gradient, rollout_gradient
from client.training.engine import Engine
from common.config import AdapterConfig, GrpoConfig, RunConfig
from common.decoding.determinism import prepare, repeatable
from common.decoding.generate import Completions, generate
from common.decoding.graph import Replayed
from common.decoding.slots import Slots, generate_in_slots
from common.errors import Code, FedReasonError
from common.model.adapter import flatten, read_adapter, trainable
from common.model.base import add_lora, load_base
from common.model.policy import Policy
from common.questions.prompt import prompt_tokens
from common.questions.question import Question
from common.stream import Stream
from tests.small import differing, made_rollouts, small_config
from tests.tuned import SETTINGS, asked, questions, with_random_b

pytestmark = pytest.mark.model

CUDA = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
WINDOWS = pytest.mark.parametrize("window", [None, 24], ids=["full", "sliding"])
PASSES = pytest.mark.parametrize("checkpointing", [False, True], ids=["forked", "packed"])
prepare("cuda")


def adapted(folder: Path, device: str, dtype: torch.dtype) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """Return the small model at a random adapter, the same on every device."""
    named = str(dtype).removeprefix("torch.")
    config = small_config(folder).model.model_copy(update={"dtype": named})
    base, tokenizer = load_base(config, device=device)
    return with_random_b(add_lora(base, AdapterConfig(rank=4, alpha=8), 0)), tokenizer


def made(tokenizer: PreTrainedTokenizerBase, settings: GrpoConfig, device: str = "cpu") -> Rollouts:
    """Return rollouts of real prompts whose rewards differ by construction."""
    prompts = [prompt_tokens(question, tokenizer) for question in questions()]
    return made_rollouts(prompts, settings, vocabulary=len(tokenizer), device=device)


@pytest.fixture
def flex(device: str, request: pytest.FixtureRequest) -> None:
    """Have FlexAttention run where it refuses: on a CPU."""
    if device == "cpu":
        request.getfixturevalue("flex_on_cpu")


@DEVICES
@DTYPES
def test_a_step_runs_and_keeps_the_adapter_float32(
    small_model: Path, monkeypatch: pytest.MonkeyPatch, device: str, dtype: torch.dtype
) -> None:
    model, tokenizer = adapted(small_model, device, dtype)
    rewards = iter(range(1000))
    monkeypatch.setattr("client.grpo.rollout.reward", lambda *_: float(next(rewards) % 2))
    gradient, counts = patient_gradient(
        model,
        tokenizer,
        questions(),
        SETTINGS,
        per_patient=3,
        stream=Stream.named("a"),
        sampler=TransformersSampler.of(Policy(model).model, tokenizer),
    )
    assert (counts.rollouts, counts.zero_variance) == (12, 0)
    assert np.isfinite(gradient).all() and gradient.any()
    assert {p.dtype for p in trainable(model)} == {torch.float32}


@DEVICES
@PASSES
def test_a_device_gives_the_gradient_of_the_cpu(small_model: Path, device: str, checkpointing: bool) -> None:
    (here, tokenizer), (there, _) = (adapted(small_model, where, torch.float32) for where in ("cpu", device))
    settings = SETTINGS.model_copy(update={"checkpointing": checkpointing})
    ours = rollout_gradient(here, made(tokenizer, settings), settings, per_patient=3, pad=0)
    theirs = rollout_gradient(there, made(tokenizer, settings, device), settings, per_patient=3, pad=0)
    assert ours.any()
    assert torch.allclose(ours, theirs, atol=1e-4 * float(ours.abs().max()))


@DEVICES
@PASSES
@pytest.mark.parametrize("kl", [0.0, 0.05], ids=["no kl", "kl"])
@pytest.mark.parametrize("why", ["agree", "empty"])
def test_a_patient_who_teaches_nothing_gives_zero(
    small_model: Path, device: str, checkpointing: bool, kl: float, why: str
) -> None:
    model, tokenizer = adapted(small_model, device, torch.bfloat16)
    settings = SETTINGS.model_copy(update={"checkpointing": checkpointing, "kl": kl})
    rollouts = made(tokenizer, settings, device)
    done = rollouts.completions
    if why == "agree":
        nothing = replace(rollouts, advantages=torch.zeros_like(rollouts.advantages))
    else:
        nothing = replace(rollouts, completions=replace(done, mask=torch.zeros_like(done.mask)))
    with repeatable(device):
        gradient = rollout_gradient(model, nothing, settings, per_patient=3, pad=0)
    assert gradient.shape == read_adapter(model).shape and gradient.device.type == "cpu"
    assert torch.isfinite(gradient).all() and gradient.any() == (why == "agree" and kl > 0)


PROMPTS = [[5 + i for i in range(length)] for length in (40, 130)]


def completions(device: str) -> Completions:
    tokens = torch.randint(2, 1000, (6, 9), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(9)[None] < torch.tensor([9, 3, 1, 9, 5, 8])[:, None]).long()
    return Completions(tokens.to(device), mask.to(device), torch.zeros(tokens.shape, device=device))


def gradient(model: PeftModel, logprobs: torch.Tensor) -> torch.Tensor:
    mask = completions(str(logprobs.device)).mask.bool()
    return flatten(list(torch.autograd.grad(logprobs[mask].sum(), trainable(model))))


@DEVICES
@DTYPES
@WINDOWS
@pytest.mark.usefixtures("flex")
@pytest.mark.parametrize("top_p", [1.0, 0.9])
@pytest.mark.parametrize("attention", ["dense", "flex"])
def test_the_packed_pass_gives_the_logprobs_of_the_forked_one(
    device: str, dtype: torch.dtype, window: int | None, attention: Attention, top_p: float
) -> None:
    model, done = named_model("tiny-random", device, dtype, window=window), completions(device)
    kept = done.mask.bool()
    config = model.get_base_model().config
    options: dict[str, Any] = {"group_size": 3, "top_p": top_p}
    one = forked.completion_logprobs(model, PROMPTS, done, pad=0, **options)
    other = packed.completion_logprobs(model, PROMPTS, done, attention=attention, **options)
    assert torch.allclose(one[kept], other[kept], atol=1e-3 if dtype == torch.float32 else 0.1)
    theirs, ours = gradient(model, one), gradient(model, other)
    assert theirs.any() and (ours - theirs).norm() < (1e-3 if dtype == torch.float32 else 0.1) * theirs.norm()
    assert config._attn_implementation == "sdpa", "rollouts go on as before"


@DEVICES
@DTYPES
@WINDOWS
@pytest.mark.usefixtures("flex")
def test_flex_attention_gives_the_numbers_of_the_dense_mask_and_the_same_bits_again(
    device: str, dtype: torch.dtype, window: int | None
) -> None:
    model, done = named_model("tiny-random", device, dtype, window=window), completions(device)

    def passed(attention: Attention) -> tuple[torch.Tensor, torch.Tensor]:
        logprobs = packed.completion_logprobs(model, PROMPTS, done, group_size=3, attention=attention)
        return logprobs.detach(), gradient(model, logprobs)

    with repeatable(device):
        dense, flex, again = passed("dense"), passed("flex"), passed("flex")
    near = 1e-4 if dtype == torch.float32 else 0.1
    assert torch.allclose(dense[0], flex[0], atol=near)
    assert dense[1].any() and (dense[1] - flex[1]).norm() < near * dense[1].norm()
    assert torch.equal(flex[0], again[0]) and torch.equal(flex[1], again[1])


@DEVICES
@PASSES
@DTYPES
def test_a_patient_alone_gives_the_bits_that_it_gives_among_others(
    small_model: Path, device: str, dtype: torch.dtype, checkpointing: bool
) -> None:
    model, tokenizer = adapted(small_model, device, dtype)
    policy = Policy(model).model
    settings = SETTINGS.model_copy(update={"checkpointing": checkpointing, "kl": 0.05})

    def bits(number: int, mine: list[Question]) -> tuple[bytes, bytes]:
        """Tokens with their log-probabilities, and the gradient."""
        rollouts = roll_out(
            TransformersSampler.of(policy, tokenizer), tokenizer, mine, settings, Stream.named("rollout", number)
        )
        assert rollouts is not None
        gradient = rollout_gradient(model, differing(rollouts, settings), settings, per_patient=4, pad=0)
        assert gradient.any()
        done = rollouts.completions
        return b"".join(tensor.cpu().numpy().tobytes() for tensor in vars(done).values()), gradient.numpy().tobytes()

    everyone = list(enumerate(asked(16 if device == "cuda" else 5)))
    with repeatable(device):
        forwards = {number: bits(number, mine) for number, mine in everyone}
        backwards = {number: bits(number, mine) for number, mine in everyone[::-1]}
    assert forwards == backwards and len(set(forwards.values())) == len(everyone)


@DEVICES
@PASSES
def test_a_four_bit_base_has_the_bits_of_the_cpu_and_gives_its_gradient(
    small_model: Path, device: str, checkpointing: bool
) -> None:
    pytest.importorskip("bitsandbytes")
    model = {"base": str(small_model), "dtype": "bfloat16", "quantization": "nf4"}
    table = small_config(small_model).model_dump() | {"model": model}
    config = RunConfig.model_validate(table)
    here, there = Engine(config, None, "cpu"), Engine(config, None, device)
    layout = here.layout_sha256()
    assert there.layout_sha256() == layout
    for engine in (here, there):
        engine.set_adapter(read_adapter(with_random_b(here.model)))
    settings = SETTINGS.model_copy(update={"checkpointing": checkpointing, "kl": 0.05})
    ours = rollout_gradient(here.model, made(here.tokenizer, settings), settings, per_patient=3, pad=0)
    theirs = rollout_gradient(there.model, made(here.tokenizer, settings, device), settings, per_patient=3, pad=0)
    assert ours.any() and (ours - theirs).norm() < 0.1 * ours.norm()
    assert roll_out(there.sampler, there.tokenizer, questions(), settings, Stream.named("a")) is not None
    assert {p.dtype for p in trainable(there.model)} == {torch.float32}
    assert there.layout_sha256() == layout


@DEVICES
@DTYPES
def test_a_replayed_step_has_the_bits_of_the_step_itself_also_at_another_adapter(
    device: str, dtype: torch.dtype
) -> None:
    adapted = named_model("tiny-random", device, dtype)
    policy = Policy(adapted)
    pairs = [(Slots(policy.model, 8, 64), DynamicCache()) for _ in range(2)]

    @torch.no_grad()
    def logits(slots: Slots, cache: DynamicCache) -> list[torch.Tensor]:
        if not cache.layers:
            policy.model(input_ids=torch.arange(5, 25)[None].to(device), past_key_values=cache, use_cache=True)
        slots.admit([0, 3], cache)
        return [slots.step(torch.full((8,), token).to(device)).clone() for token in (7, 8, 9)]

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


SHAPES: dict[str, dict[str, int]] = {
    "cpu": {"group_size": 3, "max_prompt_tokens": 90, "max_completion_tokens": 12, "decode_groups": 2},
    "cuda": {"group_size": 7, "max_prompt_tokens": 1500, "max_completion_tokens": 400, "decode_groups": 5},
}


@DEVICES
@DTYPES
def test_slots_keep_prompts_apart_or_are_refused_by_number(device: str, dtype: torch.dtype) -> None:
    """In bfloat16 they did not on an H200; that nothing was sampled by then: tests/common/decoding/test_slots.py."""
    sampler = TransformersSampler(Policy(named_model("tiny-random", device, dtype)).model, eos=1, pad=0)
    config = GrpoConfig(decode="slots", **SHAPES[device])
    try:
        require_isolated(sampler, config, vocabulary=1000)
    except FedReasonError as refusal:
        assert refusal.code is Code.ROLLOUTS_SHARED
        assert (device, dtype) == ("cuda", torch.bfloat16), "everywhere else they do"


@DEVICES
def test_slots_give_what_a_batch_gives(device: str) -> None:
    policy = Policy(named_model("tiny-random", device, torch.float32)).model
    prompts = [[5 + i for i in range(length)] for length in (40, 130, 20)]
    uniforms = torch.rand(12, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = {"group_size": 4, "max_tokens": 30, "eos": 1, "pad": 0, "uniforms": uniforms}
    here, there = generate_in_slots(policy, prompts, slots=8, **options), generate(policy, prompts, **options)
    assert torch.equal(here.tokens, there.tokens) and torch.allclose(here.logprobs, there.logprobs, atol=1e-3)


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=CUDA)])
def test_the_stages_are_measured_against_the_roofline(device: str) -> None:
    """On the CPU: tests/bench/test_grpo.py."""
    result = stages(named_model("tiny-random", device, torch.bfloat16), Work(200, 20, 2, 4), device, 1)
    shares = {"prefill", "decode", "decode_slots", "forked", "packed", "packed_flex", "whole"}
    assert set(result["share_of_roofline"]) == shares
    assert all(0 < share < 1 for share in result["share_of_roofline"].values())
    assert all(peak > 0 for peak in result["peak_gib"].values()) and result["finite"]
    assert result["not_compiled"] == [] and result["passes_relative_difference"] < 0.1
