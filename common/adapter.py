"""The adapter as one flat vector, the same order on every machine, and as a PEFT folder that other tools load."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel

from common.arrays import Vector
from common.errors import Code, FedReasonError


@dataclass(frozen=True)
class AdapterLayout:
    """Names and shapes of the trainable parameters, sorted by name."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, model: torch.nn.Module) -> AdapterLayout:
        """Layout of a model's trainable parameters."""
        pairs = sorted((name, tuple(p.shape)) for name, p in model.named_parameters() if p.requires_grad)
        return cls(tuple(name for name, _ in pairs), tuple(shape for _, shape in pairs))

    @cached_property
    def size(self) -> int:
        """Number of trainable parameters."""
        return sum(int(np.prod(shape)) for shape in self.shapes)


def trainable(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Trainable parameters in the order of the layout."""
    return [p for _, p in sorted(model.named_parameters()) if p.requires_grad]


def flatten(tensors: list[torch.Tensor] | list[torch.nn.Parameter]) -> torch.Tensor:
    """Concatenate tensors into one vector on the CPU, float32 unless they are float64."""
    flat = torch.cat([tensor.detach().reshape(-1).cpu() for tensor in tensors])
    return flat if flat.dtype == torch.float64 else flat.float()


def read_adapter(model: torch.nn.Module) -> Vector:
    """Trainable parameters as one float32 vector."""
    return np.asarray(flatten(trainable(model)).numpy())


def write_adapter(model: torch.nn.Module, vector: Vector) -> None:
    """Set the trainable parameters from one flat vector.

    Raises
    ------
    FedReasonError
        Where the vector has another length than the layout.
    """
    size = AdapterLayout.of(model).size
    if vector.shape != (size,):
        raise FedReasonError(
            Code.MODEL_ADAPTER,
            f"An adapter of {vector.size} values came for a model that trains {size}.",
            "Base model and adapter section must be the same at server and sites.",
        )
    parameters = trainable(model)
    pieces = torch.from_numpy(np.array(vector, dtype=np.float32)).split([p.numel() for p in parameters])
    with torch.no_grad():
        for parameter, piece in zip(parameters, pieces, strict=True):
            parameter.copy_(piece.view_as(parameter))


def save_peft(model: PeftModel, vector: Vector, folder: Path) -> None:
    """Write the adapter as a PEFT folder (`PeftModel.from_pretrained` loads it)."""
    write_adapter(model, vector)
    model.save_pretrained(str(folder), safe_serialization=True)
