"""A site's policy: whatever a run asks beyond it is refused by name, and what the file leaves out is strict."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.policy import Policy, load_policy
from common.config import GrpoConfig, RunConfig
from common.errors import Code, FedReasonError

REVISION = "0123abcd"
MANIFEST = "a" * 64


def run(**changes: Any) -> RunConfig:
    table: dict[str, Any] = {
        "name": "trial",
        "federation": {"name": "fed", "rounds": 4, "sites": 3, "population": 90, "sampling_rate": 0.5},
        "optimizer": {"learning_rate": 0.01},
    }
    for section, values in changes.items():
        table[section] = {**table.get(section, {}), **values}
    return RunConfig.model_validate(table)


def refused(policy: Policy, config: RunConfig) -> str:
    with pytest.raises(FedReasonError) as caught:
        policy.refuse(config)
    assert caught.value.code is Code.POLICY_REFUSED
    return caught.value.found


def refused_file(folder: Path, text: str) -> FedReasonError:
    (folder / "policy.toml").write_text(text)
    with pytest.raises(FedReasonError) as caught:
        load_policy(folder)
    return caught.value


def test_an_empty_policy_lets_no_counts_leave_and_takes_a_default_run(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("")
    policy = load_policy(tmp_path)
    assert policy.metrics == "none"
    policy.refuse(run())


@pytest.mark.parametrize(
    ("limit", "changes", "told"),
    [
        (
            {"max_completion_tokens": 2000},
            {"grpo": {"max_completion_tokens": 4000}},
            "grpo.max_completion_tokens 4000 > 2000",
        ),
        ({"max_prompt_tokens": 500}, {"grpo": {"max_prompt_tokens": 501}}, "grpo.max_prompt_tokens 501 > 500"),
        ({"max_rounds": 3}, {}, "federation.rounds 4 > 3"),
        ({}, {"federation": {"protocol": "fedavg"}}, 'federation.protocol "fedavg"'),
        ({"views": ("core",)}, {"questions": {"view": "full"}}, 'questions.view "full"'),
        ({}, {"model": {"base": "org/large", "revision": REVISION}}, f'model.base "org/large@{REVISION}"'),
    ],
)
def test_each_limit_refuses_what_is_beyond_it_by_name(
    limit: dict[str, Any], changes: dict[str, Any], told: str
) -> None:
    found = refused(Policy(**limit), run(**changes))
    assert told in found
    assert "policy.toml" in found


def test_a_refusal_names_everything_that_is_beyond_the_policy_at_once() -> None:
    config = run(federation={"protocol": "fedavg"}, grpo={"max_prompt_tokens": 9001, "max_completion_tokens": 2001})
    found = refused(Policy(), config)
    assert found.count(";") == 2


@settings(deadline=None)
@given(limit=st.integers(1, 5000), asked=st.integers(1, 5000))
def test_a_run_within_a_limit_is_taken_and_one_beyond_it_never(limit: int, asked: int) -> None:
    problems = Policy(max_completion_tokens=limit).problems(run(grpo={"max_completion_tokens": asked}))
    assert bool(problems) == (asked > limit)


@pytest.mark.parametrize(
    ("allowed", "model", "taken"),
    [
        ("tiny", {}, True),
        ("*", {"base": "org/large", "revision": REVISION}, True),
        (f"org/large@{REVISION}", {"base": "org/large", "revision": REVISION}, True),
        (f"org/large@{REVISION}", {"base": "org/large", "revision": "other"}, False),
        (f"org/large@{REVISION}", {"base": "tiny"}, False),
        ("/models/large", {"base": "/models/large"}, True),
        ("/models/large", {"base": "/models/other"}, False),
        (MANIFEST, {"base": "/anywhere", "manifest_sha256": MANIFEST}, True),
        (MANIFEST, {"base": "/anywhere"}, False),
        (MANIFEST, {"base": MANIFEST}, False),
    ],
)
def test_a_model_is_known_by_name_and_revision_or_by_its_manifest(
    allowed: str, model: dict[str, str], taken: bool
) -> None:
    assert (not Policy(base_models=(allowed,)).problems(run(model=model))) == taken


def test_a_policy_without_models_takes_none() -> None:
    assert Policy(base_models=()).problems(run())


def test_a_missing_policy_says_where_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(FedReasonError) as caught:
        load_policy(tmp_path)
    assert caught.value.code is Code.POLICY_MISSING
    assert "policy.toml" in caught.value.found
    assert "kit" in caught.value.fix


def test_a_slip_of_the_pen_in_a_policy_is_refused_with_its_line(tmp_path: Path) -> None:
    error = refused_file(tmp_path, 'metrics = "none"\nmax_completion_token = 100\n')
    assert error.code is Code.CONFIG_UNKNOWN_KEY
    assert "line 2" in error.found
    error = refused_file(tmp_path, 'metrics = "some"\n')
    assert error.code is Code.CONFIG_VALUE
    assert "line 1" in error.found
    assert refused_file(tmp_path, "metrics = none\n").code is Code.CONFIG_SYNTAX


def test_a_hub_model_without_revision_is_no_limit_and_refused(tmp_path: Path) -> None:
    error = refused_file(tmp_path, '\nbase_models = ["org/large"]\n')
    assert error.code is Code.CONFIG_VALUE
    assert "line 2" in error.found
    assert "revision" in error.found


def test_the_strict_defaults_are_those_of_a_run() -> None:
    assert Policy().max_completion_tokens == GrpoConfig().max_completion_tokens
    assert Policy().max_prompt_tokens == GrpoConfig().max_prompt_tokens


def test_the_modules_beside_the_node_import_nothing_heavy() -> None:
    modules = ("policy", "preflight", "probe", "outbox", "hours", "exclusions", "status")
    script = f"import sys, {', '.join(f'client.{name}' for name in modules)}\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"torch", "transformers", "flwr", "pandas", "numpy", "plotly", "peft"}
    assert not {re.split(r"\.", name)[0] for name in loaded} & heavy
