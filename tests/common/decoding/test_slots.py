"""Slots: shapes that never change, rows that take over from one another, nothing that stays behind."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from client.grpo.log import UNWATCHED, Watch
from client.grpo.sampler import TransformersSampler
from client.grpo.selftest import isolated, require_isolated
from client.node.handlers import HANDLERS, answer
from client.privacy.ledger import Ledger
from client.training import engine as engines
from client.training.engine import Engine
from common import synthetic
from common.config import GrpoConfig
from common.decoding.generate import Completions, generate
from common.decoding.graph import Replayed
from common.decoding.slots import Slots, capacity, generate_in_slots, slot_count
from common.errors import Code, FedReasonError
from common.messages.kinds import Task
from common.questions.question import QuestionMaker
from simulation.prepare import prepare
from tests.client.grpo.test_grpo import load, with_random_b
from tests.client.privacy.test_dp import private_config
from tests.small import small_config

PROMPTS = [[number % 500 + 5 for number in range(length)] for length in (40, 9, 130, 33, 64, 5, 90)]
GROUP, LONGEST = 5, 20
SHAPE = {"group_size": GROUP, "max_tokens": LONGEST, "pad": 0}
UNIFORMS = torch.rand(len(PROMPTS), GROUP, LONGEST, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
IN_SLOTS = GrpoConfig(group_size=4, max_prompt_tokens=80, max_completion_tokens=8, decode="slots", decode_groups=2)
Model = tuple[torch.nn.Module, Any, int]


@pytest.fixture(params=["float32", "bfloat16"])
def ending(small_model: Path, request: pytest.FixtureRequest) -> Model:
    """A model, its tokenizer, and the token that it writes most, to be taken for the end: rows of all lengths."""
    model, tokenizer = load(small_model, request.param)
    with_random_b(model)
    done = generate(model, PROMPTS, eos=-1, uniforms=UNIFORMS.flatten(0, 1), **SHAPE)
    return model, tokenizer, int(done.tokens.flatten().bincount().argmax())


def sampled(given: Model, order: list[int], slots: int) -> list[list[torch.Tensor]]:
    """Groups of these prompts, decoded in this order."""
    model, _, end = given
    done = generate_in_slots(
        model, [PROMPTS[i] for i in order], slots=slots, eos=end, uniforms=UNIFORMS[order].flatten(0, 1), **SHAPE
    )
    return [list(group) for group in zip(*(tensor.split(GROUP) for tensor in vars(done).values()), strict=True)]


@pytest.mark.parametrize("slots", [8, 12, 40])
def test_a_group_has_the_same_bits_alone_among_others_and_in_another_order(ending: Model, slots: int) -> None:
    everyone = list(range(len(PROMPTS)))
    among, backwards = sampled(ending, everyone, slots), sampled(ending, everyone[::-1], slots)[::-1]
    assert len({int(length) for group in among for length in group[1].sum(1)}) > 5, "rows end at different times"
    for number in everyone:
        (alone,) = sampled(ending, [number], slots)
        for other in (among[number], backwards[number]):
            assert all(torch.equal(one, two) for one, two in zip(alone, other, strict=True))


def test_slots_give_what_a_batch_of_the_prompt_alone_gives(small_model: Path) -> None:
    model, tokenizer = load(small_model)
    with_random_b(model)
    for end in (tokenizer.eos_token_id, *range(40, 60)):
        options: dict[str, Any] = {"eos": end, "uniforms": UNIFORMS.flatten(0, 1), **SHAPE}
        here, there = generate_in_slots(model, PROMPTS, slots=8, **options), generate(model, PROMPTS, **options)
        assert torch.equal(here.tokens, there.tokens) and torch.equal(here.mask, there.mask)
        assert torch.allclose(here.logprobs, there.logprobs, atol=1e-4)


def test_every_prompt_is_read_alone_and_every_other_pass_has_one_shape_a_capacity(
    ending: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[tuple[tuple[int, ...], int]] = []
    alive: weakref.WeakSet[DynamicCache] = weakref.WeakSet()
    forward = type(ending[0].get_base_model()).forward  # type: ignore[operator]

    class Counted(DynamicCache):
        def __init__(self) -> None:
            super().__init__()
            alive.add(self)

    def watched(self: Any, *arguments: Any, **named: Any) -> Any:
        passes.append((tuple(named["input_ids"].shape), len(alive)))
        return forward(self, *arguments, **named)

    monkeypatch.setattr(type(ending[0].get_base_model()), "forward", watched)  # type: ignore[operator]
    monkeypatch.setattr("common.decoding.slots.DynamicCache", Counted)
    groups = sampled(ending, list(range(len(PROMPTS))), 8)
    written = sum(int(group[1].sum()) for group in groups)
    shapes = [shape for shape, _ in passes]
    assert sorted(shape[1] for shape in shapes if shape[0] == 1) == sorted(map(len, PROMPTS))
    steps = [shape for shape in shapes if shape[0] != 1]
    assert set(steps) == {(8, 1)}
    assert (written - GROUP * len(PROMPTS)) / 8 <= len(steps) < written / 3, "slots are handed on row by row"
    assert max(count for _, count in passes) <= 2, "the slots' and that of one prompt"


def test_one_token_is_drawn_without_a_slot(small_model: Path) -> None:
    model, _ = load(small_model)
    options: dict[str, Any] = {"group_size": GROUP, "max_tokens": 1, "pad": 0, "eos": -1}
    uniforms = UNIFORMS[..., 0].flatten()[:, None]
    done = generate_in_slots(model, PROMPTS, slots=8, uniforms=uniforms, **options)
    assert torch.equal(done.tokens, generate(model, PROMPTS, uniforms=uniforms, **options).tokens)
    assert done.tokens.shape == (len(PROMPTS) * GROUP, 1) and done.mask.all()


def test_nothing_of_who_was_in_a_slot_stays_not_even_what_is_no_number(small_model: Path) -> None:
    model, _ = load(small_model)
    prompt = DynamicCache()
    model(input_ids=torch.tensor([PROMPTS[1]]), past_key_values=prompt, use_cache=True)

    @torch.no_grad()
    def logits(broken: bool) -> torch.Tensor:
        slots = Slots(model, 4, 64)
        slots.admit([1], prompt)
        if broken:
            for layer in slots._cache.layers:
                layer.keys[:], layer.values[:] = float("nan"), float("nan")
            slots.step(torch.full((4,), 7))
            slots.release([1])
            slots.admit([1], prompt)
        return slots.step(torch.full((4,), 7))[1]

    assert torch.equal(logits(True), logits(False)) and logits(True).isfinite().all()


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_angles_that_follow_the_longest_row_of_a_batch_are_refused(kind: str) -> None:
    rope: dict[str, Any] = {"rope_type": kind, "factor": 4.0, "rope_theta": 1e4}
    if kind == "longrope":
        rope |= {"short_factor": [1.0] * 2, "long_factor": [2.0] * 2, "original_max_position_embeddings": 64}
    sizes = {"vocab_size": 50, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(**sizes, intermediate_size=8, rope_parameters=rope)
    with pytest.raises(FedReasonError) as refused:
        Slots(LlamaForCausalLM(config), 4, 64)
    assert refused.value.code is Code.ROLLOUTS_SHARED and kind in refused.value.found


@given(
    prompt=st.integers(1, 20_000), completion=st.integers(1, 4000), groups=st.integers(1, 50), size=st.integers(2, 20)
)
def test_slots_and_their_places_are_enough_and_few_too_many(
    prompt: int, completion: int, groups: int, size: int
) -> None:
    places = capacity(prompt, completion)
    assert prompt + completion <= places < prompt + completion + (64 if prompt + completion <= 1024 else 512)
    assert places % 64 == 0 and places <= capacity(prompt + 1, completion)
    assert groups * size <= slot_count(groups, size) < groups * size + 4


def test_a_function_that_is_replayed_is_simply_called_on_a_cpu() -> None:
    buffer, replayed = torch.zeros(2), Replayed(torch.device("cpu"))
    assert replayed.step(lambda: buffer + 1).tolist() == [1, 1]
    buffer += 4
    assert replayed.step(lambda: buffer + 1).tolist() == [5, 5]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_new_adapter_stands_where_the_old_one_stood(small_model: Path, dtype: str) -> None:
    engine = engine_of(small_model, dtype)

    def places() -> list[int]:
        return [parameter.data_ptr() for parameter in (*engine.policy.model.parameters(), *engine.model.parameters())]

    before = places()
    engine.set_adapter(np.ones(engine.layout.size, dtype=np.float32))
    assert places() == before


def engine_of(small_model: Path, dtype: str) -> Engine:
    config = small_config(small_model)
    return Engine(config.model_copy(update={"model": config.model.model_copy(update={"dtype": dtype})}), None, "cpu")


class Leaky(TransformersSampler):
    """Gives a prompt the random numbers of its place."""

    def sample(self, prompts: Any, uniforms: torch.Tensor, config: GrpoConfig, watch: Watch = UNWATCHED) -> Completions:
        shift = torch.arange(len(prompts))[:, None, None] / 1000
        return super().sample(prompts, (uniforms + shift) % 1, config, watch)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_trial_holds_for_slots_and_not_for_who_looks_at_others(small_model: Path, dtype: str) -> None:
    engine = engine_of(small_model, dtype)
    engine.set_adapter(np.full(engine.layout.size, 0.01, dtype=np.float32))
    trial: Callable[..., bool] = partial(isolated, vocabulary=len(engine.tokenizer))
    assert trial(engine.sampler, IN_SLOTS)
    assert not trial(engine.sampler, IN_SLOTS.model_copy(update={"decode": "free"}))
    leaky = Leaky.of(engine.policy.model, engine.tokenizer)
    assert not trial(leaky, IN_SLOTS)
    with pytest.raises(FedReasonError, match="E853"):
        require_isolated(leaky, IN_SLOTS, vocabulary=len(engine.tokenizer))


def test_a_private_run_is_refused_before_a_patient_is_asked_where_slots_do_not_keep_prompts_apart(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = private_config(small_model, grpo={"decode": "slots", "decode_groups": 2})
    folder = next(iter(prepare(config, synthetic.codebook(), tmp_path).values()))
    size = engine_of(small_model, "float32").layout.size
    drawn: list[object] = []
    draw = QuestionMaker.draw
    monkeypatch.setattr(QuestionMaker, "draw", lambda *given: drawn.append(given) or draw(*given))
    codes: dict[type, set[object]] = {}
    for sampler in (Leaky, TransformersSampler):
        monkeypatch.setattr("client.training.engine.TransformersSampler", sampler)
        monkeypatch.setattr("client.training.engine._ENGINES", type(engines._ENGINES)())
        tasks = {kind: Task(config, int(kind == "train"), 0, np.zeros(size, np.float32)) for kind in HANDLERS}
        replies = [answer(folder, HANDLERS[kind], tasks[kind]) for kind in ("query", "query.ask", "train")]
        codes[sampler] = {getattr(reply, "code", None) for reply in replies}
        assert bool(drawn) == bool(Ledger.opened(folder).entries()) == (sampler is TransformersSampler)
    assert codes == {Leaky: {int(Code.ROLLOUTS_SHARED)}, TransformersSampler: {None}}


def test_an_engine_tries_once_and_keeps_its_adapter(small_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(small_model, "float32")
    adapter = np.linspace(-1, 1, engine.layout.size, dtype=np.float32)
    engine.set_adapter(adapter)
    tried: list[GrpoConfig] = []
    monkeypatch.setattr("client.training.engine.require_isolated", lambda _, config, vocabulary: tried.append(config))
    engine.require_isolated(IN_SLOTS.model_copy(update={"decode": "patient"}))
    assert tried == []
    for _ in range(2):
        engine.require_isolated(IN_SLOTS)
    engine.require_isolated(IN_SLOTS.model_copy(update={"group_size": 3}))
    assert len(tried) == 2
    assert np.array_equal(np.concatenate([p.detach().flatten() for p in trained(engine)]), adapter)


def trained(engine: Engine) -> list[torch.nn.Parameter]:
    return [p for _, p in sorted(engine.model.named_parameters()) if p.requires_grad]
