"""The optimizer on the flat adapter: torch's own AdamW and SGD with a schedule that depends on the round alone."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from common.arrays import Floats, Vector
from common.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, round_number: int, rounds: int) -> float:
    """Learning rate of a round (from 1): linear rise, plateau, linear fall to a tenth."""
    rise = min(1.0, round_number / config.warmup_rounds) if config.warmup_rounds else 1.0
    left = (rounds - round_number + 1) / rounds
    fall = min(1.0, max(0.1, left / config.decay)) if config.decay else 1.0
    return config.learning_rate * rise * fall


class Optimizer:
    """Updates one flat float32 vector; its state can be saved between rounds."""

    def __init__(self, config: OptimizerConfig, adapter: Vector, rounds: int) -> None:
        self._config, self._rounds = config, rounds
        self._parameter = torch.nn.Parameter(torch.from_numpy(np.array(adapter, dtype=np.float32)))
        if config.name == "adamw":
            betas = (config.momentum, config.second_momentum)
            self._inner: torch.optim.Optimizer = torch.optim.AdamW(
                [self._parameter], lr=config.learning_rate, betas=betas, eps=config.epsilon, weight_decay=0.0
            )
        else:
            self._inner = torch.optim.SGD([self._parameter], lr=config.learning_rate, momentum=config.momentum)

    @property
    def adapter(self) -> Vector:
        """Present adapter."""
        return np.array(self._parameter.detach().numpy())

    def step(self, gradient: Floats, round_number: int) -> None:
        """Take one step along a float64 gradient, scaled down to `max_gradient_norm` where that is set."""
        norm = float(np.sqrt(np.square(gradient).sum()))
        limit = self._config.max_gradient_norm
        if limit is not None and norm > limit:
            gradient = gradient * (limit / norm)
        self._parameter.grad = torch.from_numpy(gradient.astype(np.float32))
        for group in self._inner.param_groups:
            group["lr"] = learning_rate(self._config, round_number, self._rounds)
        self._inner.step()

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Tensors that the next step depends on, beside the adapter."""
        inner = self._inner.state.get(self._parameter, {})
        return {name: value.numpy() for name, value in inner.items() if isinstance(value, torch.Tensor)}

    def restore(self, state: dict[str, NDArray[np.generic]]) -> None:
        """Continue from a saved state."""
        self._inner.state[self._parameter] = {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
