"""A site's policy: whatever a run asks beyond it is refused by name, and what the file leaves out is strict."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.policy.limits import PrivacyLimits
from client.policy.policy import Policy, load_policy, read_policy
from common.config import GrpoConfig, RunConfig
from common.errors import Code, FedReasonError
from tests.checked import mutated, passing
from tests.privacy_checks import policy as checks

REVISION = "0123abcd"
MANIFEST = "a" * 64
ANY_PRIVACY = PrivacyLimits(required=False, min_sites=1)
PRIVACY = {"clip_norm": 1.0, "noise_multiplier": 1.0, "delta": 1e-5}
MUTATIONS = mutated(checks.CHECKS)


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


@pytest.mark.parametrize("passes", passing(checks.CHECKS))
def test_the_check_passes(passes: Callable[[], bool]) -> None:
    assert passes()


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_check_catches_the_mutation(mutation: Callable[[], bool]) -> None:
    assert not mutation()


def test_every_limit_on_private_runs_is_checked() -> None:
    """Epsilon is the ledger's; secure aggregation and shared noise are looked at below."""
    apart = {"epsilon", "secure_aggregation", "shared_noise"}
    assert set(checks.WEAKER) == set(PrivacyLimits.model_fields) - apart


@pytest.mark.parametrize("limit", checks.WEAKER)
def test_a_run_weaker_in_one_thing_is_refused_naming_that_alone(limit: str) -> None:
    (told,) = checks.POLICY.problems(checks.run(checks.WEAKER[limit]))
    assert f"privacy.{limit}" in told


def test_a_run_weaker_in_everything_is_told_everything() -> None:
    changes: dict[str, Any] = {}
    for limit, change in checks.WEAKER.items():
        if limit != "required":
            for section, values in change.items():
                changes[section] = {**changes.get(section, {}), **values}
    found = refused(checks.POLICY, checks.run(changes))
    assert all(f"privacy.{limit}" in found for limit in checks.WEAKER if limit != "required")


