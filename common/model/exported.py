"""An exported adapter, as `python -m server export` leaves it: what `fedreason.json` says of it, and its model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from common.arrays import Vector, adapter_sha256
from common.config import PAPER, TINY, AdapterConfig, ModelConfig, PromptConfig
from common.errors import Code, FedReasonError
from common.processes import loading
from common.toml import Strict

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

DESCRIPTION = "fedreason.json"


class Asked(Strict):
    """What the run of an adapter asked, and of whom: by these a site knows which of its patients it never saw."""

    view: str
    held_out: float
    federation: str


class Description(Strict):
    """What an exported adapter is of, and how its model is asked; earlier exports do not say what was `asked`."""

    run: str
    round: int
    rounds: int
    adapter_sha256: str
    config_sha256: str
    codebook_sha256: str | None
    base: str
    revision: str | None
    manifest_sha256: str | None
    dtype: str
    quantization: str
    seed: int
    adapter: AdapterConfig
    max_prompt_tokens: int
    max_completion_tokens: int
    prompt: PromptConfig = PAPER
    asked: Asked | None = None

    @property
    def model(self) -> ModelConfig:
        """Return the base model as a run states it."""
        names = ("base", "revision", "manifest_sha256", "dtype", "quantization")
        return ModelConfig.model_validate({name: getattr(self, name) for name in names})


def read_description(folder: Path) -> tuple[Description, str]:
    """Return what an exported adapter is, and where its base model is said to be.

    Raises
    ------
    FedReasonError
        MODEL_ADAPTER where the folder is none that `export` wrote.
    """
    try:
        described = Description.model_validate_json((folder / DESCRIPTION).read_text(encoding="utf-8"))
        described.model  # noqa: B018
        place = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise _unfit(folder, type(error).__name__) from None
    if not isinstance(place, str):
        raise _unfit(folder, "its base model has no name")
    return described, place


def require_made(base: str, place: str) -> None:
    """Refuse an embedded model that has not been made on this machine."""
    if base == TINY and not Path(place).is_dir():
        raise FedReasonError(
            Code.MODEL_MISSING,
            f"The embedded model is not in {place}.",
            "Make it by `python -m client model` (`--run FILE` for a codebook of its own), or name it by --base.",
        )


def load_exported(
    folder: Path | None, described: Description, place: str, device: str
) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """Return the base model with an exported adapter set, and its tokenizer.

    Parameters
    ----------
    folder
        Of the adapter; None leaves it at zero, which is the base model itself.
    place
        Where the base model is.

    Raises
    ------
    FedReasonError
        MODEL_ADAPTER where the adapter is damaged or another than described; MODEL_MISSING and others where its base
        cannot be loaded.
    """
    with loading():
        from common.model.adapter import read_peft, write_adapter
        from common.model.base import add_lora, load_base

    require_made(described.base, place)
    loaded, tokenizer = load_base(described.model, place, device)
    model = add_lora(loaded, described.adapter, described.seed)
    if folder is not None:
        vector: Vector = read_peft(model, folder)
        if adapter_sha256(vector) != described.adapter_sha256:
            raise _unfit(folder, f"another adapter than {DESCRIPTION} says")
        write_adapter(model, vector)
    return model, tokenizer


def _unfit(folder: Path, why: str) -> FedReasonError:
    return FedReasonError(
        Code.MODEL_ADAPTER,
        f"{folder} holds no whole adapter that was exported ({why}).",
        "Export it again (`python -m server export RUN --out FOLDER`).",
    )
