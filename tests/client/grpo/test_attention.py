"""FlexAttention for the packed row: the same mask, the same numbers, few compilations, and the model as it was."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounter
from torch.nn.attention import flex_attention as flex
from transformers import GptOssConfig, LlamaConfig, Phi3Config, PreTrainedConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from bench.grpo_work import MODELS, named_model
from client.grpo import packed
from client.grpo.attention import BLOCK, attention_for, block_mask, mask_mod, takes_flex
from client.grpo.row import PackedRow, packed_row
from common.decoding.generate import Completions


def row_of(prompt: int, lengths: list[int]) -> PackedRow:
    tokens = torch.full((len(lengths), max(lengths)), 7)
    return packed_row([5] * prompt, tokens, torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None])


@given(
    st.integers(1, 3 * BLOCK),
    st.lists(st.integers(1, 2 * BLOCK), min_size=1, max_size=4),
    st.none() | st.integers(1, 4 * BLOCK),
)
@settings(max_examples=60, deadline=None)
def test_flex_attention_is_given_the_mask_of_the_dense_pass(
    prompt: int, lengths: list[int], window: int | None
) -> None:
    row = row_of(prompt, lengths)
    padded = row.padded(BLOCK)
    length, whole = len(row.tokens), len(padded.tokens)
    places = torch.arange(whole)
    sees = mask_mod(padded, window)
    visible = sees(0, 0, places[:, None], places[None, :])
    assert whole % BLOCK == 0 and whole - length < BLOCK
    assert torch.equal(visible, padded.visible(window))
    assert torch.equal(visible[:length, :length], row.visible(window))
    assert not visible[:length, length:].any(), "no token sees padding"
    assert visible.any(1).all(), "padding sees something: no softmax over nothing"
    ours, theirs = block_mask(padded, window), flex.create_block_mask(sees, 1, 1, whole, whole, device="cpu")
    assert torch.equal(ours.to_dense(), theirs.to_dense())
    for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    blocks = visible.view(whole // BLOCK, BLOCK, -1, BLOCK)
    assert int(ours.full_kv_num_blocks.sum()) == int(blocks.all(3).all(1).sum())  # type: ignore[union-attr]


def test_rows_of_all_lengths_with_and_without_a_window_share_what_is_compiled() -> None:
    counter = CompileCounter()
    attend = torch.compile(flex.flex_attention, backend=counter)
    with torch.no_grad():
        for prompt in (60, 150, 300, 40, 700, 500, 129):
            row = row_of(prompt, [3, 20]).padded(BLOCK)
            heads = torch.randn(1, 2, len(row.tokens), 16)
            for window in (None, 24):
                attend(heads, heads, heads, block_mask=block_mask(row, window))
    assert counter.frame_count == 2, "one for the first length, one for all others"


PROMPTS = [[5 + i for i in range(length)] for length in (40, 150)]


def completions(count: int = 6) -> Completions:
    tokens = torch.randint(2, 1000, (6, 9), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(9)[None] < torch.tensor([9, 3, 1, 9, 5, 8])[:, None]).long()
    return Completions(tokens[:count], mask[:count], torch.zeros(tokens[:count].shape))


@pytest.mark.usefixtures("flex_on_cpu")
def test_the_model_attends_as_before_when_the_pass_is_over_and_differentiated() -> None:
    model = named_model("tiny-random", "cpu")
    config, seen = model.get_base_model().config, []
    for layer in model.get_base_model().get_decoder().layers:
        layer.self_attn.register_forward_pre_hook(lambda *_: seen.append(config._attn_implementation))
    logprobs = packed.completion_logprobs(model, PROMPTS[:1], completions(3), group_size=3, attention="flex")
    assert seen == ["flex_attention"] * 3 and config._attn_implementation == "sdpa"
    logprobs.sum().backward()
    assert seen == ["flex_attention"] * 6, "the layers are made again as they were"
    assert config._attn_implementation == "sdpa"


def test_the_model_attends_as_before_when_the_pass_fails() -> None:
    model = named_model("tiny-random", "cpu")
    with pytest.raises(NotImplementedError, match="backward"):
        packed.completion_logprobs(model, PROMPTS, completions(), group_size=3, attention="flex")
    assert model.get_base_model().config._attn_implementation == "sdpa"
    assert not any(module.training for module in model.modules())


def test_where_flex_attention_is_not_held_to_work_it_is_not_used() -> None:
    sizes = {"vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 32, "pad_token_id": 0}

    def taken(config: PreTrainedConfig) -> bool:
        with torch.device("meta"):
            return takes_flex(AutoModelForCausalLM.from_config(config))

    assert taken(LlamaConfig(**sizes, num_attention_heads=4))
    assert not taken(LlamaConfig(**sizes, num_attention_heads=8)), "heads of width 8"
    assert not taken(LlamaConfig(**sizes, num_attention_heads=4, head_dim=80)), "no power of two"
    assert not taken(GptOssConfig(**sizes, num_attention_heads=4, num_local_experts=2, head_dim=16)), "sinks"
    assert taken(Phi3Config(**MODELS["phi4-random"][0] | {"num_hidden_layers": 1}, pad_token_id=0))
    assert attention_for(named_model("tiny-random", "cpu").get_base_model()) == "dense", "a CPU goes on as it was"
