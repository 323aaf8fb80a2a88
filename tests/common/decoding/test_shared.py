"""Groups that share a prompt: tokens as a plain batch gives them, nothing that stays, a step that can be recorded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache, GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

from common.config import AdapterConfig
from common.decoding import attend as attention
from common.decoding.attend import Places, Shape
from common.decoding.generate import Completions, generate
from common.decoding.shared import FAMILIES as DECODED
from common.decoding.shared import SharedDecoder, generate_shared
from common.errors import Code, FedReasonError
from common.model.adapter import trainable
from common.model.base import add_lora
from common.model.policy import Policy
from tests.families import FAMILIES, random_base
from tests.small import make_small_tokenizer
from tests.tuned import with_random_b

pytestmark = pytest.mark.model

PROMPTS = [[number % 500 + 5 for number in range(length)] for length in (40, 9, 100, 33, 5)]
GROUP, LONGEST = 5, 9
UNIFORMS = torch.rand(len(PROMPTS), GROUP, LONGEST, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
TOKENIZER = make_small_tokenizer()
SHAPE = Shape(3, GROUP, 100, LONGEST, piece=32)
Model = tuple[torch.nn.Module, int]


def flash(
    query: Tensor, key: Tensor, value: Tensor, query_ends: Tensor, key_starts: Tensor, most_queries: int,
    most_keys: int, dropout: float, causal: bool, debug: bool, *, scale: float, seqused_k: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What torch's FlashAttention does with sequences of lengths of their own, slowly."""
    assert all(each.dtype == torch.int32 for each in (query_ends, key_starts, seqused_k)) and not (causal or debug)
    assert query.dim() == key.dim() == 3 and len(query_ends) == len(key_starts) == len(seqused_k) + 1
    assert query_ends[-1] == len(query) and dropout == 0.0
    outputs, weights = torch.zeros_like(query), torch.full((1, len(query)), torch.inf, dtype=query.dtype)
    for place, used in enumerate(seqused_k.tolist()):
        mine = slice(int(query_ends[place]), int(query_ends[place + 1]))
        assert mine.stop - mine.start <= most_queries and 0 <= used <= most_keys
        if used:
            start = int(key_starts[place])
            keys, values = (held[start : start + used, 0] for held in (key, value))
            assert len(keys) == used
            scores = query[mine, 0] @ keys.T * scale
            outputs[mine, 0], weights[0, mine] = scores.softmax(-1) @ values, scores.logsumexp(-1)
    return outputs, weights


@contextmanager
def way(name: str) -> Iterator[None]:
    """Decode as on a CPU ("ranges"), or as a recorded step does: under "masks", or by FlashAttention ("sequences")."""
    begin = SharedDecoder.__init__
    takes = (lambda query, softcap: softcap is None) if name == "sequences" else (lambda query, softcap: False)

    def recorded(self: SharedDecoder, *given: Any, **named: Any) -> None:
        begin(self, *given, recorded=name != "ranges", **named)

    with (
        patch.object(SharedDecoder, "__init__", recorded),
        patch.object(attention, "takes_flash", takes),
        patch.object(attention, "_flash", flash),
    ):
        yield


WAYS = pytest.mark.parametrize("how", ["ranges", "masks", "sequences"])


def often(model: torch.nn.Module) -> int:
    """Return the token that a model writes most, to be taken for the end: rows of all lengths."""
    written = torch.cat([group.tokens.flatten() for group in one_by_one((model, -1))])
    return int(written.bincount().argmax())


@cache
def made(family: str, dtype: torch.dtype) -> Model:
    model = random_base(family, TOKENIZER, dtype)
    return model, often(model)


def in_groups(given: Model, order: list[int], shape: Shape = SHAPE, **options: Any) -> list[Completions]:
    """Return the groups of these prompts, decoded in this order."""
    model, end = given
    named: dict[str, Any] = {
        "shape": shape,
        "ends": (end,),
        "pad": 0,
        "uniforms": UNIFORMS[order].flatten(0, 1),
        **options,
    }
    done = generate_shared(model, [PROMPTS[i] for i in order], **named)
    return [Completions(*each) for each in zip(*(t.split(shape.size) for t in vars(done).values()), strict=True)]


