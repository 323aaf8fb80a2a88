"""A run that states [privacy] is refused where its configuration breaks what differential privacy needs."""

from __future__ import annotations

from typing import Any, Literal, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from client.privacy.noise import LARGEST_SIGMA, discrete_gaussian
from client.privacy.validity import require_valid_privacy
from common import synthetic
from common.codebook import Codebook
from common.config import (
    EvaluationConfig,
    FederationConfig,
    GrpoConfig,
    OptimizerConfig,
    PrivacyConfig,
    QuestionsConfig,
    RunConfig,
)
from common.errors import Code, FedReasonError

CODEBOOK = synthetic.codebook()


def run(**changes: Any) -> RunConfig:
    table: dict[str, Any] = {
        "name": "trial",
        "federation": {"name": "fed", "rounds": 4, "sites": 10, "population": 10_000, "sampling_rate": 0.2},
        "optimizer": {"learning_rate": 0.01},
        "privacy": {"clip_norm": 1.0, "noise_multiplier": 1.0, "delta": 1e-5},
    }
    for section, values in changes.items():
        table[section] = None if values is None else {**table.get(section, {}), **values}
    return RunConfig.model_validate(table)


def refused(config: RunConfig, codebook: Codebook = CODEBOOK) -> str:
    with pytest.raises(FedReasonError) as caught:
        require_valid_privacy(config, codebook)
    assert caught.value.code is Code.DP_REFUSED
    assert "trial" in caught.value.found
    return caught.value.found


def drafted() -> Codebook:
    return CODEBOOK.model_copy(update={"private": True})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"federation": {"protocol": "fedavg", "local_steps": 4}},
        {"federation": {"sites": 1}},
        {"federation": {"quorum": 2}},
        {"privacy": {"colluders": 3, "dropouts": 3}, "federation": {"quorum": 7}},
    ],
    ids=["full noise", "local steps", "one site", "few replies", "shared noise"],
)
def test_a_run_that_keeps_the_rules_is_taken(changes: dict[str, Any]) -> None:
    require_valid_privacy(run(**changes), CODEBOOK)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"privacy": {"delta": 1.01e-5}}, "privacy.delta 1.01e-05 > 1 / (10 x federation.population 10000)"),
        ({"federation": {"population": 10_001}}, "privacy.delta"),
        ({"privacy": {"noise_multiplier": 2.0, "clip_units": 524_289}}, "privacy.clip_units"),
        ({"privacy": {"metrics_noise_multiplier": 1e3, "metrics_questions": 606}}, "privacy.metrics_noise_multiplier"),
        ({"federation": {"protocol": "fedavg"}, "privacy": {"colluders": 1}}, 'federation.protocol "fedavg"'),
        ({"federation": {"protocol": "fedavg"}, "privacy": {"dropouts": 1}}, 'federation.protocol "fedavg"'),
        ({"federation": {"sites": 2}, "privacy": {"colluders": 1}}, "federation.sites 2 < 3"),
        ({"federation": {"sites": 4}, "privacy": {"colluders": 3, "dropouts": 1}}, "leave none"),
        ({"federation": {"quorum": 6}, "privacy": {"dropouts": 3}}, "federation.quorum 6 < federation.sites 10"),
        ({"federation": {"quorum": 9}, "privacy": {"colluders": 3}}, "federation.quorum 9 < federation.sites 10"),
    ],
)
def test_a_run_that_breaks_a_rule_is_refused_by_its_key(changes: dict[str, Any], told: str) -> None:
    found = refused(run(**changes))
    assert told in found
    assert ";" not in found


