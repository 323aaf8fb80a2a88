"""The model that rollouts and evaluation run on.

A float32 model gets a copy with the adapter folded into its weights, refreshed whenever the adapter changes, since the
adapter's small products cost half of a decoding step. Any other base runs through the adapter itself: a sum rounded to
bf16, or to four bits, would be another policy than the one trained. The live base is never merged into.
"""

from __future__ import annotations

import copy

import torch
from peft import PeftModel
from peft.tuners.lora import Linear

from common.model.lean import refresh_lean


class Policy:
    """Keeps the model to sample from in step with the adapter."""

    def __init__(self, model: PeftModel) -> None:
        self._pairs: list[tuple[Linear, torch.nn.Linear]] = []
        self.model: torch.nn.Module = model
        self._live = model
        base = model.get_base_model()
        if next(base.parameters()).dtype != torch.float32:
            return
        layers = [(name, module) for name, module in base.named_modules() if isinstance(module, Linear)]
        memo: dict[int, object] = {}
        for _, layer in layers:
            folded = copy.deepcopy(layer.get_base_layer())
            assert isinstance(folded, torch.nn.Linear)
            memo[id(layer)] = folded
            self._pairs.append((layer, folded))
        self.model = copy.deepcopy(base, memo)
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Fold the adapter's present weights into the copy: W + scaling B A; a lean model follows them."""
        for layer, folded in self._pairs:
            (name,) = layer.active_adapters
            base = layer.get_base_layer().weight
            assert isinstance(base, torch.Tensor)
            folded.weight.copy_(base + layer.get_delta_weight(name))
        refresh_lean(self._live)