def test_an_empty_policy_lets_no_counts_leave_and_takes_private_runs_alone(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("")
    policy = load_policy(tmp_path)
    assert policy.metrics == "none"
    policy.refuse(run(privacy=PRIVACY))
    assert "[privacy] is not stated" in refused(policy, run(federation={"sites": 5}))


def test_a_word_about_privacy_does_not_waive_the_rest(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("[privacy]\nepsilon = 3\n")
    assert "[privacy] is not stated" in refused(load_policy(tmp_path), run(federation={"sites": 5}))


def test_the_policy_of_a_simulation_takes_runs_without_privacy_and_of_one_site() -> None:
    policy = Policy(metrics="plain")
    assert not policy.problems(run())
    assert not policy.problems(run(federation={"sites": 1}))


def test_plain_counts_where_privacy_is_required_are_a_contradiction(tmp_path: Path) -> None:
    error = refused_file(tmp_path, 'metrics = "plain"\n[privacy]\nrequired = true\n')
    assert error.code is Code.CONFIG_VALUE
    assert "plain" in error.found and "privacy.required" in error.found


@pytest.mark.parametrize(
    ("federation", "private", "limit", "taken"),
    [
        ({"sites": 3}, True, None, True),
        ({"sites": 2}, True, None, False),
        ({"sites": 9, "quorum": 2}, True, None, False),
        ({"sites": 4}, False, None, False),
        ({"sites": 9, "quorum": 4}, False, None, False),
        ({"sites": 5}, False, None, True),
        ({"sites": 2}, False, 2, True),
        ({"sites": 5}, True, 6, False),
    ],
)
def test_a_round_needs_three_sites_with_privacy_and_five_without_unless_the_policy_says(
    federation: dict[str, int], private: bool, limit: int | None, taken: bool
) -> None:
    policy = Policy(privacy=PrivacyLimits(required=False, min_sites=limit))
    config = run(federation=federation, privacy=PRIVACY) if private else run(federation=federation)
    problems = policy.problems(config)
    assert (not problems) == taken
    assert all(f"federation.{'quorum' if 'quorum' in federation else 'sites'} " in told for told in problems)


def test_colluders_and_dropouts_are_asked_of_shared_noise_and_not_of_a_site_s_own() -> None:
    policy = Policy(protocols=("fedsgd", "fedavg"), privacy=PrivacyLimits(min_colluders=1, min_dropouts=1))
    assert len(policy.problems(run(privacy=PRIVACY))) == 2
    assert not policy.problems(run(privacy=PRIVACY, federation={"protocol": "fedavg"}))


def test_the_steps_of_a_run_are_its_rounds_times_its_local_steps() -> None:
    policy = Policy(protocols=("fedavg",), privacy=PrivacyLimits(max_steps=8))
    averaged = {"protocol": "fedavg", "rounds": 4}
    assert not policy.problems(run(privacy=PRIVACY, federation={**averaged, "local_steps": 2}))
    assert "privacy.max_steps" in refused(policy, run(privacy=PRIVACY, federation={**averaged, "local_steps": 3}))


def test_a_policy_that_requires_secure_aggregation_refuses_plain_runs_alone() -> None:
    policy = Policy(metrics="plain", privacy=PrivacyLimits(secure_aggregation=True))
    secure = {"aggregation": "secure"}
    for config in (run(), run(privacy=PRIVACY)):
        assert "privacy.secure_aggregation" in refused(policy, config)
    assert not policy.problems(run(federation=secure, lattice={"bits": 20, "clip_norm": 0.5}))
    assert not policy.problems(run(federation=secure, privacy=PRIVACY))


def test_noise_is_shared_only_where_the_policy_says_so() -> None:
    config = run(federation={"aggregation": "secure"}, privacy={**PRIVACY, "noise": "distributed", "colluders": 1})
    assert "privacy.shared_noise" in refused(Policy(), config)
    assert not Policy(privacy=PrivacyLimits(shared_noise=True)).problems(config)


@pytest.mark.parametrize(
    ("metrics", "noise", "leaves"),
    [
        ("none", None, "none"),
        ("none", 2.0, "none"),
        ("noised", None, "none"),
        ("noised", 2.0, "noised"),
        ("plain", None, "plain"),
        ("plain", 2.0, "plain"),
    ],
)
def test_noised_counts_leave_only_where_the_run_says_with_how_much_noise(
    metrics: Any, noise: float | None, leaves: str
) -> None:
    config = run(privacy={**PRIVACY, "metrics_noise_multiplier": noise})
    assert Policy(metrics=metrics).metrics_of(config) == leaves
    assert Policy(metrics=metrics).metrics_of(run()) == ("plain" if metrics == "plain" else "none")


def test_counts_need_the_least_noise_of_the_policy_where_they_leave() -> None:
    config = run(privacy={**PRIVACY, "metrics_noise_multiplier": 0.5})
    assert "privacy.metrics_noise_multiplier 0.5 < 0.6" in refused(Policy(metrics="noised"), config)
    assert not Policy(metrics="none").problems(config)


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ({}, "asks everything"),
        ({"platelets": 1.0}, None),
        ({"platelets": 1.0, "death": 2.0}, "death: not in items"),
    ],
)
def test_only_listed_items_may_be_asked(weights: dict[str, float], told: str | None) -> None:
    policy = Policy(metrics="plain", items=("antibiotic", "platelets"))
    config = run(questions={"weights": weights})
    if told is None:
        assert not policy.problems(config)
    else:
        assert told in refused(policy, config)


def test_a_run_cannot_bring_limits_of_its_own() -> None:
    for table in ({"policy": {"metrics": "plain"}}, {"privacy": {**PRIVACY, "epsilon": 100.0}}):
        with pytest.raises(ValueError, match="Extra inputs"):
            run(**table)


