"""Each patient's contribution is its own, sums are exact however patients are split, and nobody's step is a step."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from common.questions.prompt import prompt_tokens
from tests.checked import mutated, passing
from tests.privacy_checks import empty, isolation, lora
from tests.privacy_checks.isolation import bf16, questions_of, unequal

CHECKS = [*isolation.CHECKS, *lora.CHECKS, *empty.CHECKS]
MUTATIONS = mutated(CHECKS)


@pytest.mark.federation
@pytest.mark.parametrize("passes", passing(CHECKS))
def test_the_check_passes(passes: Callable[[], bool]) -> None:
    assert passes()


@pytest.mark.federation
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_check_catches_the_mutation(mutation: Callable[[], bool]) -> None:
    assert not mutation()


@pytest.mark.long
def test_the_patients_of_the_check_have_prompts_of_unequal_length_and_the_model_is_bf16() -> None:
    config, engine = bf16()
    lengths = [
        len(prompt_tokens(question, engine.tokenizer))
        for patient in unequal()
        for question in questions_of(config, patient)
    ]
    assert len(set(lengths)) > len(lengths) // 2 and max(lengths) > 1.5 * min(lengths)
    dtypes = {str(p.dtype) for name, p in engine.model.named_parameters() if "lora" not in name}
    assert dtypes == {"torch.bfloat16"}


def test_the_splits_of_the_check_are_over_one_to_five_sites_and_hold_every_patient_once() -> None:
    everyone = sorted(patient.id for patient in unequal())
    assert {len(sites) for sites in lora.splits()} == {1, 2, 3, 4, 5}
    for sites in lora.splits():
        assert sorted(patient.id for patients in sites for patient in patients) == everyone