def one_by_one(given: Model, **options: Any) -> list[Completions]:
    """Return what a plain batch of each prompt's own gives, without padding."""
    model, end = given
    named: dict[str, Any] = {"group_size": GROUP, "max_tokens": LONGEST, "ends": (end,), "pad": 0, **options}
    return [generate(model, [prompt], uniforms=own, **named) for prompt, own in zip(PROMPTS, UNIFORMS, strict=True)]


@cache
def as_expected(family: str, dtype: torch.dtype, options: frozenset[tuple[str, float]]) -> list[Completions]:
    return one_by_one(made(family, dtype), **dict(options))


def alike(some: list[Completions], others: list[Completions], near: float) -> bool:
    """Whether tokens and lengths are the same, and log-probabilities so near; to the last bit where that is 0."""
    pairs = list(zip(some, others, strict=True))
    same = all(torch.equal(one.tokens, two.tokens) and torch.equal(one.mask, two.mask) for one, two in pairs)
    return same and all(bool(((one.logprobs - two.logprobs).abs() <= near).all()) for one, two in pairs)


@WAYS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("family", FAMILIES)
def test_groups_write_what_a_plain_batch_of_their_prompt_writes(family: str, dtype: torch.dtype, how: str) -> None:
    given = made(family, dtype)
    for options in (frozenset(), frozenset({("top_p", 0.9), ("temperature", 1.2)}))[: 1 + (dtype == torch.float64)]:
        expected = as_expected(family, dtype, options)
        with way(how):
            assert alike(in_groups(given, list(range(len(PROMPTS))), **dict(options)), expected, 1e-5)
    lengths = {int(length) for group in as_expected(family, dtype, frozenset()) for length in group.mask.sum(1)}
    assert len(lengths) > 1, "rows end at different times"


def test_every_family_of_the_tests_is_decoded_in_groups() -> None:
    assert {kind().model_type for kind, _ in FAMILIES.values()} == DECODED


