"""Base model and its LoRA adapter: A is public, frozen and the same bits everywhere; B starts at zero and is trained.

The mean of B_i A is then (mean of B_i) A, so averaging, secure sums and noise on B are exact.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from common.config import AdapterConfig, ModelConfig
from common.decoding.determinism import prepare
from common.errors import Code, FedReasonError
from common.model.lean import make_lean
from common.model.quantization import keep_bits, nf4_options

_ADAPTER = "adapter_config.json"
_MANIFEST_EXCLUDES = {".git", ".cache", "__pycache__"}


def manifest(folder: Path) -> str:
    """SHA-256 over the sorted lines `sha256  path` of every file of a model folder."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        relative = path.relative_to(folder)
        if not _MANIFEST_EXCLUDES & set(relative.parts):
            with path.open("rb") as file:
                digest.update(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {relative.as_posix()}\n".encode())
    return digest.hexdigest()


def write_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write both to a folder: the same bits whether the machine that read them may ask a hub or not."""
    if "local_files_only" in tokenizer.init_kwargs:
        tokenizer.init_kwargs["local_files_only"] = False
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def load_base(
    config: ModelConfig, place: str | None = None, device: str = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a frozen base model and its tokenizer.

    Parameters
    ----------
    place
        Where it is on this machine (`ModelConfig.place`, or the folder of the locally made model); by default what
        `config.base` says, from the working directory.

    Raises
    ------
    FedReasonError
        Where there is no such model, its files differ from the stated manifest, it cannot be quantised as stated, or
        it is an adapter.
    """
    prepare(device)
    name = place or config.place(Path())
    folder = Path(name)
    if config.manifest_sha256 and (not folder.is_dir() or manifest(folder) != config.manifest_sha256):
        raise FedReasonError(
            Code.MODEL_MANIFEST,
            f"The files of the base model {name} differ from the manifest in the run configuration.",
            "Copy the model folder again, or state the manifest of the model that was agreed on.",
        )
    if (folder / _ADAPTER).exists():
        raise _no_base(name)
    if not (folder / "config.json").exists() and any(folder.glob("*.gguf")):
        raise FedReasonError(
            Code.MODEL_MISSING,
            f"The base model {name} is a GGUF file alone.",
            "Make a folder of it by `python -m server model FILE --out FOLDER`, and name that.",
        )
    options = nf4_options() if config.quantization == "nf4" else {}
    try:
        _refuse_quantized(name, config.revision)
        tokenizer = AutoTokenizer.from_pretrained(name, revision=config.revision, padding_side="left")
        model = load_whole(name, revision=config.revision, dtype=getattr(torch, config.dtype), **options)
    except (OSError, ValueError) as error:
        raise FedReasonError(
            Code.MODEL_MISSING,
            f"The base model {name} cannot be loaded ({type(error).__name__}).",
            "Name a directory with a transformers model and tokenizer, or a hub id whose files are on this machine.",
        ) from None
    if getattr(model, "_hf_peft_config_loaded", False):
        raise _no_base(name)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.requires_grad_(False)
    keep_bits(model)
    model.to(torch.device(device))  # type: ignore[arg-type]
    return model.eval(), tokenizer


def load_whole(name: str, **options: Any) -> PreTrainedModel:
    """Load a causal language model all of whose weights are in its files.

    Parameters
    ----------
    options
        Of transformers' `from_pretrained`, which would draw what is missing at random, other numbers at each load.

    Raises
    ------
    FedReasonError
        MODEL_MISSING where a tensor is missing or of another shape. What transformers raises, where it does.
    """
    loaded: Any = AutoModelForCausalLM.from_pretrained(name, output_loading_info=True, **options)
    model, found = loaded
    odd = sorted(map(str, [*found["missing_keys"], *found["mismatched_keys"], *found["error_msgs"]]))
    if odd:
        raise FedReasonError(
            Code.MODEL_MISSING,
            f"The files of the model {name} lack {len(odd)} of its weights, or hold others: {', '.join(odd[:3])}.",
            "Copy or fetch the whole folder again.",
        )
    assert isinstance(model, PreTrainedModel)
    return model


def _no_base(name: str) -> FedReasonError:
    """Refuse an adapter's folder as a base: transformers would load it over its base in silence, whole or not."""
    return FedReasonError(
        Code.MODEL_ADAPTER,
        f"The base model {name} is an adapter's folder, or holds one ({_ADAPTER}).",
        "Name the model that the adapter was made for, or merge the adapter into it and name the result.",
    )


def _refuse_quantized(name: str, revision: str | None) -> None:
    """Refuse weights that come quantised: the run says what the base is, and every site packs it alike."""
    if getattr(AutoConfig.from_pretrained(name, revision=revision), "quantization_config", None) is not None:
        raise FedReasonError(
            Code.MODEL_QUANTIZATION,
            f"The weights of the base model {name} are quantised already.",
            'Name the model they were made from, and state model.quantization = "nf4" for four bits.',
        )


def public_signs(seed: int, module: str, rows: int, columns: int) -> torch.Tensor:
    """Matrix of +-1/sqrt(columns), float32, its signs from SHAKE-256 of (seed, module name): rows of unit norm."""
    stream = hashlib.shake_256(f"fedreason lora A\0{seed}\0{module}".encode()).digest(-(-rows * columns // 8))
    bits = np.unpackbits(np.frombuffer(stream, dtype=np.uint8), count=rows * columns, bitorder="little")
    signs = torch.from_numpy(bits.astype(np.float32) * 2 - 1).view(rows, columns)
    return signs / float(np.sqrt(columns))


def set_public_a(model: PeftModel, seed: int) -> None:
    """Set every A to its public signs and leave B alone trainable."""
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            with torch.no_grad():
                parameter.copy_(public_signs(seed, name, *parameter.shape))
    train_b_alone(model)


def train_b_alone(model: torch.nn.Module) -> None:
    """Make B alone trainable; peft makes A trainable whenever it loads, enables or switches an adapter."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_B" in name)


@contextlib.contextmanager
def without_adapter(model: torch.nn.Module) -> Iterator[None]:
    """Switch the adapter off for a while, so that the frozen base needs no second copy."""
    assert isinstance(model, PeftModel)
    try:
        with model.disable_adapter():
            yield
    finally:
        train_b_alone(model)


def add_lora(model: PreTrainedModel, config: AdapterConfig, seed: int) -> PeftModel:
    """Attach a LoRA adapter of zero effect, float32 whatever the base's dtype.

    A 4-bit base is taken as it is: peft's preparation for k-bit training would make norms and embeddings float32 and
    have every pass recomputed.

    Raises
    ------
    FedReasonError
        Where the target modules are not in this model.
    """
    targets = config.target_modules if isinstance(config.target_modules, str) else list(config.target_modules)
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        target_modules=targets,
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    try:
        adapted = get_peft_model(model, lora, autocast_adapter_dtype=True)
    except ValueError:
        raise FedReasonError(
            Code.MODEL_TARGETS,
            f"adapter.target_modules ({targets}) name no linear layer of this model.",
            "Use names of its linear layers, such as q_proj and v_proj, or all-linear.",
        ) from None
    assert isinstance(adapted, PeftModel)
    set_public_a(adapted, seed)
    make_lean(adapted)
    return adapted.eval()
