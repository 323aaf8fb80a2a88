"""Rollouts: who is decoded with whom, which rows go on, which tokens may be drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from client.grpo.counts import Rollouts
from client.grpo.rollout import roll_out, roll_out_together
from client.grpo.sampler import TransformersSampler
from common.decoding import generate as generation
from common.decoding.generate import Completions, chosen_logprobs, generate, sample_token
from common.questions.question import Question
from common.stream import Stream
from tests.tuned import SETTINGS, asked, load, with_random_b


def same(one: Rollouts | None, other: Rollouts | None) -> bool:
    assert one is not None and other is not None
    return one.prompts == other.prompts and one.texts == other.texts and torch.equal(one.rewards, other.rewards)


@pytest.mark.parametrize("groups", [1, 3, 100])
def test_patients_decoded_together_get_what_they_get_alone(small_model: Path, groups: int) -> None:
    model, tokenizer = load(small_model)
    with_random_b(model)
    patients = [(questions, Stream.named("rollout", number)) for number, questions in enumerate(asked(6))]
    patients.insert(2, ([], Stream.named("nobody")))
    settings = SETTINGS.model_copy(update={"decode": "together", "decode_groups": groups})
    together = roll_out_together(TransformersSampler.of(model, tokenizer), tokenizer, patients, settings)
    assert together[2] is None
    for number, questions in enumerate(asked(6)):
        alone = roll_out(
            TransformersSampler.of(model, tokenizer), tokenizer, questions, SETTINGS, Stream.named("rollout", number)
        )
        mine = together[number + (number >= 2)]
        assert same(alone, mine)
        assert mine is not None and alone is not None
        assert torch.allclose(mine.completions.logprobs, alone.completions.logprobs, atol=1e-4)
        assert torch.equal(mine.advantages, alone.advantages)


def test_the_bits_of_a_patient_decoded_alone_or_together_depend_on_nobody_else(small_model: Path) -> None:
    model, tokenizer = load(small_model, "bfloat16")
    with_random_b(model)
    sampler, everyone = TransformersSampler.of(model, tokenizer), asked(16)

    def bits(patients: list[list[Question]], groups: int) -> torch.Tensor:
        """Return the log-probabilities of the first of these patients."""
        streams = [(questions, Stream.named("rollout", place)) for place, questions in enumerate(patients)]
        settings = SETTINGS.model_copy(update={"decode": "together", "decode_groups": groups})
        rolled = roll_out_together(sampler, tokenizer, streams, settings)
        assert rolled[0] is not None
        return rolled[0].completions.logprobs

    for groups in (2, 7):
        assert torch.equal(bits(everyone, groups), bits(everyone[:1], groups))
    plain = [roll_out(sampler, tokenizer, everyone[0], SETTINGS, Stream.named("rollout", 0)) for _ in range(2)]
    assert plain[0] is not None and plain[1] is not None
    assert torch.equal(plain[0].completions.logprobs, plain[1].completions.logprobs)


def test_how_many_are_decoded_together_is_never_guessed_from_who_is_there(small_model: Path) -> None:
    model, tokenizer = load(small_model)
    settings = SETTINGS.model_copy(update={"decode": "together"})
    with pytest.raises(ValueError, match="how many"):
        roll_out(TransformersSampler.of(model, tokenizer), tokenizer, asked(1)[0], settings, Stream.named("a"))


def test_finished_rows_leave_and_the_others_go_on_as_if_they_had_not(
    small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = load(small_model)
    widths: list[int] = []
    forward = model.forward

    def watched(*arguments: object, **named: torch.Tensor) -> object:
        widths.append(len(named["input_ids"]))
        return forward(*arguments, **named)

    prompts = [[number + 5 for number in range(length)] for length in (4, 9, 30)]
    uniforms = torch.rand(24, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    def done(eos: int) -> Completions:
        return generate(model, prompts, group_size=8, max_tokens=20, ends=(eos,), pad=0, uniforms=uniforms)

    end = int(done(-1).tokens.flatten().bincount().argmax())
    monkeypatch.setattr(model, "forward", watched)
    left = done(end)
    lengths = left.mask.sum(1)
    assert len(set(lengths.tolist())) > 3
    assert widths[0] == 3 and widths[1] == 24 and widths[-1] <= 12 and sorted(widths[1:], reverse=True) == widths[1:]
    monkeypatch.setattr(generation, "_LIVE_SHARE", -1.0)
    widths.clear()
    stayed = done(end)
    assert set(widths[1:]) == {24}
    assert torch.equal(left.tokens, stayed.tokens) and torch.equal(left.mask, stayed.mask)
    assert torch.allclose(left.logprobs, stayed.logprobs, atol=1e-4)


@given(
    logits=st.lists(st.floats(-8, 8), min_size=2, max_size=12),
    top_p=st.floats(0.01, 1.0),
    temperature=st.floats(0.2, 3.0),
)
def test_only_the_likeliest_tokens_that_reach_top_p_are_drawn_in_proportion(
    logits: list[float], top_p: float, temperature: float
) -> None:
    row = torch.tensor(logits)
    whole = torch.log_softmax(row / temperature, -1).double().exp()
    order = whole.argsort(descending=True, stable=True)
    before = whole[order].cumsum(0) - whole[order]
    kept = order[before < top_p]
    uniforms = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    tokens, logprobs = sample_token(row.expand(2000, -1), uniforms, temperature, top_p)
    assert set(tokens.tolist()) <= set(kept.tolist())
    share = torch.bincount(tokens, minlength=len(logits)) / 2000
    expected = torch.zeros(len(logits), dtype=torch.float64)
    expected[kept] = whole[kept] / whole[kept].sum()
    assert (share - expected).abs().max() < 2 / 2000
    assert torch.allclose(logprobs.double(), expected.log()[tokens], atol=1e-5)
    trained = chosen_logprobs(row.expand(len(kept), -1), kept, temperature, top_p)
    assert torch.allclose(trained.double(), expected.log()[kept], atol=1e-5)


def test_the_largest_uniform_number_draws_a_token_that_is_kept() -> None:
    tokens, _ = sample_token(
        torch.tensor([[0.0, 5.0, 1.0, -30.0]]), torch.tensor([1 - 2**-53], dtype=torch.float64), 1.0, 0.5
    )
    assert tokens.tolist() == [1]
