"""What a run states about the model: the frozen base and the adapter on it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from common.toml import Strict

TINY = "tiny"


class ModelConfig(Strict):
    """The frozen base model: "tiny" (made locally), a folder's path, or a hub id with a pinned revision.

    A path begins with /, ~, ./ or ../; the last two start from the configuration's folder, at a site from the folder
    that `models` in its site.toml names.
    """

    base: str = TINY
    revision: str | None = None
    manifest_sha256: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    quantization: Literal["none", "nf4"] = "none"

    @field_validator("quantization")
    @classmethod
    def _computes_in_bfloat16(cls, value: str, info: ValidationInfo) -> str:
        if value == "nf4" and info.data.get("dtype") == "float32":
            raise ValueError('"nf4" is computed with in bfloat16 and needs dtype = "bfloat16"')
        return value

    @model_validator(mode="after")
    def _pinned(self) -> ModelConfig:
        if self.base != TINY and not self._is_path and not self.revision:
            raise ValueError(f"a folder is written as ./{self.base}; a hub id ({self.base}) needs a pinned revision")
        return self

    @property
    def _is_path(self) -> bool:
        return self.base.startswith(("/", "./", "../", "~"))

    def place(self, folder: Path) -> str:
        """Return where transformers finds the model: a path, here relative to `folder`, or the hub id."""
        return str(folder / Path(self.base).expanduser()) if self._is_path else self.base


class AdapterConfig(Strict):
    """LoRA with A public and frozen, B trained (FFA-LoRA, arXiv 2403.12313)."""

    rank: int = Field(default=16, ge=1, le=65_536)
    alpha: int = Field(default=32, ge=1, le=1_000_000)
    target_modules: tuple[str, ...] | Literal["all-linear"] = "all-linear"
