"""Every limit has its sentence, which says another thing as soon as the limit is another."""

from __future__ import annotations

from typing import Any

import pytest

from client.policy.change import LOOSER
from client.policy.policy import Policy
from client.policy.words import sentences

OTHER: dict[str, Any] = {
    "metrics": "noised",
    "base_models": ["*"],
    "protocols": ["fedavg"],
    "views": ["core"],
    "items": ["lactate", "mortality"],
    "max_prompt_tokens": 1234,
    "max_completion_tokens": 1234,
    "min_temperature": 0.7,
    "max_temperature": 1.7,
    "min_top_p": 0.7,
    "max_group_size": 1,
    "max_questions": 7,
    "max_attempts": 1,
    "max_rounds": 7,
    "patient.column": "<b>id</b>",
    "patient.fold": ["case"],
    "privacy.required": False,
    "privacy.epsilon": 3.25,
    "privacy.delta": 2e-6,
    "privacy.max_clip_norm": 0.25,
    "privacy.min_noise_multiplier": 1.25,
    "privacy.max_sampling_rate": 0.25,
    "privacy.max_steps": 7,
    "privacy.min_answer_every": 7.5,
    "privacy.min_colluders": 2,
    "privacy.min_dropouts": 2,
    "privacy.min_sites": 9,
    "privacy.secure_aggregation": True,
    "privacy.shared_noise": True,
}


def policy_with(key: str, value: object) -> Policy:
    section, _, name = key.rpartition(".")
    return Policy.model_validate({section: {name: value}} if section else {name: value})


def test_every_limit_has_a_sentence() -> None:
    assert sentences(Policy()).keys() == LOOSER.keys() == OTHER.keys()


@pytest.mark.parametrize("key", LOOSER)
def test_a_sentence_follows_its_limit_and_no_other_limits(key: str) -> None:
    usual, other = sentences(Policy()), sentences(policy_with(key, OTHER[key]))
    changed = {name for name in usual if usual[name] != other[name]}
    assert changed == {key}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("privacy.epsilon", 3.25, "3.25"),
        ("privacy.delta", 2e-6, "2e-06"),
        ("max_attempts", 1, "at most once"),
        ("max_attempts", 4, "at most 4 times"),
        ("base_models", [], "no model"),
        ("base_models", ["a/b@c", "tiny"], "a/b@c or tiny"),
        ("protocols", [], "only as nothing"),
        ("items", ["lactate"], "Asked may be lactate of"),
        ("patient.column", "mrn", "by the column mrn"),
        ("min_top_p", 0.12345678, "0.12345678"),
        ("max_group_size", 1_234_567, "1,234,567"),
    ],
)
def test_a_sentence_says_the_value(key: str, value: object, said: str) -> None:
    assert said in sentences(policy_with(key, value))[key]


def test_the_fewest_sites_follow_what_leaves() -> None:
    assert "3 in a private run, 5 in another" in sentences(Policy())["privacy.min_sites"]
    assert sentences(Policy(metrics="plain"))["privacy.min_sites"].endswith(": 1.")
