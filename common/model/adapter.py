"""The adapter as one flat vector, the same order on every machine, and as a PEFT folder that other tools load."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file

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
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).cpu()
    return flat if flat.dtype == torch.float64 else flat.float()


def read_adapter(model: torch.nn.Module) -> Vector:
    """Trainable parameters as one float32 vector."""
    return np.asarray(flatten(trainable(model)).numpy())


def write_adapter(model: torch.nn.Module, vector: Vector) -> None:
    """Set the trainable parameters from one flat vector.

    Raises
    ------
    FedReasonError
        MODEL_ADAPTER where the vector has another length than the layout, or values that are no numbers.
    """
    require_size(vector, AdapterLayout.of(model).size)
    require_finite(vector, "The adapter")
    parameters = trainable(model)
    pieces = torch.from_numpy(np.array(vector, dtype=np.float32)).split([p.numel() for p in parameters])
    with torch.no_grad():
        for parameter, piece in zip(parameters, pieces, strict=True):
            parameter.copy_(piece.view_as(parameter))


def require_size(vector: Vector, size: int) -> None:
    """Refuse an adapter of another length than the layout's.

    Raises
    ------
    FedReasonError
        MODEL_ADAPTER.
    """
    if vector.shape != (size,):
        raise FedReasonError(
            Code.MODEL_ADAPTER,
            f"An adapter of {vector.size} values came for a model that trains {size}.",
            "Base model and adapter section must be the same at server and sites.",
        )


def require_finite(vector: Vector, what: str) -> None:
    """Refuse an adapter that holds NaN or infinity: nothing can be computed at it, and nobody's record is the reason.

    Raises
    ------
    FedReasonError
        MODEL_ADAPTER.
    """
    if not np.isfinite(vector).all():
        raise FedReasonError(
            Code.MODEL_ADAPTER,
            f"{what} holds values that are not finite.",
            "The run has diverged: start it again with a lower optimizer.learning_rate.",
        )


def save_peft(model: PeftModel, vector: Vector, folder: Path) -> None:
    """Write the adapter as a PEFT folder (`PeftModel.from_pretrained` loads it)."""
    write_adapter(model, vector)
    model.save_pretrained(str(folder), safe_serialization=True)


def read_peft(model: PeftModel, folder: Path) -> Vector:
    """Read a PEFT folder as an adapter of this model, every file and tensor of it held against the model.

    peft itself leaves what is missing at its start, scales by whatever `lora_alpha` says, and says nothing.

    Parameters
    ----------
    model
        With the adapter that the run states, whose values are not read; a model without weights will do.

    Raises
    ------
    FedReasonError
        MODEL_ADAPTER where the folder is not of this very adapter: rank, scale, modules, names, shapes, float32, all
        values finite, and A as published where the model has it.
    """
    _require_config(model, folder / "adapter_config.json")
    path = folder / "adapter_model.safetensors"
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise _unfit(path, f"cannot be read ({type(error).__name__})") from None
    expected = {_peft_name(name): value for name, value in model.named_parameters() if "lora_" in name}
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors:
            raise _unfit(path, f"lacks {name}")
        if name not in expected:
            raise _unfit(path, f"holds {name}, which this model does not have")
        found, value = tensors[name], expected[name]
        if found.shape != value.shape or found.dtype != torch.float32:
            raise _unfit(path, f"has {name} as {_form(found)}, not as {_form(value.detach().float())}")
        if not torch.isfinite(found).all():
            raise _unfit(path, f"has values in {name} that are not finite")
        if "lora_A" in name and not value.is_meta and not torch.equal(found, value.detach().cpu()):
            raise _unfit(path, f"has another {name} than the one that follows from the run's seed")
    return np.asarray(flatten([tensors[_peft_name(name)] for name in AdapterLayout.of(model).names]).numpy())


_SAID = (
    *("peft_type", "r", "lora_alpha", "target_modules", "bias", "use_rslora", "use_dora", "fan_in_fan_out"),
    *("rank_pattern", "alpha_pattern", "modules_to_save", "layers_to_transform", "layer_replication"),
    *("exclude_modules", "target_parameters", "trainable_token_indices"),
)
"""What of a LoraConfig decides which layers are adapted, and how."""


def _require_config(model: PeftModel, path: Path) -> None:
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise _unfit(path, f"cannot be read ({type(error).__name__})") from None
    stated = model.peft_config["default"].to_dict()
    for key in _SAID:
        theirs, ours = (_plain(table.get(key)) for table in (found, stated))
        if theirs != ours:
            raise _unfit(path, f"says {key} = {theirs}, this model has {ours}")


def _plain(value: object) -> object:
    """Return a value as JSON has it: names in order, nothing said as None."""
    if isinstance(value, list | tuple | set | frozenset):
        return sorted(map(str, value)) or None
    return None if value is False or value in ({}, "") else getattr(value, "value", value)


def _peft_name(name: str) -> str:
    return name.replace(".default.", ".")


def _form(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _unfit(path: Path, what: str) -> FedReasonError:
    return FedReasonError(
        Code.MODEL_ADAPTER,
        f"{path} {what}.",
        "Export the adapter again (`python -m server export`), and read it with the base model of its run.",
    )
