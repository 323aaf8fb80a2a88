"""The GRPO step: shared prompts change nothing, the traps of LoRA training stay shut."""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from client.grpo.forked import completion_logprobs
from client.grpo.loss import advantages, surrogate_loss
from client.grpo.rollout import roll_out
from client.grpo.sampler import TransformersSampler
from client.grpo.step import patient_gradient, rollout_gradient
from common.arrays import adapter_sha256
from common.config import PAPER, AdapterConfig, OptimizerConfig
from common.decoding.generate import Completions, generate, left_pad, positions
from common.model.adapter import read_adapter, save_peft, trainable, write_adapter
from common.model.base import add_lora, public_signs, train_b_alone, without_adapter
from common.model.optimizer import Optimizer, learning_rate
from common.model.policy import Policy
from common.stream import Stream
from tests.tuned import PROMPTS, SETTINGS, SIZES, load, questions, step_of, with_random_b


def separate_logprobs(model: torch.nn.Module, prompts: list[list[int]], done: Completions, group: int) -> torch.Tensor:
    """Every row on its own, prompt recomputed, no padding, no cache."""
    rows = []
    for row, tokens in enumerate(done.tokens):
        prompt = prompts[row // group]
        logits = model(input_ids=torch.tensor([[*prompt, *tokens.tolist()]])).logits[0, len(prompt) - 1 : -1]
        rows.append(torch.log_softmax(logits, -1).gather(-1, tokens[:, None])[:, 0])
    return torch.stack(rows)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Qwen2ForCausalLM(Qwen2Config(num_hidden_layers=2, **SIZES)),
        lambda: Qwen3ForCausalLM(Qwen3Config(num_hidden_layers=2, head_dim=16, **SIZES)),
        lambda: LlamaForCausalLM(LlamaConfig(num_hidden_layers=2, **SIZES)),
        lambda: MistralForCausalLM(MistralConfig(num_hidden_layers=2, sliding_window=6, **SIZES)),
    ],
    ids=["qwen2", "qwen3", "llama", "mistral-past-its-window"],
)
def test_a_forked_prompt_gives_the_logprobs_and_gradients_of_separate_rows(
    make: Callable[[], PreTrainedModel],
) -> None:
    torch.manual_seed(0)
    base = make().eval().requires_grad_(False)
    base.config._attn_implementation = "sdpa"
    model = with_random_b(add_lora(base, AdapterConfig(rank=4, alpha=8), 0)).double()
    tokens = torch.randint(2, 300, (6, 7))
    done = Completions(tokens, torch.ones_like(tokens), torch.zeros(tokens.shape))
    shared = completion_logprobs(model, PROMPTS, done, group_size=3, pad=0)
    separate = separate_logprobs(model, PROMPTS, done, 3)
    assert torch.allclose(shared, separate, atol=1e-5)
    weights = torch.randn(shared.shape, dtype=torch.float64)
    ours = torch.autograd.grad((weights * shared).sum(), trainable(model))
    theirs = torch.autograd.grad((weights * separate).sum(), trainable(model))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-5 * float(b.abs().max()) + 1e-9)


def test_rollout_logprobs_are_those_of_the_training_pass(small_model: Path) -> None:
    model, tokenizer = load(small_model)
    with_random_b(model)
    rollouts = roll_out(
        TransformersSampler.of(Policy(model).model, tokenizer), tokenizer, questions(), SETTINGS, Stream.named("a")
    )
    trained = completion_logprobs(
        model, rollouts.prompts, rollouts.completions, group_size=4, pad=tokenizer.pad_token_id
    )
    kept = rollouts.completions.mask.bool()
    assert torch.allclose(trained[kept], rollouts.completions.logprobs[kept], atol=2e-4)


def test_completions_logprobs_move_when_the_adapter_moves(small_model: Path) -> None:
    model, tokenizer = load(small_model)
    policy = Policy(model)
    before = roll_out(
        TransformersSampler.of(policy.model, tokenizer), tokenizer, questions(), SETTINGS, Stream.named("a")
    )
    with_random_b(model)
    stale = roll_out(
        TransformersSampler.of(policy.model, tokenizer), tokenizer, questions(), SETTINGS, Stream.named("a")
    )
    policy.refresh()
    after = roll_out(
        TransformersSampler.of(policy.model, tokenizer), tokenizer, questions(), SETTINGS, Stream.named("a")
    )
    assert torch.equal(before.completions.logprobs, stale.completions.logprobs)
    assert not torch.equal(before.completions.logprobs, after.completions.logprobs)


