"""What can be said of a run's model from the files on this machine, before it is loaded; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from client.inspection.memory import Shape
from common.codebook import Codebook
from common.config import AdapterConfig, RunConfig
from common.model.making import STAGE
from common.processes import loading
from common.tiny import Embedded

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


def local_tokenizer(run: RunConfig, codebook: Codebook, models: Path = Path()) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer of a run's model; None where the model is not on this machine."""
    name = _place(run, codebook, models)
    if name is None:
        return None
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            name, revision=run.model.revision, local_files_only=True
        )
    except (OSError, ValueError):
        return None
    return tokenizer


def local_shape(run: RunConfig, codebook: Codebook, models: Path = Path()) -> Shape | None:
    """Return the shape of a run's model; None where the model is not on this machine."""
    name = _place(run, codebook, models)
    if name is None:
        return None
    from transformers import AutoConfig

    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(name, revision=run.model.revision, local_files_only=True)
    except (OSError, ValueError):
        return None
    return shape_of(config, run.adapter)


def missing_model(run: RunConfig, codebook: Codebook) -> str:
    """Say what a model that is not on this machine needs: it is being made, can be made, or has to be brought."""
    model = Embedded.of_run(run, codebook)
    if model is None:
        return f"model {run.model.base} not on this machine, and a site downloads none"
    if model.progress is not None:
        return f"{STAGE}: {model.progress}"
    return "model not made yet: `python -m client model --run FILE` makes it, in minutes"


def shape_of(config: PretrainedConfig, adapter: AdapterConfig) -> Shape:
    """Return a model's shape; it is built without any weights."""
    with loading():
        import torch
        from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    text = config.get_text_config()
    heads = text.num_attention_heads
    targets = adapter.target_modules
    output = model.get_output_embeddings()
    layers = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    adapted = [
        (module.in_features, module.out_features)
        for name, module in layers.items()
        if (module is not output if targets == "all-linear" else name.split(".")[-1] in targets)
    ]
    linear = [(module.in_features, module.out_features) for module in layers.values() if module is not output]
    return Shape(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        adapted=tuple(adapted),
        linear=tuple(linear),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        heads=heads,
        key_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_width=getattr(text, "head_dim", None) or text.hidden_size // heads,
        vocabulary=text.vocab_size,
    )


def _place(run: RunConfig, codebook: Codebook, models: Path) -> str | None:
    """Folder or hub id of the model; of the small one only where it was made before."""
    model = Embedded.of_run(run, codebook)
    if model is None:
        return run.model.place(models)
    return str(model.folder) if model.there else None
