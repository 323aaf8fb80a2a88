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


def _normed(norm: Any, states: Tensor) -> Tensor:
    return rms_norm(states, (states.size(-1),), norm.weight, norm.variance_epsilon)


class _Added:
    """A layer with its adapter; keeps both matrices as the base has them, and makes them again when they change."""

    def __init__(self, layer: Linear) -> None:
        self._layer = layer
        self._seen: object = None
        self._a = self._b = torch.empty(0)
        self._scale = 0.0

    def __call__(self, states: Tensor) -> Tensor:
        layer = self._layer
        base = layer.get_base_layer()
        assert isinstance(base, torch.nn.Linear)
        if layer.disable_adapters or layer.merged:
            return linear(states, base.weight, base.bias)
        (name,) = layer.active_adapters
        a, b = (matrices[name].weight for matrices in (layer.lora_A, layer.lora_B))
        assert isinstance(a, Tensor) and isinstance(b, Tensor)
        self._follow(a, b, layer.scaling[name], base.weight)
        return _AddedProduct.apply(states, base.weight, base.bias, self._a, b, self._b, self._scale)  # type: ignore[no-any-return, no-untyped-call]

    @torch.no_grad()
    def _follow(self, a: Tensor, b: Tensor, scaling: float, weight: Tensor) -> None:
        """Keep both as the base has them: the public A is +-c, so its signs are exact and c goes into the scale."""
        seen = (a._version, b._version, scaling, a.data_ptr(), b.data_ptr())
        if seen == self._seen:
            return
        if self._seen is None or seen[::3] != self._seen[::3]:  # type: ignore[index]
            largest = float(a.abs().max()) or 1.0
            self._a, self._scale = (a / largest).to(weight), largest * scaling
        self._b = self._b.copy_(b) if self._b.shape == b.shape and self._b.device == b.device else b.to(weight)
        self._seen = seen


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
