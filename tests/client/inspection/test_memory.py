"""The estimate of memory: the sum that a person makes by hand, never less for more, and what torch really keeps."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig, LlamaForCausalLM, Phi3Config

from bench.grpo_work import MODELS, pack
from client.grpo.forked import completion_logprobs
from client.grpo.groups import cached_bytes, groups_together, sampling_bytes
from client.inspection.local_model import local_shape, local_tokenizer, shape_of
from client.inspection.memory import Memory, Shape, estimate
from client.site.config import Rollouts
from common import synthetic
from common.config import AdapterConfig, RunConfig
from common.decoding.attend import Shape as Decoded
from common.decoding.evaluate import batch_rows
from common.decoding.generate import Completions
from common.decoding.shared import SharedDecoder
from common.model.base import add_lora
from tests.small import small_config

ROLLOUTS: tuple[Rollouts, ...] = ("transformers", "vllm")
SHAPE = Shape(
    parameters=1000, adapted=((8, 8), (8, 20)), linear=((8, 8), (8, 20), (5, 3)), layers=2, hidden=8, intermediate=20,
    heads=2, key_heads=1, head_width=4, vocabulary=50,
)  # fmt: skip


SMALL = LlamaConfig(
    vocab_size=50,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    intermediate_size=20,
)


def run_of(
    dtype: str = "bfloat16",
    *,
    questions: int = 1,
    group: int = 3,
    completion: int = 5,
    rank: int = 2,
    base: str = "/x",
    quantization: str = "none",
    **grpo: Any,
) -> RunConfig:
    config = small_config(
        Path(base),
        questions={"per_patient": questions},
        grpo={"group_size": group, "max_completion_tokens": completion, **grpo},
        adapter={"rank": rank},
    )
    changed = {"dtype": dtype, "quantization": quantization}
    return config.model_copy(update={"model": config.model.model_copy(update=changed)})


def test_the_estimate_is_the_sum_made_by_hand() -> None:
    """Prompt of 10, three completions of 5: 25 tokens are trained on, and 10 + 3 x 15 places attended to.

    The prompt has 64 places, each completion 16, and its keys stand once more where it was read; three rows are four.
    Where a prompt is read 8 + 20 values of a token stand four times; 64 questions are answered at once.
    """
    layer = 25 * (8 * 8 + (2 * 8 + 3 * 20) * 2) + 55 * 2 * 8 * 2 + 3 * 5 * 15 * 2
    assert estimate(SHAPE, run_of(), prompt=10, evaluates=True) == Memory(
        weights=1000 * 2,
        adapter=4 * 2 * (8 + 2 * 8 + 8 + 2 * 20),
        sampling=(64 + 3 * 16 + 10) * 2 * 2 * 4 * 2 + 4 * 50 * 32 + 10 * 4 * 28 * 2,
        training=3 * layer + 4 * 2 * 2 * 25 + (12 + 2) * 50 * 3 * 5,
        evaluation=64 * (20 * 2 * 2 * 4 * 2 + 10 * 4 * 28 * 2),
    )
    assert estimate(SHAPE, run_of("float32"), prompt=10, evaluates=False).weights == 1000 * 4 * 2
    assert estimate(SHAPE, run_of(), prompt=10, evaluates=False).evaluation == 0
    plain, vllm = (estimate(SHAPE, run_of(), prompt=10, evaluates=False, rollouts=by) for by in ROLLOUTS)
    assert replace(vllm, sampling=vllm.sampling - 1000 * 2) == plain, "vLLM's own copy of the weights"


def test_a_packed_weight_is_half_a_byte_and_its_share_of_a_constant() -> None:
    """Of 1000 parameters 64 + 160 + 15 are packed, in 1 + 3 + 1 blocks; the 160 of one layer are unpacked for use."""
    packed = run_of(quantization="nf4")
    needed = estimate(SHAPE, packed, prompt=10, evaluates=True)
    weights = (1000 - 239 + 160) * 2 + 32 + 80 + 8 + 4 * (1 + 3 + 1)
    assert needed == replace(estimate(SHAPE, run_of(), prompt=10, evaluates=True), weights=weights)


def test_phi4_needs_a_third_of_the_memory_when_packed() -> None:
    shape = shape_of(Phi3Config(**MODELS["phi4-random"][0], pad_token_id=0), AdapterConfig())
    whole, packed = (estimate(shape, run_of(quantization=name), prompt=10, evaluates=False) for name in ("none", "nf4"))
    assert (round(whole.weights / 1e9, 1), round(packed.weights / 1e9, 1)) == (29.3, 10.1)


@pytest.mark.parametrize(("prompt", "sampling", "training"), [(4000, 35.9, 32.1), (9000, 42.4, None)])
def test_the_estimate_is_near_what_an_h200_took(prompt: int, sampling: float, training: float | None) -> None:
    """The GiB in docs/performance.md, peaks of torch's allocator; of training, all layers made again."""
    shape = shape_of(Phi3Config(**MODELS["phi4-random"][0], pad_token_id=0), AdapterConfig())
    run = run_of(questions=5, group=7, completion=400, rank=16, checkpointing=True, max_prompt_tokens=prompt)
    needed = estimate(shape, run, prompt=prompt, evaluates=False)
    held = needed.weights + needed.adapter
    assert (held + needed.sampling) / 2**30 == pytest.approx(sampling, rel=0.15)
    assert training is None or (held + needed.training) / 2**30 == pytest.approx(training, rel=0.15)