@pytest.mark.parametrize(
    ("sites", "colluders", "dropouts", "told"),
    [
        (10, 0, 3, "privacy.colluders 0: noise that 10 sites share allows for 1 to 3"),
        (10, 4, 3, "privacy.colluders 4: noise that 10 sites share allows for 1 to 3"),
        (4, 2, 0, "privacy.colluders 2: noise that 4 sites share allows for 1 to 1"),
        (3, 1, 2, "leave none"),
        (10, 3, 3, None),
        (3, 2, 0, None),
    ],
)
def test_noise_is_shared_with_as_many_colluders_and_dropouts_as_the_protocol_withstands(
    sites: int, colluders: int, dropouts: int, told: str | None
) -> None:
    privacy = {"noise": "distributed", "colluders": colluders, "dropouts": dropouts}
    federation = {"sites": sites, "quorum": sites - dropouts, "aggregation": "secure"}
    config = run(federation=federation, privacy=privacy)
    if told is None:
        require_valid_privacy(config, CODEBOOK)
    else:
        assert told in refused(config)


def test_a_codebook_drafted_from_records_is_refused_with_privacy_alone() -> None:
    assert "codebook" in refused(run(), drafted())
    require_valid_privacy(run(privacy=None), drafted())
    require_valid_privacy(run(), drafted().model_copy(update={"private": False}))


def test_choices_that_depend_on_others_are_refused_whoever_made_the_configuration() -> None:
    config = run()
    empirical = config.questions.model_copy(update={"choices": "empirical"})
    assert "questions.choices" in refused(config.model_copy(update={"questions": empirical}))
    with pytest.raises(ValidationError, match="with \\[privacy\\]"):
        run(questions={"choices": "empirical"})


def test_patients_decoded_together_are_taken_with_privacy() -> None:
    require_valid_privacy(run(grpo={"decode": "together", "decode_groups": 2}), CODEBOOK)


def test_every_broken_rule_is_told_at_once() -> None:
    config = run(privacy={"delta": 0.01, "colluders": 9, "dropouts": 1}, federation={"quorum": 2})
    assert refused(config, drafted()).count(";") == 3


def test_a_run_without_privacy_has_no_rules_to_break() -> None:
    require_valid_privacy(run(privacy=None, federation={"sites": 1}), CODEBOOK)


@given(st.integers(1, 10**9))
def test_a_delta_of_exactly_one_in_ten_populations_is_taken(population: int) -> None:
    delta = min(1 / (10 * population), 0.09)
    require_valid_privacy(run(federation={"population": population}, privacy={"delta": delta}), CODEBOOK)


def test_the_largest_noise_that_is_taken_can_be_drawn_and_more_cannot() -> None:
    for units, taken in ((1024, True), (1025, False)):
        config = run(privacy={"noise_multiplier": 1024.0, "clip_units": units})
        assert (units * 1024 <= LARGEST_SIGMA) == taken
        if taken:
            require_valid_privacy(config, CODEBOOK)
        else:
            refused(config)
            with pytest.raises(FedReasonError):
                discrete_gaussian(units * 1024, 1)


def test_several_local_steps_are_no_fedsgd() -> None:
    with pytest.raises(ValidationError, match="local_steps"):
        run(federation={"local_steps": 2})


def test_what_the_proof_takes_for_granted_is_still_all_that_a_run_can_choose() -> None:
    """Whoever adds a key decides in client/privacy/validity.py whether it breaks differential privacy, then here."""
    assert set(GrpoConfig.model_fields) == {
        "group_size",
        "temperature",
        "max_prompt_tokens",
        "max_completion_tokens",
        "scale_rewards",
        "kl",
        "answer_box",
        "prompt",
        "top_p",
        "checkpointing",
        "decode",
        "decode_groups",
    }
    assert GrpoConfig.model_fields["scale_rewards"].annotation == Literal["none", "group"]
    assert set(QuestionsConfig.model_fields) == {
        "codebook",
        "codebook_sha256",
        "view",
        "per_patient",
        "held_out",
        "weights",
        "choices",
    }
    assert set(OptimizerConfig.model_fields) == {
        "name",
        "learning_rate",
        "momentum",
        "second_momentum",
        "epsilon",
        "warmup_rounds",
        "decay",
        "max_gradient_norm",
    }
    assert set(EvaluationConfig.model_fields) == {"every", "per_patient"}
    assert get_args(FederationConfig.model_fields["protocol"].annotation) == ("fedsgd", "fedavg")
    assert "clip_norm" in PrivacyConfig.model_fields and PrivacyConfig.model_fields["clip_norm"].is_required()
