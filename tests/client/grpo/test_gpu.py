"""The step on a CUDA device, and the same tests on the CPU, so that they do not rot where there is no GPU.

Needs nothing of flwr, trl or opacus: `python -m pytest -m gpu tests/client/grpo/test_gpu.py` runs what is for a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import DynamicCache, GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerBase

from bench.grpo_stages import stages
from bench.grpo_work import Work, named_model
from client.grpo import forked, packed
from client.grpo.attention import Attention
from client.grpo.counts import Rollouts
from client.grpo.rollout import roll_out
from client.grpo.sampler import TransformersSampler
from client.grpo.selftest import require_isolated
from client.grpo.step import rollout_gradient
from client.training.engine import Engine
from common.config import AdapterConfig, GrpoConfig, RunConfig
from common.decoding.attend import Places, Shape, attend, takes_flash
from common.decoding.determinism import prepare, repeatable
from common.decoding.generate import Completions, generate
from common.decoding.shared import SharedDecoder, generate_shared
from common.model.adapter import flatten, read_adapter, trainable
from common.model.base import add_lora, load_base
from common.model.policy import Policy
from common.questions.prompt import prompt_tokens
from common.questions.question import Question
from common.stream import Stream
from tests.small import differing, made_rollouts, small_config
from tests.tuned import SETTINGS, asked, questions, step_of, with_random_b

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


@DEVICES
@DTYPES
def test_a_step_runs_and_keeps_the_adapter_float32(
    small_model: Path, monkeypatch: pytest.MonkeyPatch, device: str, dtype: torch.dtype
) -> None:
    model, tokenizer = adapted(small_model, device, dtype)
    rewards = iter(range(1000))
    monkeypatch.setattr("client.grpo.rollout.reward", lambda *_: float(next(rewards) % 2))
    gradient, counts = step_of(model, tokenizer)
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
@pytest.mark.parametrize("top_p", [1.0, 0.9])
@pytest.mark.parametrize("attention", ["dense", "parts"])
def test_the_packed_pass_gives_the_logprobs_of_the_forked_one(
    device: str, dtype: torch.dtype, window: int | None, attention: Attention, top_p: float
) -> None:
    model, done = named_model("tiny-random", device, dtype, window=window), completions(device)
    if attention == "parts" and (window or (device == "cuda" and dtype == torch.float32)):
        pytest.skip("a window is looked through by a mask, and FlashAttention is for half precision")
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
@pytest.mark.parametrize("prompt", [1, 127, 128, 129, 700])
def test_a_row_in_parts_gives_the_numbers_of_the_dense_mask_and_the_same_bits_whatever_is_made_again(
    monkeypatch: pytest.MonkeyPatch, device: str, dtype: torch.dtype, prompt: int
) -> None:
    if device == "cuda" and dtype == torch.float32:
        pytest.skip("FlashAttention is for half precision")
    model, done = named_model("tiny-random", device, dtype), completions(device)
    prompts = [[5 + place % 900 for place in range(length)] for length in (prompt, 130)]

    def passed(attention: Attention) -> tuple[torch.Tensor, torch.Tensor]:
        logprobs = packed.completion_logprobs(model, prompts, done, group_size=3, attention=attention)
        return logprobs.detach(), gradient(model, logprobs)

    with repeatable(device):
        dense, parts = passed("dense"), passed("parts")
        monkeypatch.setattr(packed, "_again", lambda *_: 1)
        again = passed("parts")
    near = 1e-4 if dtype == torch.float32 else 0.1
    assert torch.allclose(dense[0], parts[0], atol=near)
    assert dense[1].any() and (dense[1] - parts[1]).norm() < near * dense[1].norm()
    assert torch.equal(parts[0], again[0]) and torch.equal(parts[1], again[1])


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


SMALL = {"vocab_size": 60, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
LENGTHS = (40, 130, 20, 5, 77)
GROUP, LONGEST = 5, 12
UNIFORMS = torch.rand(len(LENGTHS), GROUP, LONGEST, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def prompts_of(lengths: Sequence[int], first: int = 5) -> list[list[int]]:
    return [[first + i for i in range(length)] for length in lengths]


def in_groups(model: torch.nn.Module, prompts: list[list[int]], order: Sequence[int], shape: Shape) -> dict[int, Any]:
    """Return the bits of these prompts' groups by their numbers, decoded in this order."""
    uniforms = UNIFORMS[list(order)].flatten(0, 1)
    done = generate_shared(model, [prompts[i] for i in order], shape=shape, ends=(1,), pad=0, uniforms=uniforms)
    groups = zip(*(tensor.cpu().split(GROUP) for tensor in vars(done).values()), strict=True)
    return {number: [each.numpy().tobytes() for each in group] for number, group in zip(order, groups, strict=True)}