@pytest.mark.parametrize("how", ["ranges", "masks"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("groups", [2, 3])
@pytest.mark.parametrize("family", ["llama", "phi3 and phi4"])
def test_a_group_has_the_same_bits_whoever_is_beside_it(family: str, groups: int, dtype: torch.dtype, how: str) -> None:
    given, everyone = made(family, dtype), list(range(len(PROMPTS)))
    shape = Shape(groups, GROUP, 100, LONGEST)
    with way(how):
        among = in_groups(given, everyone, shape)
        assert alike(among, in_groups(given, everyone[::-1], shape)[::-1], 0.0)
        for number in everyone:
            assert alike([among[number]], in_groups(given, [number], shape), 0.0)
        with patch.dict(globals(), {"PROMPTS": [PROMPTS[0], *(prompt[::-1] for prompt in PROMPTS[1:])]}):
            others = in_groups(given, everyone, shape)
        assert alike(among[:1], others[:1], 0.0) and not alike(among[1:], others[1:], 0.0), "the others did change"


def _longer(by: int) -> Any:
    """A group's prompt is taken for some tokens longer than it is."""
    take = Places.take

    def wrong(self: Places, group: int, length: int) -> None:
        take(self, group, length + by)

    return patch.object(Places, "take", wrong)


def _without_maximum() -> Any:
    """Parts are put together by their weights as they are, which scores above 88 make infinite."""

    def wrong(outputs: Tensor, weights: Tensor) -> Tensor:
        return (weights.exp()[..., None] * outputs).sum(0) / weights.exp().sum(0)[..., None]

    return patch.object(attention, "merged", wrong)


def _without_weights() -> Any:
    return patch.object(attention, "merged", lambda outputs, weights: outputs.mean(0))


def _stale() -> Any:
    """A row sees all its places, with what an earlier one left there."""
    begin = Places.begin_step

    def wrong(self: Places) -> None:
        begin(self)
        for seen in self.seen.values():
            if self.recorded:
                seen.said = torch.ones_like(seen.said)
                suffixes = self._suffixes.numel()
                seen.used[-suffixes:], seen.starts[-suffixes - 1 : -1] = LONGEST, self._suffixes.flatten().int()
            else:
                seen.ranges = [(start, length, 0, LONGEST) for start, length, _, _ in seen.ranges]

    return patch.object(Places, "begin_step", wrong)


def _sharp(given: Model) -> Model:
    """Scores far above what the exponential of a float32 holds."""
    model = deepcopy(given[0])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "q_proj" in name:
                parameter.mul_(200.0)
    return model, -1


@WAYS
@pytest.mark.parametrize("wrong", [None, _longer(1), _longer(-1), _without_maximum(), _without_weights(), _stale()],
                         ids=["right", "longer", "shorter", "maximum", "weights", "stale"])  # fmt: skip
def test_what_is_wrong_by_a_place_or_a_weight_is_seen_in_the_tokens(wrong: Any, how: str) -> None:
    given = _sharp(made("llama", torch.float32))
    expected = one_by_one(given)
    with way(how):
        assert alike(in_groups(given, list(range(len(PROMPTS)))), expected, 1e-3)
        if wrong is not None:
            with wrong:
                assert not alike(in_groups(given, list(range(len(PROMPTS)))), expected, 1e-3)


@pytest.mark.parametrize("how", ["ranges", "masks"])
def test_nothing_of_who_was_there_stays_not_even_what_is_no_number(how: str) -> None:
    given, take = made("phi3 and phi4", torch.float32), SharedDecoder.admit
    everyone = list(range(len(PROMPTS)))
    clean = in_groups(given, everyone)

    def after_nobody(self: SharedDecoder, group: int, *admitted: Any) -> None:
        where = self.places
        for layer in self._cache.layers:
            for held in (layer.keys, layer.values):
                assert held is not None
                held[: where.cut].view(self.shape.groups, -1)[group] = torch.nan
                held[where.cut :].view(self.shape.groups, -1)[group] = torch.nan
        where.spoken[group] = LONGEST - 2
        take(self, group, *admitted)

    with way(how), patch.object(SharedDecoder, "admit", after_nobody):
        assert alike(in_groups(given, everyone), clean, 1e-4)


def test_every_prompt_is_read_alone_and_every_other_pass_has_one_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    given = deepcopy(made("llama", torch.float32)[0]), made("llama", torch.float32)[1]
    passes: list[tuple[int, ...]] = []
    given[0].register_forward_pre_hook(lambda _, __, named: passes.append(named["input_ids"].shape), with_kwargs=True)
    written = [int(group.mask.sum(1).max()) for group in in_groups(given, list(range(len(PROMPTS))))]
    assert sorted(shape[1] for shape in passes if shape[0] == 1) == sorted(map(len, PROMPTS))
    steps = [shape for shape in passes if shape[0] != 1]
    assert set(steps) == {(SHAPE.rows, 1)} and SHAPE.rows == 16
    going = [length - 1 for length in written]
    assert sum(going) / SHAPE.groups <= len(steps) < sum(going), "groups are handed on"


def test_one_token_is_drawn_without_a_step() -> None:
    given = made("llama", torch.float32)
    uniforms = UNIFORMS[..., :1].flatten(0, 1)
    done = generate_shared(given[0], PROMPTS, shape=Shape(2, GROUP, 100, 1), ends=(-1,), pad=0, uniforms=uniforms)
    plain = generate(given[0], PROMPTS, group_size=GROUP, max_tokens=1, ends=(-1,), pad=0, uniforms=uniforms)
    assert torch.equal(done.tokens, plain.tokens) and done.mask.all() and done.tokens.shape == (25, 1)


def test_a_prompt_or_numbers_that_do_not_fit_the_shape_are_refused() -> None:
    given = made("llama", torch.float32)
    for shape in (Shape(3, GROUP, 99, LONGEST), Shape(3, GROUP, 100, LONGEST + 1)):
        with pytest.raises(ValueError, match="fit the shape"):
            in_groups(given, list(range(len(PROMPTS))), shape)


@pytest.mark.parametrize("kind", ["longrope", "dynamic", "gpt_neox"])
def test_models_that_cannot_be_decoded_in_groups_are_refused_by_number(kind: str) -> None:
    sizes = {"vocab_size": 600, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    rope: dict[str, Any] = {"rope_type": kind, "factor": 4.0, "rope_theta": 1e4}
    if kind == "longrope":
        rope |= {"short_factor": [1.0] * 2, "long_factor": [2.0] * 2, "original_max_position_embeddings": 64}
    if kind == "gpt_neox":
        model: torch.nn.Module = GPTNeoXForCausalLM(GPTNeoXConfig(**sizes, intermediate_size=8))
    else:
        model = LlamaForCausalLM(LlamaConfig(**sizes, intermediate_size=8, rope_parameters=rope))
    with pytest.raises(FedReasonError) as refused:
        in_groups((model, 1), [0])
    assert refused.value.code is Code.ROLLOUTS_SHARED and kind in refused.value.found
    assert "patient" in refused.value.fix


@given(
    groups=st.integers(1, 50), size=st.integers(2, 20), prompt=st.integers(1, 20_000), completion=st.integers(1, 4000)
)
def test_a_shape_has_enough_places_and_few_too_many(groups: int, size: int, prompt: int, completion: int) -> None:
    shape = Shape(groups, size, prompt, completion)
    assert groups * size <= shape.rows < groups * size + 4 and shape.rows % 4 == 0
    assert prompt <= shape.prompt_places < prompt + 64 and completion <= shape.completion_places < completion + 16
    assert shape.places == groups * (shape.prompt_places + size * shape.completion_places)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_decoder_goes_on_with_the_adapter_that_there_is_now(dtype: torch.dtype) -> None:
    adapted = with_random_b(add_lora(random_base("llama", TOKENIZER, dtype), AdapterConfig(rank=4, alpha=8), 0))
    policy = Policy(adapted)
    kept: list[SharedDecoder] = []

    def logprobs(decoder: SharedDecoder) -> Tensor:
        cache = DynamicCache()
        with torch.no_grad():
            policy.model(input_ids=torch.tensor([PROMPTS[0]]), past_key_values=cache, use_cache=True)
        first = Completions(*(torch.full((GROUP, LONGEST), value) for value in (7, 1, 0.0)))
        decoder.admit(1, cache, UNIFORMS[0], first)
        for _ in range(LONGEST):
            decoder.step()
        return decoder.written(1).logprobs

    for scale in (1.0, 3.0):
        with torch.no_grad():
            for parameter in trainable(adapted):
                parameter.mul_(scale)
        policy.refresh()
        kept.append(SharedDecoder(policy.model, SHAPE, ends=(-1,), pad=0))
        assert torch.equal(logprobs(kept[0]), logprobs(kept[-1]))
    assert not torch.equal(logprobs(kept[0])[:, 1], torch.zeros(GROUP))


class Watched(TorchDispatchMode):
    """Keeps the operations of a step, and which of them add numbers that are no integers one behind another."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        name = function.overloadpacket.__name__
        whole = name == "cumsum" and not given[0].is_floating_point()
        self.seen.add("integer cumsum" if whole else name)
        return function(*given, **(named or {}))


@pytest.mark.parametrize("top_p", [1.0, 0.9])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_recorded_step_waits_for_no_device_and_has_a_deterministic_form(family: str, top_p: float) -> None:
    """As far as a machine without CUDA can tell: by the names of its operations."""
    decoder = SharedDecoder(random_base(family, TOKENIZER), SHAPE, ends=(1,), pad=0, top_p=top_p, recorded=True)
    torch.use_deterministic_algorithms(True)
    try:
        decoder.step()
        with Watched() as watched:
            decoder.step()
    finally:
        torch.use_deterministic_algorithms(False)
    waits = {"_local_scalar_dense", "nonzero", "masked_select", "unique", "item", "lift_fresh"}
    unordered = {"cumsum", "cumprod", "scatter", "scatter_", "scatter_add_", "index_add_", "put_", "bincount", "histc"}
    assert "integer cumsum" in watched.seen and not watched.seen & (waits | unordered)
