"""An exported adapter at work: what `fedreason.json` says of it, the model it is merged into, an answer by it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from common.arrays import adapter_sha256
from common.config import PAPER, TINY, AdapterConfig, ModelConfig, PromptConfig
from common.errors import Code, FedReasonError
from common.logs import quiet_libraries
from common.toml import Strict

DESCRIPTION = "fedreason.json"


class Description(Strict):
    """What an exported adapter is of, and how its model is asked."""

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

    @property
    def model(self) -> ModelConfig:
        """Return the base model as a run states it."""
        names = ("base", "revision", "manifest_sha256", "dtype", "quantization")
        return ModelConfig.model_validate({name: getattr(self, name) for name in names})


def merge_adapter(folder: Path, model: ModelConfig, base: str, out: Path) -> None:
    """Write the base model with an adapter in its weights into the new folder `out`, its tokenizer beside it.

    The sum is made in float32, whatever the base is stored in, and rounded to that once. A base that the run packs to
    4 bits is taken unpacked: the run's own model was another by what packing lost.

    Raises
    ------
    FedReasonError
        MODEL_MISSING, MODEL_MANIFEST or MODEL_QUANTIZATION where the base cannot be loaded.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoConfig

    from common.model.base import load_base

    _require_made(model.base, base)
    fresh = model.model_copy(update={"dtype": "float32", "quantization": "none"})
    loaded, tokenizer = load_base(fresh, base)
    stored = AutoConfig.from_pretrained(base, revision=model.revision).dtype or getattr(torch, model.dtype)
    merged = PeftModel.from_pretrained(loaded, str(folder)).merge_and_unload()
    merged.to(stored)
    merged.config.dtype = stored
    merged.save_pretrained(str(out))
    tokenizer.save_pretrained(str(out))


def given_question(argument: str | None) -> str:
    """Return the question of a command line, or else of standard input.

    Raises
    ------
    FedReasonError
        QUESTION_UNFIT where standard input is not UTF-8.
    """
    if argument is not None:
        return argument
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError:
        raise FedReasonError(
            Code.QUESTION_UNFIT, "Standard input is not UTF-8 text.", "Write the question in UTF-8."
        ) from None


def generate_answer(folder: Path, question: str, base: str | None = None) -> str:
    """Return the completion of a question by an exported adapter, greedily, as in the run's evaluation.

    Parameters
    ----------
    question
        Record, question and lettered choices, one a line.
    base
        Where the base model is, if it is not where the adapter says.

    Raises
    ------
    FedReasonError
        MODEL_ADAPTER where the folder is none that `export` wrote; MODEL_MISSING and others where its base cannot be
        loaded; QUESTION_UNFIT where the question is empty or too long.
    """
    described, place = read_description(folder)
    place = base or place
    if not question.strip():
        raise FedReasonError(
            Code.QUESTION_UNFIT, "No question was given.", "Give it as an argument or on standard input."
        )
    _require_made(described.base, place)
    quiet_libraries()
    import torch

    from common.decoding.generate import generate
    from common.model.adapter import read_peft, write_adapter
    from common.model.base import add_lora, load_base
    from common.questions.prompt import prompt_tokens
    from common.questions.question import Question

    loaded, tokenizer = load_base(described.model, place, "cuda" if torch.cuda.is_available() else "cpu")
    model = add_lora(loaded, described.adapter, described.seed)
    vector = read_peft(model, folder)
    if adapter_sha256(vector) != described.adapter_sha256:
        raise _unfit(folder, "another adapter than fedreason.json says")
    write_adapter(model, vector)
    asked = Question("", "", "categorical", (), question.strip("\n"), (), 0)
    tokens = prompt_tokens(asked, tokenizer, described.prompt)
    if len(tokens) > described.max_prompt_tokens:
        raise FedReasonError(
            Code.QUESTION_UNFIT,
            f"The question has {len(tokens)} tokens; the run's had {described.max_prompt_tokens} at the most.",
            "Leave out lines of the record.",
        )
    most, end = described.max_completion_tokens, tokenizer.eos_token_id
    done = generate(model, [tokens], group_size=1, max_tokens=most, eos=end, pad=tokenizer.pad_token_id)
    return str(tokenizer.decode(done.tokens[0][: int(done.mask[0].sum())], skip_special_tokens=True))


def read_description(folder: Path) -> tuple[Description, str]:
    """Return what an exported adapter is, and where its base model is said to be."""
    try:
        described = Description.model_validate_json((folder / DESCRIPTION).read_text(encoding="utf-8"))
        described.model  # noqa: B018
        place = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise _unfit(folder, type(error).__name__) from None
    if not isinstance(place, str):
        raise _unfit(folder, "its base model has no name")
    return described, place


def _require_made(base: str, place: str) -> None:
    """Refuse an embedded model that has not been made on this machine."""
    if base == TINY and not Path(place).is_dir():
        raise FedReasonError(
            Code.MODEL_MISSING,
            f"The embedded model is not in {place}.",
            "Make it by `python -m client model` (`--run FILE` for a codebook of its own), or name it by --base.",
        )


def _unfit(folder: Path, why: str) -> FedReasonError:
    return FedReasonError(
        Code.MODEL_ADAPTER,
        f"{folder} holds no whole adapter that was exported ({why}).",
        "Export it again (`python -m server export RUN --out FOLDER`).",
    )