def test_with_checkpointing_a_layers_input_is_kept_and_one_question_counts() -> None:
    layer = 25 * (8 * 8 + (2 * 8 + 3 * 20) * 2) + 25 * 2 * 8 * 2 + 25 * 25 * 2
    for questions in (1, 3):
        run = run_of(questions=questions, checkpointing=True)
        assert estimate(SHAPE, run, prompt=10, evaluates=False).training == (
            25 * (2 * 8 * 2 + 4 * 2 * 2) + 2 * layer + (12 + 2) * 50 * 3 * 5
        )


def test_groups_decoded_together_hold_their_places_whoever_is_there_and_one_prompt_is_read() -> None:
    """Three groups of three: nine rows are twelve; the longest prompt that the run allows has 128 places.

    What the estimate says is what the decoder allocates: 2 layers, one head of 4 in bfloat16, keys and values.
    """
    run = run_of(decode="together", decode_groups=3, max_prompt_tokens=100)
    places = 3 * (128 + 3 * 16)
    needed = estimate(SHAPE, run, prompt=10, evaluates=False)
    assert needed.sampling == (places + 100) * 32 + 12 * 50 * 32 + 100 * 4 * 28 * 2
    assert needed.training == estimate(SHAPE, run_of(), prompt=10, evaluates=False).training
    model = LlamaForCausalLM(SMALL).to(torch.bfloat16)
    held = SharedDecoder(model, Decoded(3, 3, 100, 5), ends=(1,), pad=0)
    prompt = DynamicCache()
    model(input_ids=torch.ones(1, 100, dtype=torch.long), past_key_values=prompt, use_cache=True)
    layers = [*held._cache.layers, *prompt.layers]
    assert sum(layer.keys.nbytes + layer.values.nbytes for layer in layers) == (places + 100) * 32
    assert cached_bytes(SMALL, 2) == 32


def test_as_many_groups_are_decoded_together_as_a_site_samples_and_its_memory_holds() -> None:
    run = run_of(decode="together", max_prompt_tokens=100, questions=2)
    federation = {"population": 1000, "sites": 4, "sampling_rate": 0.014}
    run = run.model_copy(update={"federation": run.federation.model_copy(update=federation)})

    def chosen(memory: int | None, held: int = 0, run: RunConfig = run) -> int:
        return groups_together(run, cached=32, vocabulary=50, held=held, memory=memory)

    def needed(groups: int) -> int:
        return sampling_bytes(Decoded(groups, 3, 100, 5), cached=32, vocabulary=50, prompt=100)

    assert chosen(None) == chosen(10**9) == 7, "1000 / 4 x 0.014 patients of two questions"
    for groups in range(1, 7):
        enough = math.ceil((needed(groups) + 999) / 0.9)
        assert chosen(enough, 999) == groups and chosen(enough - 2, 999) == max(1, groups - 1)
    stated = run.model_copy(update={"grpo": run.grpo.model_copy(update={"decode_groups": 9})})
    assert chosen(1, 0, stated) == 9, "a run that says how many is taken at its word"
    many = run.model_copy(update={"grpo": run.grpo.model_copy(update={"decode_groups": 10**6})})
    assert chosen(1, 0, many) == 32
    crowd = run.model_copy(update={"federation": run.federation.model_copy(update={"population": 10**9})})
    assert chosen(None, 0, crowd) == 32
    reading = 100 * 4 * 28 * 2
    most, one = (estimate(SHAPE, run, prompt=10, evaluates=False, memory=it).sampling - reading for it in (10**9, 1))
    assert most == needed(7) > one == needed(1)


def test_only_the_largest_of_what_follows_one_another_counts() -> None:
    assert Memory(weights=10, adapter=1, sampling=5, training=7, evaluation=3).total == 18
    assert "18.0 GB (weights 10.0" in Memory(10**10, 10**9, 5 * 10**9, 7 * 10**9, 3 * 10**9).text


SIZES = ("parameters", "layers", "hidden", "intermediate", "heads", "key_heads", "head_width", "vocabulary")


@given(
    sizes=st.fixed_dictionaries({name: st.integers(1, 200) for name in SIZES}),
    asked=st.fixed_dictionaries({name: st.integers(2, 20) for name in ("questions", "group", "completion", "rank")}),
    prompt=st.integers(1, 500),
    checkpointing=st.booleans(),
    more=st.sampled_from([*SIZES, "questions", "group", "completion", "rank", "prompt", "adapted"]),
)
def test_more_of_anything_never_needs_less(
    sizes: dict[str, int], asked: dict[str, Any], prompt: int, checkpointing: bool, more: str
) -> None:
    def total(**changed: Any) -> int:
        whole: dict[str, Any] = {**sizes, **asked, "prompt": prompt, "adapted": ((4, 4),)} | changed
        shape = Shape(adapted=whole["adapted"], linear=whole["adapted"], **{name: whole[name] for name in SIZES})
        run = run_of(**{name: whole[name] for name in asked}, checkpointing=checkpointing)
        return estimate(shape, run, prompt=whole["prompt"], evaluates=True).total

    grown = (
        {"adapted": ((4, 4), (4, 4))} if more == "adapted" else {more: {**sizes, **asked, "prompt": prompt}[more] + 1}
    )
    assert total(**grown) >= total()


