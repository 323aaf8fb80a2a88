"""The estimate of memory: the sum that a person makes by hand, never less for more, and what torch really keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, Phi3Config

from bench.grpo_work import MODELS, pack
from client.grpo.forked import completion_logprobs
from client.inspection.local_model import local_shape, local_tokenizer, shape_of
from client.inspection.memory import Memory, Shape, estimate
from client.site.config import Rollouts
from common import synthetic
from common.config import AdapterConfig, RunConfig
from common.decoding.generate import Completions
from common.decoding.slots import Slots, capacity, slot_count
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

    Of two layers one holds the prompt's keys again while they are copied: 5 more in the mean.
    """
    layer = 25 * (8 * 8 + (2 * 8 + 3 * 20) * 2) + 55 * 2 * 8 * 2 + 3 * 5 * 15 * 2
    assert estimate(SHAPE, run_of(), prompt=10, evaluates=True) == Memory(
        weights=1000 * 2,
        adapter=4 * 2 * (8 + 2 * 8 + 8 + 2 * 20),
        sampling=50 * 2 * 2 * 4 * 2 + 3 * 50 * 4 * 5,
        training=3 * layer + 4 * 2 * 2 * 25 + (12 + 2) * 50 * 3 * 5,
        evaluation=64 * 20 * 2 * 2 * 4 * 2,
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


def test_with_checkpointing_a_layers_input_is_kept_and_one_question_counts() -> None:
    layer = 25 * (8 * 8 + (2 * 8 + 3 * 20) * 2) + 25 * 2 * 8 * 2 + 25 * 25 * 2
    for questions in (1, 3):
        run = run_of(questions=questions, checkpointing=True)
        assert estimate(SHAPE, run, prompt=10, evaluates=False).training == (
            25 * (2 * 8 * 2 + 4 * 2 * 2) + 2 * layer + (12 + 2) * 50 * 3 * 5
        )


def test_groups_that_are_decoded_together_need_their_caches_together() -> None:
    one, four = (
        estimate(SHAPE, run_of(**decode), prompt=10, evaluates=False)
        for decode in ({}, {"decode": "free", "decode_groups": 4})
    )
    assert four.sampling == 4 * one.sampling and four.training == one.training


def test_slots_hold_their_places_whoever_is_there_and_one_prompt_waits() -> None:
    """Three groups of three have twelve slots, each of 64 places for 15 tokens; 32 bytes a token, 50 in the vocabulary.

    What the estimate says is what the slots allocate: 2 layers, one head of 4 in bfloat16, keys and values.
    """
    slots = estimate(SHAPE, run_of(decode="slots", decode_groups=3), prompt=10, evaluates=False)
    assert slots.sampling == (12 * 64 + 10) * 32 + 12 * 50 * 4 * 5
    held = Slots(LlamaForCausalLM(SMALL).to(torch.bfloat16), slot_count(3, 3), capacity(10, 5))
    prompt = DynamicCache()
    held._model(input_ids=torch.ones(1, 10, dtype=torch.long), past_key_values=prompt, use_cache=True)
    held.admit([0], prompt)
    layers = [*held._cache.layers, *prompt.layers]
    assert sum(layer.keys.nbytes + layer.values.nbytes for layer in layers) == (12 * 64 + 10) * 32


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
