"""The comparison of private runs: the noise is that of the stated epsilon, and the private demo keeps its word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tomli_w

from bench import utility
from bench.page import END
from bench.utility import Case, Noise, Protocol, cases, cases_of, noise_norm, run_case, settings_of, shortened
from bench.utility_page import BEGIN, shown, write
from client.policy.policy import Policy
from client.privacy.validity import require_valid_privacy
from common.accounting import epsilon, rdp
from common.config import RunConfig, load_config
from common.synthetic import HOSPITALS
from simulation.arms import one_site
from tests.paths import ROOT
from tests.small import small_config

CONFIGS, DOCS = ROOT / "configs", ROOT / "docs"
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


@pytest.mark.parametrize(
    ("name", "most"), [("demo-dp.toml", 8.0), ("support2-dp.toml", 8.0), ("demo-distributed.toml", 3.0)]
)
def test_a_private_configuration_is_valid_and_states_its_epsilon_at_most(name: str, most: float) -> None:
    config, codebook = load_config(CONFIGS / name)
    assert config.privacy is not None
    require_valid_privacy(config, codebook)
    assert 0.9 * most < composed(config) <= most
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


def shared(config: RunConfig) -> RunConfig:
    """Return the run with ten sites that share the noise."""
    assert config.privacy is not None
    changes = {"federation": {"sites": 10, "aggregation": "secure"}, "privacy": {"noise": "distributed"}}
    changes["privacy"] |= {"colluders": 3, "dropouts": 3}  # type: ignore[dict-item]
    return config.model_copy(
        update={section: getattr(config, section).model_copy(update=values) for section, values in changes.items()}
    )


def test_a_run_with_shared_noise_is_compared_by_who_adds_it(config: RunConfig) -> None:
    found = cases_of(shared(config), [*Protocol], [3.0], [1, 2])
    assert found == [Case(Protocol.FEDSGD, 3.0, noise, seed) for seed in (1, 2) for noise in Noise]
    assert cases_of(config, [*Protocol], [3.0], []) == cases([*Protocol], [3.0])


def test_the_three_arms_differ_in_who_adds_the_noise_alone_and_theory_puts_them_in_order(config: RunConfig) -> None:
    runs = {noise: settings_of(shared(config), Case(Protocol.FEDSGD, 3.0, noise, 5)) for noise in Noise}
    central = one_site(runs[Noise.CENTRAL])
    norms = [noise_norm(run, 1000) for run in (central, runs[Noise.DISTRIBUTED], runs[Noise.LOCAL])]
    assert norms[1] / norms[0] == pytest.approx((10 / 4) ** 0.5, rel=1e-3)
    assert norms[2] / norms[0] == pytest.approx(10**0.5, rel=1e-3)
    assert len({run.privacy.sigma_units for run in runs.values() if run.privacy}) == 1
    assert {run.seed for run in runs.values()} == {5}
    same = {"federation": config.federation, "privacy": None}
    assert len({run.model_copy(update=same).sha256 for run in runs.values()}) == 1


def test_the_page_on_privacy_shows_what_was_measured_and_distributed_lies_between() -> None:
    rows = json.loads((DOCS / "utility.json").read_text())
    page = (DOCS / "privacy.md").read_text()
    assert page.count(BEGIN) == page.count(END) == 1
    assert page.partition(BEGIN)[2].partition(END)[0].strip() == shown(rows).strip()
    by_noise = {noise: [row for row in rows if row["noise"] == noise] for noise in Noise}
    seeds = {noise: [row["seed"] for row in arm] for noise, arm in by_noise.items()}
    assert all(len(found) == 3 and found == seeds[Noise.LOCAL] for found in seeds.values())
    assert all(2.9 < row["spent"] <= 3.0 == row["epsilon"] for row in rows)
    assert {row["sites"] for row in by_noise[Noise.DISTRIBUTED] + by_noise[Noise.LOCAL]} == {10}
    for name in ("noise_norm", "mean_norm"):
        values = [{row["seed"]: row[name] for row in by_noise[noise]} for noise in Noise]
        assert all(values[0][seed] < values[1][seed] < values[2][seed] for seed in seeds[Noise.LOCAL])
    rewards = [{row["seed"]: row["reward_last"] for row in by_noise[noise]} for noise in Noise]
    assert all(rewards[0][seed] > rewards[1][seed] > rewards[2][seed] for seed in seeds[Noise.LOCAL])


def test_writing_the_page_on_privacy_again_changes_nothing_else(tmp_path: Path) -> None:
    rows = json.loads((DOCS / "utility.json").read_text())
    (tmp_path / "privacy.md").write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write(rows, tmp_path)
    once = (tmp_path / "privacy.md").read_text()
    assert once.startswith("before\n") and once.endswith("\nafter\n") and "old" not in once
    write(rows, tmp_path)
    assert (tmp_path / "privacy.md").read_text() == once


@pytest.mark.federation
@pytest.mark.parametrize("noise", [Noise.CENTRAL, Noise.DISTRIBUTED])
def test_a_run_with_noise_of_a_server_and_one_with_shares_end_in_rows(
    config: RunConfig, tmp_path: Path, noise: Noise
) -> None:
    table = shared(config).model_dump(mode="json", exclude_none=True)
    table["questions"].pop("codebook_sha256")
    table["simulation"]["hospitals"] = [f"{name}{more}" for more in ("", "-2") for name in HOSPITALS]
    path = tmp_path / "run.toml"
    path.write_text(tomli_w.dumps(table))
    row = run_case(path, Case(Protocol.FEDSGD, 3.0, noise, 4), tmp_path / "runs", quick=True)
    assert (row["noise"], row["seed"], row["sites"]) == (noise, 4, 1 if noise is Noise.CENTRAL else 10)
    assert row["spent"] <= 3.0 and row["mean_norm"] == pytest.approx(row["noise_norm"], rel=0.2)