@DEVICES
@WINDOWS
@pytest.mark.parametrize(("dtype", "top_p"), [(torch.float32, 1.0), (torch.float64, 1.0), (torch.float64, 0.9)])
def test_groups_write_what_a_plain_batch_of_their_prompt_writes(
    device: str, dtype: torch.dtype, window: int | None, top_p: float
) -> None:
    model, prompts = named_model("tiny-random", device, dtype, window=window), prompts_of(LENGTHS)
    options: dict[str, Any] = {"ends": (1,), "pad": 0, "top_p": top_p}
    shape = Shape(2, GROUP, 130, LONGEST)
    here = generate_shared(model, prompts, shape=shape, uniforms=UNIFORMS.flatten(0, 1), **options)
    for number, prompt in enumerate(prompts):
        there = generate(model, [prompt], group_size=GROUP, max_tokens=LONGEST, uniforms=UNIFORMS[number], **options)
        rows = slice(number * GROUP, (number + 1) * GROUP)
        assert torch.equal(here.tokens[rows], there.tokens) and torch.equal(here.mask[rows], there.mask)
        assert torch.allclose(here.logprobs[rows], there.logprobs, atol=1e-3)


@DEVICES
@DTYPES
@WINDOWS
def test_a_group_has_the_same_bits_whoever_is_beside_it(device: str, dtype: torch.dtype, window: int | None) -> None:
    """In bfloat16 too, by FlashAttention on CUDA; under torch's deterministic algorithms and without."""
    model, everyone = named_model("tiny-random", device, dtype, window=window), list(range(len(LENGTHS)))
    mine, others = prompts_of(LENGTHS), prompts_of(LENGTHS[:1]) + prompts_of([length // 2 for length in LENGTHS[1:]], 9)
    shape = Shape(3, GROUP, 600, LONGEST)
    for mode in (repeatable(device), nullcontext()):  # each has attention of its own for reading prompts
        with mode:
            among = in_groups(model, mine, everyone, shape)
            assert in_groups(model, mine, everyone, shape) == among
            assert in_groups(model, mine, everyone[::-1], shape) == among
            for number in everyone:
                assert in_groups(model, mine, [number], shape)[number] == among[number]
            changed = in_groups(model, others, everyone, shape)
            assert changed[0] == among[0] and all(changed[number] != among[number] for number in everyone[1:])


@DEVICES
@DTYPES
@WINDOWS
def test_the_log_probabilities_of_groups_are_those_of_the_training_pass(
    device: str, dtype: torch.dtype, window: int | None
) -> None:
    model, prompts = named_model("tiny-random", device, dtype, window=window), prompts_of(LENGTHS)
    done = generate_shared(
        model, prompts, shape=Shape(3, GROUP, 130, LONGEST), ends=(1,), pad=0, uniforms=UNIFORMS.flatten(0, 1)
    )
    with torch.no_grad():
        trained = forked.completion_logprobs(model, prompts, done, group_size=GROUP, pad=0)
    kept = done.mask.bool()
    assert torch.allclose(trained[kept], done.logprobs[kept], atol=1e-3 if dtype == torch.float32 else 0.1)


@DEVICES
@DTYPES
def test_a_replayed_step_has_the_bits_of_the_step_itself_after_other_prompts_and_at_another_adapter(
    device: str, dtype: torch.dtype
) -> None:
    """A long prompt, then a short one, then another adapter: nothing of what was recorded has gone stale."""
    adapted = named_model("tiny-random", device, dtype)
    policy, shape = Policy(adapted), Shape(3, GROUP, 600, LONGEST)
    replayed, eager = (SharedDecoder(policy.model, shape, ends=(-1,), pad=0, recorded=True) for _ in range(2))
    eager._graph = None
    assert (replayed._graph is None) == (device == "cpu")

    @torch.no_grad()
    def written(decoder: SharedDecoder, length: int) -> Completions:
        cache, (prompt,) = DynamicCache(), prompts_of([length])
        policy.model(input_ids=torch.tensor([prompt], device=device), past_key_values=cache, use_cache=True)
        first = Completions(*(torch.full((GROUP, LONGEST), value, device=device) for value in (7, 1, 0.0)))
        decoder.admit(1, cache, UNIFORMS[0].to(device), first)
        for _ in range(LONGEST):
            decoder.step()
        return decoder.written(1)

    seen = []
    for scale in (1.0, 3.0):
        with torch.no_grad():
            for parameter in trainable(adapted):
                parameter.mul_(scale)
        policy.refresh()
        for length in (560, 20):
            here, there = written(replayed, length), written(eager, length)
            assert all(
                torch.equal(one, two) for one, two in zip(vars(here).values(), vars(there).values(), strict=True)
            )
            seen.append(here.logprobs)
    assert not any(torch.equal(seen[0], other) for other in seen[1:]), "it reads the adapter that there is now"


SHAPES: dict[str, dict[str, int]] = {
    "cpu": {"group_size": 3, "max_prompt_tokens": 90, "max_completion_tokens": 12, "decode_groups": 2},
    "cuda": {"group_size": 7, "max_prompt_tokens": 1500, "max_completion_tokens": 400, "decode_groups": 5},
}


@DEVICES
@DTYPES
def test_the_trial_of_a_private_run_finds_groups_kept_apart(device: str, dtype: torch.dtype) -> None:
    sampler = TransformersSampler(Policy(named_model("tiny-random", device, dtype)).model, ends=(1,), pad=0)
    config = GrpoConfig(decode="together", **SHAPES[device])
    require_isolated(sampler, config, vocabulary=1000, groups=SHAPES[device]["decode_groups"])


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=CUDA)])
@WINDOWS
def test_flash_attention_gives_what_products_in_float32_give(device: str, window: int | None) -> None:
    """Its place among torch's private operators may change: here is what is asked of it."""
    places = Places(Shape(3, 7, 1300, 100), 10, {None, window}, torch.device(device), recorded=True)
    for group, length in enumerate((1300, 700, 40)):
        places.take(group, length)
    places.spoken.copy_(torch.tensor([0, 50, 99]))
    places.begin_step()
    generator = torch.Generator(device).manual_seed(0)
    query = 1.5 * torch.randn(places.shape.rows, 40, 1, 128, device=device, generator=generator)
    held = [torch.randn(places.total, 128, device=device, generator=generator) for _ in range(2)]
    results = [
        attend(torch.nn.Module(), *(each.to(dtype) for each in (query, *held)), None, scaling=128**-0.5, shared=places,
               sliding_window=window)[0].float()
        for dtype in (torch.bfloat16, torch.float32)
    ]  # fmt: skip
    assert takes_flash(query.bfloat16(), None) and float((results[0] - results[1]).abs().max()) < 0.02


