"""A packed row in parts: the numbers of its dense mask, used where it is held to work, and the model as it was."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import GptOssConfig, LlamaConfig, MistralConfig, Phi3Config, PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from bench.grpo_work import MODELS, named_model
from client.grpo import attention, packed, parts
from client.grpo.attention import attention_for, takes_parts
from client.grpo.parts import split
from common.decoding.generate import Completions
from common.decoding.row import PackedRow, packed_row
from common.model.adapter import trainable
from tests.examples import examples


def row_of(prompt: int, lengths: list[int]) -> PackedRow:
    tokens = torch.full((len(lengths), max(lengths)), 7)
    return packed_row([5] * prompt, tokens, torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None])


def masked(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, row: PackedRow, scaling: float) -> torch.Tensor:
    """Attention under the whole square's mask: [1, L, H, d]."""
    done = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, row.visible()[None, None], scale=scaling, enable_gqa=True
    )
    return done.transpose(1, 2)


@given(
    st.integers(1, 40),
    st.lists(st.integers(0, 20), min_size=1, max_size=5).filter(any),
    st.sampled_from([(1, 1), (4, 2), (6, 2), (4, 1)]),
    st.integers(0, 2**16),
)
@examples(60)
def test_a_row_in_parts_attends_and_is_differentiated_as_under_its_mask(
    prompt: int, lengths: list[int], heads: tuple[int, int], seed: int
) -> None:
    row, torch_seed = row_of(prompt, lengths), torch.Generator().manual_seed(seed)
    length = len(row.tokens)
    query, key, value = (
        torch.randn(1, count, length, 8, dtype=torch.float64, generator=torch_seed).requires_grad_()
        for count in (heads[0], heads[1], heads[1])
    )
    given = torch.randn(1, length, heads[0], 8, dtype=torch.float64, generator=torch_seed)
    wanted = masked(query, key, value, row, 0.3)
    found, _ = parts.attend(torch.nn.Module(), query, key, value, None, scaling=0.3, parts=split(row))
    assert torch.allclose(found, wanted, atol=1e-12)
    pairs = (torch.autograd.grad(each, (query, key, value), given) for each in (wanted, found))
    for theirs, ours in zip(*pairs, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-11)


def test_a_row_is_split_where_its_prompt_and_its_completions_end() -> None:
    own, far, near = split(row_of(7, [3, 0, 5]))
    assert [part.query_ends.tolist() for part in (own, far, near)] == [[0, 7], [0, 8], [0, 3, 3, 8]]
    assert [part.key_ends.tolist() for part in (own, far, near)] == [[0, 7], [0, 7], [0, 3, 3, 8]]
    assert [(part.most_queries, part.most_keys) for part in (own, far, near)] == [(7, 7), (8, 7), (5, 5)]


PROMPTS = [[5 + i for i in range(length)] for length in (40, 150)]


def completions(count: int = 6) -> Completions:
    tokens = torch.randint(2, 1000, (6, 9), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(9)[None] < torch.tensor([9, 3, 1, 9, 5, 8])[:, None]).long()
    return Completions(tokens[:count], mask[:count], torch.zeros(tokens[:count].shape))


def test_the_model_attends_as_before_when_the_pass_is_over_and_differentiated() -> None:
    model = named_model("tiny-random", "cpu")
    config, seen = model.get_base_model().config, []
    for layer in model.get_base_model().get_decoder().layers:
        layer.self_attn.register_forward_pre_hook(lambda *_: seen.append(config._attn_implementation))
    logprobs = packed.completion_logprobs(model, PROMPTS[:1], completions(3), group_size=3, attention="parts")
    assert seen == [parts.NAME] * 3 and config._attn_implementation == "sdpa"
    logprobs.sum().backward()
    assert seen == [parts.NAME] * 6, "the layers are made again as they were"
    assert config._attn_implementation == "sdpa"


@pytest.mark.parametrize("attending", ["dense", "parts"])
def test_layers_that_are_kept_and_layers_that_are_made_again_give_the_same_bits(
    attending: attention.Attention, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, made, found = named_model("tiny-random", "cpu"), [], []
    for layer in model.get_base_model().get_decoder().layers:
        layer.mlp.register_forward_pre_hook(lambda *_: made.append(1))
    for again in (3, 2, 0):
        monkeypatch.setattr(packed, "_again", lambda *_, again=again: again)
        logprobs = packed.completion_logprobs(model, PROMPTS[:1], completions(3), group_size=3, attention=attending)
        gradient = torch.autograd.grad(logprobs.sum(), trainable(model))
        found.append([each.numpy().tobytes() for each in (logprobs.detach(), *gradient)])
        assert len(made) == 3 + again
        made.clear()
    assert found[0] == found[1] == found[2]


def test_as_many_layers_are_kept_as_the_device_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    class Phi4:
        device, dtype = torch.device("cuda"), torch.bfloat16
        config = Phi3Config(**MODELS["phi4-random"][0], pad_token_id=0)

        def modules(self) -> list[GradientCheckpointingLayer]:
            return [GradientCheckpointingLayer() for _ in range(40)]

    def again(gib: float) -> int:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(gib * 2**30), 0))
        return packed._again(Phi4(), 6800, "parts")  # type: ignore[arg-type]

    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 2**30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 2**30)
    assert packed.kept_bytes(Phi4.config, 2) == 153_600
    assert (again(110), again(0)) == (0, 40) and 0 < again(20) < again(10) < 40
    assert packed._again(Phi4(), 6800, "dense") == 40, "masks of the whole square come on top"  # type: ignore[arg-type]


def test_the_model_attends_as_before_when_the_pass_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise NotImplementedError("no such attention")

    monkeypatch.setattr(parts, "_attended", broken)
    model = named_model("tiny-random", "cpu")
    with pytest.raises(NotImplementedError, match="no such attention"):
        packed.completion_logprobs(model, PROMPTS, completions(), group_size=3, attention="parts")
    assert model.get_base_model().config._attn_implementation == "sdpa"
    assert not any(module.training for module in model.modules())


def test_where_parts_are_not_held_to_work_they_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 32, "pad_token_id": 0}

    def taken(config: PreTrainedConfig) -> bool:
        with torch.device("meta"):
            return takes_parts(AutoModelForCausalLM.from_config(config))

    assert taken(LlamaConfig(**sizes, num_attention_heads=4))
    assert not taken(MistralConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, sliding_window=9)), "a window"
    assert not taken(GptOssConfig(**sizes, num_attention_heads=4, num_local_experts=2, head_dim=16)), "sinks"
    assert taken(Phi3Config(**MODELS["phi4-random"][0] | {"num_hidden_layers": 1}, pad_token_id=0))
    assert attention_for(named_model("tiny-random", "cpu").get_base_model()) == "dense", "a CPU goes on as it was"
    monkeypatch.setattr(attention, "flash_takes", lambda *_: True)
    assert attention_for(named_model("tiny-random", "cpu").get_base_model()) == "parts"
