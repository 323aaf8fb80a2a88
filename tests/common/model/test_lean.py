"""A half-precision base with its adapter in few steps: near the exact sum, and a float32 base is left as it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import Linear
from torch import Tensor

from bench.grpo_work import named_model
from common.model.adapter import flatten, trainable
from common.model.base import without_adapter
from common.model.policy import Policy

pytestmark = pytest.mark.model

IDS = torch.randint(2, 1000, (3, 50), generator=torch.Generator().manual_seed(0))


def layers(model: PeftModel) -> list[Linear]:
    return [module for module in model.modules() if isinstance(module, Linear)]


def gradient(model: PeftModel, of: Callable[[], Tensor]) -> Tensor:
    return flatten(list(torch.autograd.grad(of(), trainable(model))))


def sums(model: PeftModel) -> tuple[Tensor, Tensor]:
    """Log-probabilities of some tokens, and the gradient of their sum."""
    chosen = torch.log_softmax(model(input_ids=IDS).logits.float(), -1).gather(-1, IDS[..., None])
    return chosen.detach(), gradient(model, lambda: chosen.sum())


def test_a_layer_gives_the_exact_sum_and_its_gradients_as_far_as_its_type_reaches() -> None:
    layer = layers(named_model("tiny-random", "cpu", torch.bfloat16))[0]
    base, a, b = layer.get_base_layer().weight, layer.lora_A["default"].weight, layer.lora_B["default"].weight
    states = torch.randn(40, base.size(1), dtype=torch.bfloat16).requires_grad_()
    given = torch.randn(40, base.size(0)).bfloat16()
    wide = [each.detach().double().requires_grad_() for each in (states, b)]
    exact = wide[0] @ base.double().T + layer.scaling["default"] * (wide[0] @ a.double().T) @ wide[1].T
    ours = layer(states)
    assert ours.dtype == torch.bfloat16 and (ours.double() - exact).norm() < 4e-3 * exact.norm()
    pairs = torch.autograd.grad(ours, (states, b), given), torch.autograd.grad(exact, wide, given.double())
    for mine, true in zip(*pairs, strict=True):
        assert (mine.double() - true).norm() < 6e-3 * true.norm()
    assert pairs[0][1].dtype == torch.float32


def test_a_change_of_the_adapter_is_followed_and_switching_it_off_gives_the_base() -> None:
    model = named_model("tiny-random", "cpu", torch.bfloat16)
    before = model(input_ids=IDS).logits
    with without_adapter(model):
        plain = model(input_ids=IDS).logits
    with torch.no_grad():
        for parameter in trainable(model):
            parameter.zero_()
    nothing = model(input_ids=IDS).logits
    assert not torch.equal(before, plain) and torch.equal(nothing, plain)


def test_a_model_is_no_farther_from_float64_than_peft_is() -> None:
    model = named_model("tiny-random", "cpu", torch.bfloat16)
    ours = sums(model)
    for module in model.modules():
        vars(module).pop("forward", None)
    theirs = sums(model)
    true = sums(model.double())
    assert not torch.equal(ours[1], theirs[1]), "the layers as peft has them"
    for mine, other, exact in zip(ours, theirs, true, strict=True):
        assert (mine - exact).norm() < 1.2 * (other - exact).norm()


@pytest.mark.parametrize(("dtype", "changed"), [(torch.float32, False), (torch.bfloat16, True), (torch.float16, True)])
def test_only_a_half_precision_base_computes_so(dtype: torch.dtype, changed: bool) -> None:
    model = named_model("tiny-random", "cpu", dtype)
    own = {type(module).__name__ for module in model.modules() if "forward" in vars(module)}
    assert own == ({"Linear", "Phi3RMSNorm"} if changed else set())


def test_a_recorded_step_finds_the_adapter_that_there_is_now_where_it_found_the_last() -> None:
    """A graph reads the matrices that are kept, and runs no Python: `Policy.refresh` alone has to renew them."""
    model = named_model("tiny-random", "cpu", torch.bfloat16)
    policy, layer = Policy(model), layers(model)[0]
    policy.model(input_ids=IDS)
    kept = layer.forward._b  # type: ignore[attr-defined]
    before, place = kept.clone(), kept.data_ptr()
    with torch.no_grad():
        layer.lora_B["default"].weight.mul_(3)
    policy.refresh()
    assert kept.data_ptr() == place and torch.equal(kept, layer.lora_B["default"].weight.bfloat16())
    assert not torch.equal(kept, before)