def test_the_folded_policy_agrees_with_the_live_adapter_and_leaves_the_base_alone(small_model: Path) -> None:
    model, _ = load(small_model)
    base = {name: p.clone() for name, p in model.named_parameters() if "lora" not in name}
    policy = Policy(with_random_b(model))
    ids, mask = left_pad(PROMPTS, 0)
    kwargs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions(mask)}
    assert torch.allclose(policy.model(**kwargs).logits, model(**kwargs).logits, atol=1e-4)
    for name, parameter in model.named_parameters():
        assert "lora" in name or torch.equal(parameter, base[name])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_adapter_stays_float32_after_a_rollout(small_model: Path, dtype: str) -> None:
    model, tokenizer = load(small_model, dtype)
    step_of(model, tokenizer)
    assert {p.dtype for name, p in model.named_parameters() if "lora" in name} == {torch.float32}
    assert {p.dtype for name, p in model.named_parameters() if "lora" not in name} == {getattr(torch, dtype)}


def test_a_step_trains_b_and_nothing_else(small_model: Path) -> None:
    model, tokenizer = load(small_model)
    frozen = {name: p.clone() for name, p in model.named_parameters() if "lora_B" not in name}
    before = read_adapter(model)
    gradient, counts = patient_gradient(
        model, tokenizer, questions(), SETTINGS, per_patient=3, stream=Stream.named("a")
    )
    optimizer = Optimizer(OptimizerConfig(learning_rate=1e-2), before, rounds=1)
    optimizer.step(gradient.astype("float64"), 1)
    write_adapter(model, optimizer.adapter)
    assert adapter_sha256(read_adapter(model)) != adapter_sha256(before)
    assert (counts.questions, counts.rollouts) == (3, 12)
    for name, parameter in model.named_parameters():
        assert "lora_B" in name or torch.equal(parameter, frozen[name])


def test_a_is_the_published_sign_matrix_with_rows_of_unit_norm(small_model: Path) -> None:
    model, _ = load(small_model)
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            assert torch.equal(parameter, public_signs(0, name, *parameter.shape))
            assert torch.allclose(parameter.norm(dim=1), torch.ones(parameter.size(0)))
    assert (
        hashlib.sha256(public_signs(1, "layer", 16, 128).numpy().tobytes()).hexdigest().startswith("879d956ad0cc7efb")
    )


def test_a_stays_frozen_through_peft_s_own_switches(small_model: Path, tmp_path: Path) -> None:
    model, _ = load(small_model)
    with without_adapter(model):
        pass
    assert all("lora_B" in name for name, p in model.named_parameters() if p.requires_grad)
    save_peft(with_random_b(model), read_adapter(model), tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(small_model), tmp_path / "adapter", is_trainable=True
    )
    assert any("lora_A" in name for name, p in loaded.named_parameters() if p.requires_grad), (
        "peft unfreezes A: the trap is real"
    )
    train_b_alone(loaded)
    assert all("lora_B" in name for name, p in loaded.named_parameters() if p.requires_grad)
    assert adapter_sha256(read_adapter(loaded)) == adapter_sha256(read_adapter(model))


def test_the_adapter_switched_off_is_the_base(small_model: Path) -> None:
    model, _ = load(small_model)
    base = AutoModelForCausalLM.from_pretrained(small_model)
    ids = torch.tensor([PROMPTS[0]])
    with without_adapter(with_random_b(model)):
        assert torch.allclose(model(input_ids=ids).logits, base(input_ids=ids).logits, atol=1e-6)