def test_a_policy_is_read_anew_every_time(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text('metrics = "plain"\n')
    before = load_policy(tmp_path), read_policy(tmp_path).sha256
    (tmp_path / "policy.toml").write_text('metrics = "none"\n')
    assert (before[0].metrics, load_policy(tmp_path).metrics) == ("plain", "none")
    assert before[1] != read_policy(tmp_path).sha256


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
        ({}, {"grpo": {"temperature": 0.01}}, "grpo.temperature 0.01 < 0.1"),
        ({}, {"grpo": {"temperature": 500.0}}, "grpo.temperature 500.0 > 2.0"),
        ({}, {"grpo": {"top_p": 1e-9}}, "grpo.top_p 1e-09 < 0.1"),
        ({}, {"grpo": {"group_size": 10**6}}, "grpo.group_size 1000000 > 64"),
        ({}, {"questions": {"per_patient": 17}}, "questions.per_patient 17 > 16"),
        ({}, {"federation": {"protocol": "fedavg"}}, 'federation.protocol "fedavg"'),
        ({"views": ("core",)}, {"questions": {"view": "full"}}, 'questions.view "full"'),
        ({}, {"model": {"base": "org/large", "revision": REVISION}}, f'model.base "org/large@{REVISION}"'),
    ],
)
def test_each_limit_refuses_what_is_beyond_it_by_name(
    limit: dict[str, Any], changes: dict[str, Any], told: str
) -> None:
    found = refused(Policy(**limit, privacy=ANY_PRIVACY), run(**changes))
    assert told in found
    assert "policy.toml" in found


def test_a_refusal_names_everything_that_is_beyond_the_policy_at_once() -> None:
    config = run(federation={"protocol": "fedavg"}, grpo={"max_prompt_tokens": 9001, "max_completion_tokens": 2001})
    found = refused(Policy(privacy=ANY_PRIVACY), config)
    assert found.count(";") == 2


@pytest.mark.parametrize(("attempt", "taken"), [(0, True), (2, True), (3, False), (-1, False), (2**70, False)])
def test_attempts_at_a_round_are_counted_from_0_and_limited(attempt: int, taken: bool) -> None:
    if taken:
        Policy(max_attempts=3).refuse_attempt("run", attempt)
        return
    with pytest.raises(FedReasonError, match=r"E832.*another name"):
        Policy(max_attempts=3).refuse_attempt("run", attempt)


@given(limit=st.integers(1, 5000), asked=st.integers(1, 5000))
def test_a_run_within_a_limit_is_taken_and_one_beyond_it_never(limit: int, asked: int) -> None:
    problems = Policy(max_completion_tokens=limit, privacy=ANY_PRIVACY).problems(
        run(grpo={"max_completion_tokens": asked})
    )
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
        (MANIFEST, {"base": MANIFEST, "revision": "other"}, False),
    ],
)
def test_a_model_is_known_by_name_and_revision_or_by_its_manifest(
    allowed: str, model: dict[str, str], taken: bool
) -> None:
    assert (not Policy(base_models=(allowed,), privacy=ANY_PRIVACY).problems(run(model=model))) == taken


def test_a_policy_without_models_takes_none() -> None:
    assert Policy(base_models=(), privacy=ANY_PRIVACY).problems(run())


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
    error = refused_file(tmp_path, "[privacy]\nepsilon = 3\nsigma = 1\n")
    assert "line 3, privacy.sigma" in error.found
    error = refused_file(tmp_path, "[privacy]\n\nepsilon = inf\n")
    assert "line 3, privacy.epsilon" in error.found


def test_a_policy_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_bytes(b"# \xff\n")
    with pytest.raises(FedReasonError) as caught:
        load_policy(tmp_path)
    assert caught.value.code is Code.CONFIG_SYNTAX


def test_a_hub_model_without_revision_is_no_limit_and_refused(tmp_path: Path) -> None:
    error = refused_file(tmp_path, '\nbase_models = ["org/large"]\n')
    assert error.code is Code.CONFIG_VALUE
    assert "line 2" in error.found
    assert "revision" in error.found


def test_the_strict_defaults_are_those_of_a_run() -> None:
    assert Policy().max_completion_tokens == GrpoConfig().max_completion_tokens
    assert Policy().max_prompt_tokens == GrpoConfig().max_prompt_tokens


def test_the_modules_beside_the_node_import_nothing_heavy() -> None:
    modules = (
        "policy.policy",
        "policy.signature",
        "policy.cli",
        "node.preflight",
        "node.probe",
        "node.outbox",
        "node.hours",
        "site.exclusions",
        "node.status",
    )
    script = f"import sys, {', '.join(f'client.{name}' for name in modules)}\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"torch", "transformers", "flwr", "pandas", "numpy", "peft"}
    assert not {re.split(r"\.", name)[0] for name in loaded} & heavy
