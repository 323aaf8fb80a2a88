"""The comparison of private runs: the noise is that of the stated epsilon, and the private demo keeps its word."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomli_w

from bench import utility
from bench.utility import Case, Protocol, cases, run_case, settings_of, shortened
from client.policy.policy import Policy
from client.privacy.validity import require_valid_privacy
from common.accounting import epsilon, rdp
from common.config import RunConfig, load_config
from tests.paths import ROOT
from tests.small import small_config

CONFIGS = ROOT / "configs"
PRIVACY = {"clip_norm": 0.04, "noise_multiplier": 1.0, "delta": 1e-5}
ROUNDS = {"population": 3000, "sampling_rate": 0.07, "rounds": 12}


def composed(config: RunConfig) -> float:
    """Epsilon of what a site releases over the whole run, step by step."""
    privacy = config.privacy
    assert privacy is not None
    sigma, rate = privacy.sigma_units / privacy.clip_units, config.federation.sampling_rate
    steps = config.federation.rounds * config.federation.local_steps
    spent = sum(rdp(noise_multiplier=sigma, sampling_rate=rate, steps=1) for _ in range(steps))
    return epsilon(spent, privacy.delta)


@pytest.fixture
def config(small_model: Path) -> RunConfig:
    return small_config(small_model, federation=ROUNDS, privacy=PRIVACY)


@pytest.mark.parametrize("case", [case for case in cases([*Protocol], [8.0, 3.0]) if case.epsilon])
def test_the_rounds_of_a_case_cost_the_epsilon_that_it_states(config: RunConfig, case: Case) -> None:
    assert case.epsilon is not None
    settings = settings_of(config, case)
    assert settings.federation.protocol == case.protocol
    assert settings.private_steps == config.private_steps
    assert composed(settings) == pytest.approx(case.epsilon, rel=0.01)
    assert composed(settings) <= case.epsilon


def test_noise_that_counts_rounds_in_place_of_local_steps_is_found(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = utility.noise_for
    monkeypatch.setattr(
        utility, "noise_for", lambda **of: honest(**{**of, "steps": of["steps"] // utility.LOCAL_STEPS})
    )
    assert composed(settings_of(config, Case(Protocol.FEDAVG, 8.0))) > 8.0 * 1.01


def test_a_case_without_epsilon_differs_in_privacy_and_what_stands_in_for_the_clip(config: RunConfig) -> None:
    private, plain = (settings_of(config, Case(Protocol.FEDSGD, budget)) for budget in (8.0, None))
    assert plain.privacy is None and private.privacy is not None
    same = {"name": "", "privacy": None, "optimizer": config.optimizer}
    assert private.model_copy(update=same) == plain.model_copy(update=same)
    assert private.optimizer == config.optimizer


def test_a_run_that_states_no_privacy_is_not_compared(small_model: Path) -> None:
    with pytest.raises(ValueError, match="privacy"):
        settings_of(small_config(small_model), Case(Protocol.FEDSGD, 8.0))


@pytest.mark.parametrize("name", ["demo-dp.toml", "support2-dp.toml"])
def test_a_private_configuration_is_valid_and_states_epsilon_8_at_most(name: str) -> None:
    config, codebook = load_config(CONFIGS / name)
    assert config.privacy is not None
    require_valid_privacy(config, codebook)
    assert 7.5 < composed(config) <= 8.0
    assert config.privacy.delta <= 1 / (10 * config.federation.population)


def test_a_strict_site_takes_the_private_demo() -> None:
    config, _ = load_config(CONFIGS / "demo-dp.toml")
    assert Policy().problems(config) == []


@pytest.mark.federation
def test_a_case_runs_and_says_what_its_ledgers_hold(config: RunConfig, tmp_path: Path) -> None:
    table = config.model_dump(mode="json", exclude_none=True)
    table["questions"].pop("codebook_sha256")
    path = tmp_path / "run.toml"
    path.write_text(tomli_w.dumps(table))
    row = run_case(path, Case(Protocol.FEDAVG, 8.0), tmp_path / "runs", quick=True)
    stated = composed(settings_of(shortened(config), Case(Protocol.FEDAVG, 8.0)))
    assert row["spent"] == pytest.approx(stated, rel=1e-3) and row["spent"] <= 8.0
    assert (row["registry"], row["rounds"], row["steps"]) == ("small", 1, utility.LOCAL_STEPS)
    assert 0 <= row["accuracy_after"] <= 1 and row["questions"] > 0