def test_groups_that_agree_teach_nothing_and_do_not_change_the_divisor(small_model: Path) -> None:
    model, tokenizer = load(small_model)
    rollouts = roll_out(TransformersSampler.of(model, tokenizer), tokenizer, questions(), SETTINGS, Stream.named("a"))
    none = copy.copy(rollouts)
    object.__setattr__(none, "advantages", torch.zeros_like(rollouts.advantages))
    assert not rollout_gradient(model, none, SETTINGS, per_patient=3, pad=0).any()
    gains = torch.zeros_like(rollouts.advantages)
    gains[1] = torch.tensor([1.0, -1.0, 0.5, -0.5])
    one = copy.copy(rollouts)
    object.__setattr__(one, "advantages", gains)
    alone = copy.copy(one)
    keep = slice(4, 8)
    done = rollouts.completions
    object.__setattr__(alone, "prompts", rollouts.prompts[1:2])
    object.__setattr__(alone, "completions", Completions(done.tokens[keep], done.mask[keep], done.logprobs[keep]))
    object.__setattr__(alone, "advantages", gains[1:2])
    a = rollout_gradient(model, one, SETTINGS, per_patient=3, pad=0)
    b = rollout_gradient(model, alone, SETTINGS, per_patient=3, pad=0)
    assert a.any()
    assert torch.equal(a, b)


def test_a_patient_gives_the_same_bits_whoever_came_before(small_model: Path) -> None:
    model, tokenizer = load(small_model)
    mine, other = questions(4)[:3], questions(4)[3:]
    settings = SETTINGS.model_copy(update={"group_size": 16})
    first, _ = patient_gradient(model, tokenizer, mine, settings, per_patient=3, stream=Stream.named("me"))
    patient_gradient(model, tokenizer, other, settings, per_patient=3, stream=Stream.named("somebody else"))
    second, _ = patient_gradient(model, tokenizer, mine, settings, per_patient=3, stream=Stream.named("me"))
    assert first.any()
    assert first.tobytes() == second.tobytes()


def test_sampling_follows_the_softmax(small_model: Path) -> None:
    model, _ = load(small_model)
    uniforms = torch.from_numpy(Stream.named("many").uniforms(4000)).view(4000, 1)
    prompt = [PROMPTS[0]]
    done = generate(model, prompt, group_size=4000, max_tokens=1, ends=(1,), pad=0, uniforms=uniforms, temperature=1.3)
    logits = model(input_ids=torch.tensor(prompt)).logits[0, -1]
    expected = torch.softmax(logits / 1.3, -1) * 4000
    seen = torch.bincount(done.tokens[:, 0], minlength=len(expected)).float()
    likely = expected > 20
    assert ((seen - expected)[likely].abs() < 5 * expected[likely].sqrt() + 1).all()


def test_a_finished_row_is_padded_and_masked(small_model: Path) -> None:
    model, tokenizer = load(small_model)
    done = roll_out(
        TransformersSampler.of(model, tokenizer), tokenizer, questions(), SETTINGS, Stream.named("a")
    ).completions
    for tokens, mask, logprobs in zip(done.tokens, done.mask, done.logprobs, strict=True):
        length = int(mask.sum())
        assert mask[:length].all()
        assert (tokens[length:] == tokenizer.pad_token_id).all()
        assert (logprobs[length:] == 0).all()
        assert length == len(mask) or tokens[length - 1] == tokenizer.eos_token_id


def test_kl_to_the_base_is_zero_at_the_base_and_pulls_back_from_elsewhere(small_model: Path) -> None:
    model, tokenizer = load(small_model)
    settings = SETTINGS.model_copy(update={"kl": 1.0})
    rollouts = roll_out(TransformersSampler.of(model, tokenizer), tokenizer, questions(), settings, Stream.named("a"))
    still = copy.copy(rollouts)
    object.__setattr__(still, "advantages", torch.zeros_like(rollouts.advantages))
    assert rollout_gradient(model, still, settings, per_patient=3, pad=0).abs().max() < 1e-6
    with_random_b(model)
    gradient = rollout_gradient(model, still, settings, per_patient=3, pad=0)
    assert all("lora_B" in name for name, p in model.named_parameters() if p.requires_grad)

    def distance() -> float:
        with torch.no_grad():
            now = completion_logprobs(model, still.prompts, still.completions, group_size=4, pad=0)
            with without_adapter(model):
                base = completion_logprobs(model, still.prompts, still.completions, group_size=4, pad=0)
            gap = (base - now) * still.completions.mask
            return float((gap.exp() - gap - 1).sum())

    far = distance()
    write_adapter(model, (read_adapter(model) - 0.05 * (gradient / gradient.norm()).numpy()).astype("float32"))
    assert distance() < far