@pytest.mark.parametrize(("dtype", "quantization"), [("float32", "none"), ("bfloat16", "none"), ("bfloat16", "nf4")])
@pytest.mark.parametrize(("prompts", "group"), [(1, 4), (2, 3)])
def test_the_training_pass_keeps_what_the_estimate_says(
    dtype: str, quantization: str, prompts: int, group: int
) -> None:
    layers, length, completion, rank = 4, 150, 40, 8
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=128,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=2,
        intermediate_size=344,
    )
    model = LlamaForCausalLM(config).to(getattr(torch, dtype)).requires_grad_(False)
    if quantization == "nf4":
        pytest.importorskip("bitsandbytes")
        pack(model)
    adapted = add_lora(model, AdapterConfig(rank=rank, alpha=8), 0)
    frozen = {parameter.untyped_storage().data_ptr() for parameter in adapted.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in frozen:
            kept[place] = tensor
        return tensor

    rows = prompts * group
    sampled = Completions(torch.ones(rows, completion, dtype=torch.long), torch.ones(rows, completion), torch.zeros(0))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        completion_logprobs(adapted, [list(range(length))] * prompts, sampled, group_size=group, pad=0)
    real = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())

    asked = {"questions": prompts, "group": group, "completion": completion, "rank": rank}
    run = run_of(dtype, quantization=quantization, **asked)
    shape = shape_of(config, run.adapter)
    passing = (8 + run_bytes(dtype)) * 300 * rows * completion
    silent = replace(shape, vocabulary=0)
    layers_and_one = estimate(silent, run, prompt=length, evaluates=False).training
    at_work = layers_and_one // (layers + 1)
    whole = estimate(shape, run, prompt=length, evaluates=False).training
    assert 0.95 < (whole - at_work - passing) / real < 1.15


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("config", [LlamaConfig, Phi3Config])
def test_what_is_read_at_once_takes_what_the_estimate_says(
    config: type[LlamaConfig | Phi3Config], dtype: str, tmp_path: Path
) -> None:
    """The peak of torch's own record of what is allocated, while the prompts of an evaluation are read."""
    sizes = {"hidden_size": 128, "intermediate_size": 448, "num_attention_heads": 8, "num_key_value_heads": 2}
    stated = config(vocab_size=300, num_hidden_layers=4, pad_token_id=0, eos_token_id=1, **sizes)
    model = AutoModelForCausalLM.from_config(stated).to(getattr(torch, dtype)).eval()
    rows, prompt = 4, 300
    ids, mask = torch.ones(rows, prompt, dtype=torch.long), torch.ones(rows, prompt, dtype=torch.long)
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model(input_ids=ids, attention_mask=mask, use_cache=True, logits_to_keep=1)
    profiler.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    memory = sorted((each for each in events if each.get("name") == "[memory]"), key=lambda each: each["ts"])
    real = max(accumulate(each["args"]["Bytes"] for each in memory))
    run = run_of(dtype, max_prompt_tokens=prompt, completion=1)
    needed = estimate(shape_of(stated, run.adapter), run, prompt=prompt, evaluates=True).evaluation
    assert 0.95 < needed / batch_rows(prompt, 1) * rows / real < 1.3


def run_bytes(dtype: str) -> int:
    return {"float32": 4, "bfloat16": 2}[dtype]


def test_the_shape_is_that_of_the_model_on_this_machine(small_model: Path) -> None:
    run = run_of(base=str(small_model), rank=3)
    shape, model = local_shape(run, synthetic.codebook()), LlamaForCausalLM.from_pretrained(small_model)
    assert shape is not None and shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    adapted = add_lora(model, run.adapter, 0)
    wanted = sum(parameter.numel() for name, parameter in adapted.named_parameters() if "lora_" in name)
    assert 3 * sum(map(sum, shape.adapted)) == wanted
    some = shape_of(model.config, AdapterConfig(target_modules=("q_proj", "v_proj")))
    assert len(some.adapted) == 2 * shape.layers
    tokenizer = local_tokenizer(run, synthetic.codebook())
    assert tokenizer is not None and len(tokenizer) == shape.vocabulary


def test_a_small_model_that_was_never_made_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDREASON_CACHE", str(tmp_path))
    run = RunConfig.model_validate(
        {
            "name": "small",
            "federation": {"name": "f", "rounds": 1, "sites": 1, "population": 1, "sampling_rate": 1},
            "optimizer": {"learning_rate": 1},
        }
    )
    assert local_tokenizer(run, synthetic.codebook()) is None
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
