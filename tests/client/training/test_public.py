"""Public questions: made from the codebook alone, the same everywhere, answered by reading; for a guarded run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from client.node.handlers import HANDLERS, answer
from client.training.public import public_counts, public_questions
from client.training.requests import evaluate
from client.training.workplace import Workplace
from common import synthetic
from common.codebook import load_codebook
from common.config import RunConfig
from common.errors import Code, FedReasonError
from common.guard import KINDS, PUBLIC, GuardConfig
from common.messages.kinds import Refusal, Task
from common.messages.records import read_task, task_record
from common.questions.question import MASK
from simulation.prepare import prepare
from tests.checked import mutated, passing
from tests.paths import ROOT
from tests.privacy_checks.public import CHECKS
from tests.small import small_config


@pytest.mark.parametrize("passes", passing(CHECKS))
def test_the_check_passes(passes: Callable[[], bool]) -> None:
    assert passes()


@pytest.mark.parametrize("mutation", mutated(CHECKS))
def test_the_check_catches_the_mutation(mutation: Callable[[], bool]) -> None:
    assert not mutation()


@pytest.fixture
def guarded(small_model: Path) -> RunConfig:
    return small_config(small_model, guard={"questions": 24})


def of_view(config: RunConfig, view: str) -> RunConfig:
    return config.model_copy(update={"questions": config.questions.model_copy(update={"view": view})})


@pytest.mark.parametrize("name", ["synthetic", "support2", "eicu", "physionet2019", "omop"])
def test_on_any_codebook_the_answer_is_read_off_the_record_and_nothing_else_is_masked(
    guarded: RunConfig, name: str
) -> None:
    path = ROOT / "configs" / "registries" / f"{name}.toml"
    codebook = synthetic.codebook() if name == "synthetic" else load_codebook(path)
    questions = list(public_questions(codebook, of_view(guarded, "full"), 40))
    assert len(questions) > 20
    for question in questions:
        assert question.truth in "\n".join(question.record)
        assert not any(MASK in line for line in question.record) and "masked" not in question.text
        assert question.choices[question.answer] == question.truth and len(set(question.choices)) >= 2


def test_of_the_synthetic_core_what_is_publicly_known_is_asked_and_never_treatment(guarded: RunConfig) -> None:
    questions = list(public_questions(synthetic.codebook(), guarded, 200))
    asked = {question.item for question in questions}
    assert asked & {"sofa_renal", "platelets"} and not asked & {"antibiotic", "antibiotic_interval", "fluid_volume"}
    assert all(MASK in "\n".join(question.record) for question in questions)


def test_they_are_the_run_s_own_by_its_seed(guarded: RunConfig) -> None:
    def first(config: RunConfig) -> Sequence[object]:
        return list(islice(public_questions(synthetic.codebook(), config, 20), 10))

    assert first(guarded) == first(guarded.model_copy(update={"name": "other"}))
    assert first(guarded) != first(guarded.model_copy(update={"seed": 4}))


def test_counts_are_of_as_many_as_the_run_states_and_of_none_that_is_too_long(
    guarded: RunConfig, tmp_path: Path
) -> None:
    site = Workplace(next(iter(prepare(guarded, synthetic.codebook(), tmp_path).values())))
    engine = site.engine(guarded)
    counts = public_counts(engine, site.codebook, guarded)[PUBLIC]
    assert set(counts) == set(KINDS) and counts["asked"] == 24
    assert 0 < counts["boxed"] <= 24 and max(counts["right"], counts["other"]) <= counts["boxed"]
    short = guarded.model_copy(update={"grpo": guarded.grpo.model_copy(update={"max_prompt_tokens": 1})})
    assert public_counts(engine, site.codebook, short)[PUBLIC] == dict.fromkeys(KINDS, 0)
    size = engine.layout.size
    for value, boxed in ((0.0, counts["boxed"]), (50.0, 0)):
        task = Task(guarded, 1, 0, np.full(size, value, dtype=np.float32), public=True)
        answered = evaluate(site, task).counts
        assert answered is not None and answered[PUBLIC]["boxed"] == boxed


def test_a_run_without_a_guard_is_asked_none_and_the_gate_is_the_same(guarded: RunConfig, tmp_path: Path) -> None:
    folder = next(iter(prepare(guarded, synthetic.codebook(), tmp_path).values()))
    site = Workplace(folder)
    adapter = np.zeros(site.engine(guarded).layout.size, dtype=np.float32)
    bare = guarded.model_copy(update={"guard": None})
    with pytest.raises(FedReasonError) as refusal:
        evaluate(site, Task(bare, 1, 0, adapter, public=True))
    assert refusal.value.code is Code.POLICY_REFUSED
    questions = guarded.questions.model_copy(update={"codebook_sha256": "0" * 64})
    other = Task(guarded.model_copy(update={"questions": questions}), 1, 0, adapter, public=True)
    assert answer(folder, HANDLERS["evaluate"], other) == Refusal(folder.name, int(Code.CODEBOOK_CHANGED))
    broken = replace(Task(guarded, 1, 0, adapter, public=True), adapter=np.full_like(adapter, np.nan))
    assert answer(folder, HANDLERS["evaluate"], broken) == Refusal(folder.name, int(Code.MODEL_ADAPTER))


def test_a_task_says_so_over_the_wire_and_a_run_without_a_guard_keeps_its_hash(guarded: RunConfig) -> None:
    task = Task(guarded, 2, 1, np.zeros(3, dtype=np.float32), public=True)
    again = read_task(task_record(task))
    assert again.public is True and again.config == guarded and again.config.sha256 == guarded.sha256
    assert read_task(task_record(replace(task, public=False))).public is False
    bare = guarded.model_copy(update={"guard": None})
    assert "guard" not in bare.model_dump_json()
    assert len({bare.sha256, guarded.sha256, guarded.model_copy(update={"guard": GuardConfig()}).sha256}) == 3