@DEVICES
def test_a_patient_alone_is_decoded_in_a_group_on_cuda_and_in_a_plain_batch_elsewhere(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    for name in ("generate", "generate_shared"):
        monkeypatch.setattr(f"client.grpo.sampler.{name}", lambda *_, name=name, **__: called.append(name))
    for model in (named_model("tiny-random", device), GPTNeoXForCausalLM(GPTNeoXConfig(**SMALL)).to(device)):
        TransformersSampler(model, ends=(1,), pad=0).sample([[5, 6]], UNIFORMS[:1], GrpoConfig(group_size=GROUP))
    assert called == ["generate_shared" if device == "cuda" else "generate", "generate"]


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=CUDA)])
def test_the_stages_are_measured_against_the_roofline(device: str) -> None:
    """On the CPU: tests/bench/test_grpo.py."""
    result = stages(named_model("tiny-random", device, torch.bfloat16), Work(200, 20, 2, 4), device, 1)
    shares = {"prefill", "decode", "forked", "packed", "packed_parts", "whole"}
    assert set(result["share_of_roofline"]) == shares
    assert all(0 < share < 1 for share in result["share_of_roofline"].values())
    assert all(peak > 0 for peak in result["peak_gib"].values()) and result["finite"]
    assert result["passes_relative_difference"] < 0.1
