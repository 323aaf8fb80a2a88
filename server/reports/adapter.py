"""An exported adapter at work: the model it is merged into, an answer by it."""

from __future__ import annotations

import sys
from pathlib import Path

from common.config import ModelConfig
from common.errors import Code, FedReasonError
from common.logs import quiet_libraries
from common.model.exported import load_exported, read_description, require_made
from common.processes import loading


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

    from common.model.base import load_base, write_model

    require_made(model.base, base)
    fresh = model.model_copy(update={"dtype": "float32", "quantization": "none"})
    loaded, tokenizer = load_base(fresh, base)
    stored = AutoConfig.from_pretrained(base, revision=model.revision).dtype or getattr(torch, model.dtype)
    merged = PeftModel.from_pretrained(loaded, str(folder)).merge_and_unload()
    merged.to(stored)
    merged.config.dtype = stored
    write_model(merged, tokenizer, out)


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
        return sys.stdin.buffer.read().decode("utf-8-sig")
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
    require_made(described.base, place)
    quiet_libraries()
    with loading():
        import torch

        from common.decoding.ends import ends_of
        from common.decoding.generate import generate
    from common.questions.prompt import prompt_tokens
    from common.questions.question import Question

    model, tokenizer = load_exported(folder, described, place, "cuda" if torch.cuda.is_available() else "cpu")
    asked = Question("", "", "categorical", (), question.strip("\n"), (), 0)
    tokens = prompt_tokens(asked, tokenizer, described.prompt)
    if len(tokens) > described.max_prompt_tokens:
        raise FedReasonError(
            Code.QUESTION_UNFIT,
            f"The question has {len(tokens)} tokens; the run's had {described.max_prompt_tokens} at the most.",
            "Leave out lines of the record.",
        )
    most, ends = described.max_completion_tokens, ends_of(model, tokenizer)
    done = generate(model, [tokens], group_size=1, max_tokens=most, ends=ends, pad=tokenizer.pad_token_id)
    return str(tokenizer.decode(done.tokens[0][: int(done.mask[0].sum())], skip_special_tokens=True))