def test_advantages_are_centred_within_a_group_and_scaled_on_request() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    assert advantages(rewards).tolist() == [[0.5, -0.5, -0.5, 0.5], [0.0, 0.0, 0.0, 0.0]]
    scaled = advantages(rewards, "group")
    assert scaled[0, 0] == pytest.approx(0.5 / (0.57735 + 1e-4), abs=1e-4)
    assert not scaled[1].any()


def test_the_surrogate_is_clipped_on_the_side_that_would_gain() -> None:
    sampled = torch.zeros(2, 1)
    logprobs = torch.tensor([[0.5], [-0.5]], requires_grad=True)
    loss = surrogate_loss(logprobs, torch.tensor([1.0, -1.0]), torch.ones(2, 1), divisor=2.0, sampled=sampled)
    assert loss.item() == pytest.approx(-(1.2 - 0.8) / 2)
    loss.backward()
    assert not logprobs.grad.any()


def test_one_step_for_each_batch_of_rollouts_is_never_clipped() -> None:
    """Where the ratio is one, as in every step that is taken, no clip range acts; off-policy it does."""
    generator = torch.Generator().manual_seed(0)
    start = -3 * torch.rand((6, 5), generator=generator)
    gains, mask = torch.randn(6, generator=generator), (torch.rand((6, 5), generator=generator) < 0.8).long()

    def gradient(clip: float, sampled: torch.Tensor | None) -> torch.Tensor:
        logprobs = start.clone().requires_grad_()
        surrogate_loss(logprobs, gains, mask, divisor=30, sampled=sampled, clip=clip).backward()
        assert logprobs.grad is not None
        return logprobs.grad

    assert torch.equal(gradient(0.01, None), gradient(0.5, None))
    assert torch.allclose(gradient(0.01, None), -gains[:, None] * mask / 30)
    moved = start + 0.2 * torch.randn((6, 5), generator=generator)
    assert not torch.equal(gradient(0.01, moved), gradient(0.5, moved))


def test_the_learning_rate_rises_stays_and_falls_to_a_tenth() -> None:
    config = OptimizerConfig(learning_rate=1.0, warmup_rounds=5, decay=0.4)
    rates = [learning_rate(config, number, 70) for number in range(1, 71)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[20] == 1.0
    assert rates[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(rates[5:]))


def test_a_chat_template_is_used_where_there_is_one(small_model: Path) -> None:
    from common.questions.prompt import prompt_text, prompt_tokens

    tokenizer = AutoTokenizer.from_pretrained(small_model)
    question = questions(1)[0]
    assert prompt_text(question, tokenizer).endswith("\nAnswer:")
    tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    text = prompt_text(question, tokenizer)
    assert text.startswith(f"<|system|>{PAPER.system}<|end|><|user|>")
    assert text.endswith("<|assistant|>" + PAPER.opening)
    assert tokenizer.decode(prompt_tokens(question, tokenizer)) == text


def test_a_prompt_that_is_too_long_is_left_out_and_counted(small_model: Path) -> None:
    from common.questions.prompt import prompt_tokens

    model, tokenizer = load(small_model)
    asked = sorted(questions(3), key=lambda q: len(prompt_tokens(q, tokenizer)))
    lengths = [len(prompt_tokens(question, tokenizer)) for question in asked]
    assert lengths[0] < lengths[2]
    tight = SETTINGS.model_copy(update={"max_prompt_tokens": lengths[2] - 1})
    _, counted = patient_gradient(model, tokenizer, asked, tight, per_patient=3, stream=Stream.named("a"))
    assert counted.too_long + counted.questions == 3
    assert counted.too_long >= 1
    none = SETTINGS.model_copy(update={"max_prompt_tokens": 1})
    gradient, counted = patient_gradient(model, tokenizer, asked, none, per_patient=3, stream=Stream.named("a"))
    assert (counted.patients, counted.questions, counted.too_long) == (1, 0, 3)
    assert not gradient.any()
