"""`python -m server export RUN`: the adapter of a run's last round as a PEFT folder with its card.

Base weights are not needed and nothing is made or loaded: A follows from the run's seed, B is the checkpoint, and names
and shapes follow from the base model's own config.json, or that of the embedded model, of which an empty model is made.
Merging alone loads the base.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from common.arrays import Vector, adapter_of, adapter_sha256
from common.codebook import load_codebook
from common.config import SYNTHETIC, TINY, RunConfig, load_config
from common.errors import Code, FedReasonError
from common.fresh import fresh_folder, require_new
from common.model.exported import DESCRIPTION, Asked, Description
from common.processes import loading
from common.tiny import Embedded
from server.reports.adapter import merge_adapter
from server.reports.card import write_card
from server.reports.outward import Outward
from server.reports.rows import read_rows
from server.reports.studied import study_of
from server.rounds.claim import claim_of
from server.rounds.runs import RunRecord, record_of

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PretrainedConfig

    from common.codebook import Codebook


def export_adapter(run: Path, out: Path, base: str | None = None, *, merge: bool = False) -> Path:
    """Write the adapter of the last checkpoint of a run folder into the new folder `out`, all of it or nothing.

    Parameters
    ----------
    run
        Folder of the run.
    out
        Must not exist, or be empty.
    base
        Where the base model is, if it is not where the run's configuration says.
    merge
        Whether `out/merged` is to hold the base model with the adapter in its weights.

    Raises
    ------
    FedReasonError
        RUN_CHECKPOINT where there is none to read, MODEL_MISSING without the base model's config.json or, to merge, its
        weights, MODEL_ADAPTER where the adapter is not for that model, KIT_EXISTS where `out` holds anything.
    """
    out = out.resolve()
    require_new(out)
    config = run_config(run)
    number, adapter = last_adapter(run)
    record = record_of(run)
    codebook = _codebook(run, record, config)
    embedded = base is None and config.model.base == TINY
    here = record.config.parent if record is not None else _models(run)
    name = base or (_tiny(config, codebook) if embedded else config.model.place(here))
    tensors, model = _peft(config, None if embedded else name, adapter)
    kept = read_rows(run).until(number)
    study = study_of(run, config) if number == config.federation.rounds else None
    public = None if codebook is None or codebook.private else codebook
    outward = Outward(config, kept, number, adapter_sha256(adapter), public, study)
    with fresh_folder(out, private=False) as made:
        _write(made, config, name, tensors, model, outward)
        if merge:
            merge_adapter(made, config.model, name, made / "merged")
            write_card(made / "merged", outward, merged=True)
    return out


def _write(
    folder: Path, config: RunConfig, base: str, tensors: dict[str, Any], model: PeftModel, outward: Outward
) -> None:
    """Write the adapter, what it is and its card."""
    from safetensors.numpy import save_file

    from common.model.adapter import read_peft

    lora = model.peft_config["default"]
    lora.base_model_name_or_path, lora.revision = base, config.model.revision
    lora.save_pretrained(str(folder))
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    read_peft(model, folder)
    description = Description(
        run=config.name,
        round=outward.round,
        rounds=config.federation.rounds,
        adapter_sha256=outward.sha256,
        config_sha256=config.sha256,
        codebook_sha256=config.questions.codebook_sha256,
        base=config.model.base,
        revision=config.model.revision,
        manifest_sha256=config.model.manifest_sha256,
        dtype=config.model.dtype,
        quantization=config.model.quantization,
        seed=config.seed,
        adapter=config.adapter,
        max_prompt_tokens=config.grpo.max_prompt_tokens,
        prompt=config.grpo.prompt,
        max_completion_tokens=config.grpo.max_completion_tokens,
        asked=Asked(view=config.questions.view, held_out=config.questions.held_out, federation=config.federation.name),
    )
    (folder / DESCRIPTION).write_text(description.model_dump_json(indent=1) + "\n", encoding="utf-8")
    write_card(folder, outward, merged=False)


def run_config(run: Path) -> RunConfig:
    """Return the configuration that a run folder belongs to."""
    try:
        return RunConfig.model_validate(claim_of(run)["config"])
    except (OSError, LookupError, ValidationError):
        raise FedReasonError(
            Code.RUN_CHECKPOINT, f"{run} holds no config.json of a run.", "Name a run that has been started."
        ) from None


def last_adapter(run: Path) -> tuple[int, Vector]:
    """Return the round and the adapter of a run's checkpoint, also while the run goes on."""
    from safetensors import SafetensorError, safe_open

    path = run / "checkpoint.safetensors"
    try:
        with safe_open(path, framework="numpy") as file:
            return int(file.metadata()["round"]), adapter_of(file.get_tensor("adapter"))
    except (SafetensorError, OSError, KeyError, ValueError, TypeError):
        raise FedReasonError(
            Code.RUN_CHECKPOINT,
            f"{path} is missing or damaged.",
            "Wait for the end of the first round, or put the file back from a backup.",
        ) from None


