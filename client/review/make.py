"""The making of a review: cases drawn from records that neither model was trained on, and both models' answers."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

from client.preview.questions import items_in_turn, sampled
from client.review.models import Model, answers, fits, models_of, tokenizer_of
from client.review.scale import SIDES
from client.review.store import CaseRow, ReviewRow, ReviewStore
from client.site.config import SiteConfig, load_site
from client.site.devices import pick_device
from client.site.exclusions import read_exclusions, without_excluded
from client.site.opened import read_registry
from client.site.secret import split_secret
from client.site.split import kept
from common.codebook import Codebook, load_codebook
from common.errors import Code, FedReasonError
from common.logs import quiet_libraries
from common.processes import loading
from common.questions.question import Consultation, Patient, Question, QuestionMaker

Report = Callable[[int, int], None]
"""Is told how many answers there are, and of how many."""
_SPARE = 4
"""So many times the cases are drawn: prompts that are too long, and patients who come twice, are left out."""


@dataclass(frozen=True)
class Plan:
    """What a review is to be: how many cases, drawn by which seed, of one feature or task or of all."""

    cases: int
    seed: int
    item: str | None


def make_review(folder: Path, name: str, named: Sequence[str], plan: Plan, report: Report) -> int:
    """Make a review, or go on with one that was interrupted; return how many cases it has.

    Raises
    ------
    FedReasonError
        REVIEW_MODELS, REVIEW_OTHER where the review of this name is another one, and whatever is wrong with site,
        registry or models.
    """
    quiet_libraries()
    config = load_site(folder)
    codebook = load_codebook(config.codebook)
    models = models_of(named, codebook, config.models)
    claim = {
        "models": [model.sha256 for model in models],
        "cases": plan.cases,
        "seed": plan.seed,
        "item": plan.item,
        "codebook": codebook.sha256,
    }
    with ReviewStore.made(folder, name) as store:
        found = store.review()
        if found is None:
            patients = unseen(folder, config, models)
            cases = drawn(codebook, patients, models, plan)
            first, second = models
            secret = secrets.token_hex(16)
            store.begin(ReviewRow(id=1, claim=claim, first=first.name, second=second.name, secret=secret), cases)
        elif found.claim != claim:
            differing = [key for key, value in claim.items() if found.claim.get(key) != value]
            raise FedReasonError(
                Code.REVIEW_OTHER,
                f"{store.path} is another review: {', '.join(differing)} differ.",
                "Give this one another name (--name), or the command of that one to go on with it.",
            )
        required = config.federation is not None
        store.withdraw(read_exclusions(folder, required=required, column=codebook.patient))
        _answer(store, config, models, report)
        return len(store.cases())


def _answer(store: ReviewStore, config: SiteConfig, models: Sequence[Model], report: Report) -> None:
    """Have both models answer what is not answered yet."""
    with loading():
        import torch

    if config.threads:
        torch.set_num_threads(config.threads)
    device = pick_device(config.own_devices[0])
    cases = [case for case in store.cases().values() if not case.withdrawn]
    report(*store.progress())
    for side, model in zip(SIDES, models, strict=True):
        done = frozenset(case for case, of in store.completions() if of == side)
        for texts in answers(model, device, cases, done):
            store.answered(side, texts)
            report(*store.progress())


def unseen(folder: Path, config: SiteConfig, models: Sequence[Model]) -> list[Patient]:
    """Return the patients who have not opted out and were kept for evaluation in the runs of both models.

    Raises
    ------
    FedReasonError
        REGISTRY_UNUSABLE where there are none.
    """
    codebook = load_codebook(config.codebook)
    registry = read_registry(config, codebook)
    patients = without_excluded(
        registry.patients,
        folder,
        required=config.federation is not None,
        whole_hospital=config.exclusions.whole_hospital,
        column=codebook.patient,
    )
    secret = split_secret(folder, config.federation)
    keys = {(model.asked.held_out, model.asked.federation if secret is None else secret) for model in models}
    found = [patient for patient in patients if all(kept(patient.id, share, key) for share, key in keys)]
    if not found:
        raise FedReasonError(
            Code.REGISTRY_UNUSABLE,
            f"None of the {len(patients):,} patients was kept for evaluation by the run of every model.",
            "Compare models of runs with questions.held_out above 0.",
        )
    return found


def drawn(codebook: Codebook, patients: Sequence[Patient], models: Sequence[Model], plan: Plan) -> list[CaseRow]:
    """Draw the cases: features and tasks in turn, another patient each while there are enough of them.

    Raises
    ------
    FedReasonError
        REGISTRY_UNUSABLE where no case can be asked.
    """
    maker = QuestionMaker(codebook, models[0].asked.view)
    items = items_in_turn(maker, plan.item, plan.seed)
    tokenizers = [tokenizer_of(model) for model in models]
    wanted = _SPARE * plan.cases
    while True:
        found = sampled(maker, items, patients, wanted, plan.seed)
        asked = [_case(codebook, one.asked) for one in found]
        fitting = [case for case in asked if all(map(fits, models, tokenizers, repeat(case)))]
        if len(fitting) >= plan.cases or len(found) < wanted:
            break
        wanted *= _SPARE
    firsts = {case.patient: case for case in reversed(fitting)}
    others = [case for case in fitting if firsts[case.patient] is not case]
    cases = [*(case for case in fitting if firsts[case.patient] is case), *others][: plan.cases]
    if not cases:
        raise FedReasonError(
            Code.REGISTRY_UNUSABLE,
            f"None of the {len(patients):,} held-out patients can be asked by a prompt that both models take.",
            "`python -m client check` counts what was measured, by feature.",
        )
    for number, case in enumerate(cases, start=1):
        case.number = number
    return cases


def _case(codebook: Codebook, asked: Question | Consultation) -> CaseRow:
    kind: str
    if isinstance(asked, Question):
        kind, choices, truth = asked.kind, list(asked.choices), asked.truth
    else:
        kind, choices, truth = "consultation", [], asked.reference
    tasks = {task.name: task.kind for task in codebook.tasks}
    return CaseRow(
        number=0,
        patient=asked.patient,
        kind=tasks.get(asked.item, kind),
        item=asked.item,
        record=list(asked.record),
        text=asked.text,
        choices=choices,
        truth=truth,
        withdrawn=False,
    )
