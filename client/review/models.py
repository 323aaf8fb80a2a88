"""The two models of a review: exported adapters over their bases, or one against its base."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from client.preview.text import visible
from client.review.store import CaseRow
from common.codebook import Codebook
from common.config import TINY
from common.errors import Code, FedReasonError
from common.model.exported import Asked, Description, load_exported, read_description, require_made
from common.processes import loading
from common.questions.question import Question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BASE = "base"
_ROWS = 8
"""Cases that are answered as one batch; always the same ones, so that an interruption changes no answer."""


@dataclass(frozen=True)
class Model:
    """One of two models.

    Attributes
    ----------
    name
        By which a person knows it; shown to nobody who rates.
    folder
        Of the adapter; None is the base alone.
    described
        The adapter's description, of the base that of the other model's adapter.
    place
        Where the base model is on this machine.
    """

    name: str
    folder: Path | None
    described: Description
    asked: Asked
    place: str

    @property
    def sha256(self) -> str:
        """Hash of the adapter and what it stands on; of the base alone it says so."""
        adapter = BASE if self.folder is None else self.described.adapter_sha256
        return hashlib.sha256(f"{adapter} {self.described.config_sha256}".encode()).hexdigest()


def models_of(named: Sequence[str], codebook: Codebook, models: Path) -> tuple[Model, Model]:
    """Return the two models that a command names: folders of exported adapters, or "base" in place of one.

    Parameters
    ----------
    models
        Folder that a relative path of a base model starts from.

    Raises
    ------
    FedReasonError
        REVIEW_MODELS where they are not two that can be compared; MODEL_ADAPTER, MODEL_MISSING, CODEBOOK_CHANGED.
    """
    folders = [None if name == BASE else Path(name).expanduser() for name in named]
    adapters = [folder for folder in folders if folder is not None]
    if len(folders) != 2 or not adapters:
        raise FedReasonError(
            Code.REVIEW_MODELS,
            f"A review compares two models, and {len(named)} were named ({len(adapters)} of them adapters).",
            "Give --adapter twice: two folders that `python -m server export` wrote, or one and the word base.",
        )
    read = {folder: _described(folder, codebook) for folder in adapters}
    found = []
    for folder in folders:
        described, asked, said = read[folder or adapters[0]]
        what = f"base model {described.base}" if folder is None else f"{described.run}, round {described.round}"
        what = visible(what)
        place = _place(described, asked, said, codebook, models)
        require_made(described.base, place)
        found.append(Model(what, folder, described, asked, place))
    first, second = found
    if first.sha256 == second.sha256:
        raise FedReasonError(Code.REVIEW_MODELS, "Both models are the same.", "Name two that differ.")
    if first.asked.view != second.asked.view:
        raise FedReasonError(
            Code.REVIEW_MODELS,
            f"One model was trained on the view '{first.asked.view}', the other on '{second.asked.view}'.",
            "Compare two that read the same of a record.",
        )
    if first.name == second.name:
        first, second = (_told_apart(one) for one in found)
    return first, second


def _told_apart(model: Model) -> Model:
    name = f"{model.name} ({model.described.adapter_sha256[:8]})"
    return Model(name, model.folder, model.described, model.asked, model.place)


def _described(folder: Path, codebook: Codebook) -> tuple[Description, Asked, str]:
    described, said = read_description(folder)
    if described.asked is None:
        raise FedReasonError(
            Code.MODEL_ADAPTER,
            f"{folder} does not say what its run asked: it was exported by an earlier version.",
            "Export it again (`python -m server export RUN --out FOLDER`).",
        )
    if described.codebook_sha256 != codebook.sha256:
        raise FedReasonError(
            Code.CODEBOOK_CHANGED,
            f"{folder} is of a run with the codebook {str(described.codebook_sha256)[:12]}..., "
            f"this site has {codebook.sha256[:12]}...",
            "Compare models that were trained with this site's codebook.",
        )
    return described, described.asked, said


def _place(described: Description, asked: Asked, said: str, codebook: Codebook, models: Path) -> str:
    """Return where the base model is here; of embedded ones the one whose folder the adapter names."""
    if described.base != TINY:
        return described.model.place(models)
    from common import synthetic
    from common.tiny import Embedded

    own, public = Embedded.of(codebook, asked.view), Embedded.of()
    known = codebook.sha256 == synthetic.codebook().sha256
    named = [one for one in (public, own) if one.folder.name == Path(said).name]
    return str((named or [public if known else own])[0].folder)


def as_question(case: CaseRow) -> Question:
    """Return a case as it is put to a model; a consultation has no choices."""
    return Question(case.patient, case.item, "categorical", tuple(case.record), case.text, tuple(case.choices), 0)


def tokenizer_of(model: Model) -> PreTrainedTokenizerBase:
    """Return a model's tokenizer alone."""
    from transformers import AutoTokenizer

    try:
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model.place, revision=model.described.revision)
    except (OSError, ValueError) as error:
        raise FedReasonError(
            Code.MODEL_MISSING,
            f"The base model {model.place} cannot be loaded ({type(error).__name__}).",
            "Copy it to this machine; a relative path starts from the folder that `models` in site.toml names.",
        ) from None
    return found


def fits(model: Model, tokenizer: PreTrainedTokenizerBase, case: CaseRow) -> bool:
    """Whether a case is no longer than the prompts that the model was trained on."""
    from common.questions.prompt import prompt_tokens

    return len(prompt_tokens(as_question(case), tokenizer, model.described.prompt)) <= model.described.max_prompt_tokens


def answers(model: Model, device: str, cases: Sequence[CaseRow], done: frozenset[int]) -> Iterator[dict[int, str]]:
    """Yield the model's greedy answers to the cases that are not done, a batch at a time.

    A batch is of the same cases whatever is done, for the bits of an answer may depend on its batch.
    """
    batches = [cases[place : place + _ROWS] for place in range(0, len(cases), _ROWS)]
    left = [batch for batch in batches if not done.issuperset(case.number for case in batch)]
    if not left:
        return
    with loading():
        from common.decoding.ends import ends_of
        from common.decoding.generate import generate
        from common.model.policy import Policy
    from common.questions.prompt import prompt_tokens

    adapted, tokenizer = load_exported(model.folder, model.described, model.place, device)
    policy, described = Policy(adapted), model.described
    for batch in left:
        prompts = [prompt_tokens(as_question(case), tokenizer, described.prompt) for case in batch]
        made = generate(
            policy.model,
            prompts,
            group_size=1,
            max_tokens=described.max_completion_tokens,
            ends=ends_of(adapted, tokenizer),
            pad=tokenizer.pad_token_id,
        )
        rows = zip(batch, made.tokens.tolist(), made.mask.sum(1).tolist(), strict=True)
        yield {case.number: str(tokenizer.decode(row[:length], skip_special_tokens=True)) for case, row, length in rows}