def _codebook(run: Path, record: RunRecord | None, config: RunConfig) -> Codebook | None:
    """Return the run's codebook where it is on this machine and the same, else None.

    Beside a run that was handed to Flower it is that of its configuration; a simulated run keeps it at its sites.
    """
    if config.questions.codebook == SYNTHETIC:
        from common import synthetic

        found = synthetic.codebook()
    else:
        try:
            if record is not None:
                found = load_config(record.config)[1]
            else:
                found = load_codebook(min(run.glob("sites/*/codebook.toml"), default=run / "codebook.toml"))
        except FedReasonError:
            return None
    return found if found.sha256 == config.questions.codebook_sha256 else None


def _models(run: Path) -> Path:
    """Folder that a relative base of a simulated run starts from, as its sites have it; of any other run this one."""
    try:
        site = min(run.glob("sites/*/site.toml"), default=run / "site.toml")
        return Path(tomllib.loads(site.read_text(encoding="utf-8"))["models"])
    except (OSError, ValueError, LookupError, TypeError):
        return Path()


def _tiny(config: RunConfig, codebook: Codebook | None) -> str:
    """Folder where this machine keeps the run's embedded model, or would; "tiny" where its codebook is not here."""
    if config.questions.codebook == SYNTHETIC:
        return str(Embedded.of().folder)
    return TINY if codebook is None else str(Embedded.of(codebook, config.questions.view).folder)


def _shape(config: RunConfig, name: str | None) -> PretrainedConfig:
    """Return the base model's configuration; None names the embedded model, whose adapter no vocabulary changes."""
    from transformers import AutoConfig

    if name is None:
        from common.tiny.network import network_shape

        return network_shape(vocabulary=1)
    path = str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
    try:
        shape: PretrainedConfig = AutoConfig.from_pretrained(path, revision=config.model.revision)
    except (OSError, ValueError) as error:
        raise FedReasonError(
            Code.MODEL_MISSING,
            f"The base model {name} has no readable config.json ({type(error).__name__}).",
            "Name a folder with the base model's config.json by --base; the weights are not needed.",
        ) from None
    return shape


def _peft(config: RunConfig, name: str | None, adapter: Vector) -> tuple[dict[str, Any], PeftModel]:
    """Return the tensors of a PEFT adapter by name, and the model without weights that they are for."""
    with loading():
        import torch
        from transformers import AutoModelForCausalLM

        from common.model.adapter import AdapterLayout, require_finite
        from common.model.base import add_lora, public_signs

    shape = _shape(config, name)
    with torch.device("meta"):
        model = add_lora(AutoModelForCausalLM.from_config(shape), config.adapter, config.seed)
    layout = AdapterLayout.of(model)
    if layout.size != adapter.size:
        raise FedReasonError(
            Code.MODEL_ADAPTER,
            f"The adapter has {adapter.size} values, this base model would train {layout.size}.",
            "Name the base model of the run by --base.",
        )
    require_finite(adapter, f"The adapter of {config.name}")
    pieces = np.split(adapter, np.cumsum([int(np.prod(shape)) for shape in layout.shapes])[:-1])
    tensors = {n: piece.reshape(s) for n, s, piece in zip(layout.names, layout.shapes, pieces, strict=True)}
    for parameter, value in model.named_parameters():
        if "lora_A" in parameter:
            tensors[parameter] = public_signs(config.seed, parameter, *value.shape).numpy()
    return {n.replace(".default.", "."): np.ascontiguousarray(t) for n, t in tensors.items()}, model
