"""A half-precision base computes its adapter and its norms in few steps: on a GPU each costs at least its launch.

peft widens every input of an adapted layer to float32, and transformers writes a norm as six operations. Here the
adapter's products take their operands as the base has them and sum in float32, and a norm is one operation. Sampling
and training both compute so. A float32 base is left as it is, bit for bit; so is one in four bits.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import Linear
from torch import Tensor
from torch.nn.functional import linear, rms_norm

HALVES = frozenset({torch.bfloat16, torch.float16})
"""Types of a base that computes so."""


def make_lean(model: PeftModel) -> None:
    """Have the adapted layers and the norms of a half-precision model compute in few steps."""
    for module in model.modules():
        base = module.get_base_layer() if isinstance(module, Linear) else None
        if isinstance(module, Linear) and type(base) is torch.nn.Linear and base.weight.dtype in HALVES:
            module.forward = _Added(module)  # type: ignore[assignment]
        elif type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
            assert isinstance(module.weight, Tensor)
            if module.weight.dtype in HALVES:
                module.forward = MethodType(_normed, module)


def refresh_lean(model: PeftModel) -> None:
    """Have what was kept of the adapter follow it: a recorded step reads what is kept, and runs no line of Python."""
    for module in model.modules():
        if isinstance(forward := vars(module).get("forward"), _Added):
            forward.follow()


def _normed(norm: Any, states: Tensor) -> Tensor:
    return rms_norm(states, (states.size(-1),), norm.weight, norm.variance_epsilon)


class _Added:
    """A layer with its adapter; keeps both matrices as the base has them, and makes them again when they change."""

    def __init__(self, layer: Linear) -> None:
        self._layer = layer
        self._seen: tuple[int, int] | None = None
        self._a = self._b = torch.empty(0)
        self._scale = 0.0

    def __call__(self, states: Tensor) -> Tensor:
        base = self._layer.get_base_layer()
        assert isinstance(base, torch.nn.Linear)
        if self._layer.disable_adapters or self._layer.merged:
            return linear(states, base.weight, base.bias)
        b = self.follow()
        return _AddedProduct.apply(states, base.weight, base.bias, self._a, b, self._b, self._scale)  # type: ignore[no-any-return, no-untyped-call]

    @torch.no_grad()
    def follow(self) -> Tensor:
        """Keep both matrices as they are now, B in its place; return B itself.

        The public A is +-c: its signs are exact in any type, and c goes into the scale.
        """
        (name,) = self._layer.active_adapters
        a, b = (matrices[name].weight for matrices in (self._layer.lora_A, self._layer.lora_B))
        assert isinstance(a, Tensor) and isinstance(b, Tensor)
        weight = self._layer.get_base_layer().weight
        assert isinstance(weight, Tensor)
        if self._seen is None or self._seen[0] != a._version or self._a.device != a.device:
            largest = float(a.abs().max()) or 1.0
            self._a, self._b, self._scale = (a / largest).to(weight), b.to(weight), largest * self._layer.scaling[name]
        elif self._seen[1] != b._version:
            self._b.copy_(b)
        self._seen = a._version, b._version
        return b


class _AddedProduct(torch.autograd.Function):
    """x W' + c (x A') B', its gradient by x and by B; nothing of x is kept for it but x A'."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, half_b: Tensor, scale: float
    ) -> Tensor:
        rows = x.reshape(-1, x.size(-1))
        result, inner = linear(rows, weight, bias), rows @ a.T
        result.addmm_(inner, half_b.T, alpha=scale)
        ctx.save_for_backward(weight, a, half_b, inner)
        ctx.scale, ctx.dtype = scale, b.dtype
        return result.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight, a, half_b, inner = ctx.saved_tensors
        (result,) = gradients
        rows = result.reshape(-1, result.size(-1))
        by_x = by_b = None
        if ctx.needs_input_grad[0]:
            by_x = (rows @ weight).addmm_(rows @ half_b, a, alpha=ctx.scale).view(*result.shape[:-1], -1)
        if ctx.needs_input_grad[4]:
            by_b = _wide(rows.T, inner).to(ctx.dtype) * ctx.scale
        return by_x, None, None, None, by_b, None, None


def _wide(left: Tensor, right: Tensor) -> Tensor:
    """Product of two half-precision matrices in float32."""
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()
