"""A private run from patients to adapter: fresh randomness, a clip, noise, a charge for each release, a stop."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

from client.node.handlers import HANDLERS, answer
from client.privacy.clip import squared_norm
from client.privacy.ledger import Ledger
from client.privacy.mechanism import Private
from client.privacy.spending import ledger_lines
from client.privacy.totals import TOTALS, noised
from client.training import metrics
from client.training.contribution import gradient_sum
from client.training.requests import contribute, evaluate, layout
from client.training.workplace import Workplace
from common import synthetic
from common.accounting import ORDERS, epsilon, rdp
from common.arrays import Integers
from common.config import PrivacyConfig, RunConfig
from common.decoding.evaluate import answer as answer_questions
from common.errors import Code, FedReasonError
from common.messages.kinds import Contribution, Reply, Task
from server.rounds.loop import run_rounds
from server.rounds.store import RunStore
from simulation.arms import LocalExchange
from simulation.prepare import prepare
from tests.small import PRIVACY, private_config


@pytest.fixture
def config(small_model: Path) -> RunConfig:
    return private_config(small_model)


@pytest.fixture
def folders(config: RunConfig, tmp_path: Path) -> dict[str, Path]:
    return prepare(config, synthetic.codebook(), tmp_path / "sites")


def limit(folder: Path, **limits: float) -> None:
    """Change limits of a site's policy."""
    table = tomllib.loads((folder / "policy.toml").read_text())
    (folder / "policy.toml").write_text(tomli_w.dumps({**table, "privacy": {**table.get("privacy", {}), **limits}}))


def first(folders: dict[str, Path]) -> Workplace:
    return Workplace(next(iter(folders.values())))


def task_of(site: Workplace, config: RunConfig, number: int = 1, attempt: int = 0) -> Task:
    return Task(config, number, attempt, np.zeros(site.engine(config).layout.size, dtype=np.float32))


def test_a_private_run_charges_every_site_for_every_round(
    config: RunConfig, folders: dict[str, Path], tmp_path: Path
) -> None:
    with RunStore.opened(tmp_path / "run", config) as store:
        run_rounds(config, LocalExchange([Workplace(folder) for folder in folders.values()]), store)
    expected = epsilon(rdp(noise_multiplier=4.0, sampling_rate=0.3, steps=2), 1e-5)
    for folder in folders.values():
        ledger = Ledger.opened(folder)
        ledger.verify(costs=True)
        assert [entry.release.round for entry in ledger.entries()] == [1, 2]
        assert ledger.epsilon == pytest.approx(expected, rel=1e-6)
        assert any("epsilon" in line for line in ledger_lines(folder, cap=8.0))
    assert len(ORDERS) > 10


def test_two_private_contributions_never_agree(config: RunConfig, folders: dict[str, Path]) -> None:
    site = first(folders)
    one, two = (contribute(site, task_of(site, config, attempt=attempt)).total for attempt in range(2))
    assert np.mean(one == two) < 0.01


def test_the_noise_on_a_sum_of_nobody_is_that_of_any_sum_and_is_charged(
    config: RunConfig, folders: dict[str, Path]
) -> None:
    assert config.privacy is not None
    seldom = config.federation.model_copy(update={"sampling_rate": 1e-9})
    config = config.model_copy(update={"federation": seldom})
    site = first(folders)
    total = contribute(site, task_of(site, config)).total
    deviation = float(np.std(total))
    assert deviation == pytest.approx(config.privacy.sigma_units, rel=0.1)
    assert len(Ledger.opened(site.folder).entries()) == 1


class Unnoised(Private):
    """The mechanism without its noise, so that what is under it can be seen."""

    def released(self, total: Integers) -> Integers:
        return total


def test_through_the_whole_step_one_patient_is_at_most_the_clip(small_model: Path, tmp_path: Path) -> None:
    config = private_config(
        small_model, federation={"sampling_rate": 1.0, "rounds": 1}, privacy={**PRIVACY, "clip_norm": 1e-6}
    )
    assert config.privacy is not None
    site = first(prepare(config, synthetic.codebook(), tmp_path / "sites"))
    bound, lengths = config.privacy.clip_units, []
    for patient in site.training(config):
        total, _ = gradient_sum(site.engine(config), site.maker(config), [patient], config, Unnoised(config))
        assert squared_norm(total) <= bound**2
        lengths.append(squared_norm(total) ** 0.5)
    assert max(lengths) > 0.9 * bound


class Answering(LocalExchange):
    """Sites whose refusals travel, as they do from a hospital."""

    def contributions(self, task: Task, enough: Callable[[], bool]) -> Iterator[Reply]:
        for site in self._sites:
            yield answer(site.folder, HANDLERS["train"], task)


def test_a_run_that_would_pass_the_cap_stops_at_the_site_and_goes_on_without_it(
    config: RunConfig, folders: dict[str, Path], tmp_path: Path
) -> None:
    one_round = epsilon(rdp(noise_multiplier=4.0, sampling_rate=0.3, steps=1), 1e-5)
    limit(folders["south"], epsilon=one_round * 1.01)
    federation = config.federation.model_copy(update={"quorum": 2})
    config = config.model_copy(update={"federation": federation})
    with RunStore.opened(tmp_path / "run", config) as store:
        run_rounds(config, Answering([Workplace(folder) for folder in folders.values()]), store)
        rows = store.rounds()
    assert rows[0].sites == ["north", "south", "west"]
    assert rows[1].sites == ["north", "west"] and rows[1].refused == {"south": int(Code.BUDGET_SPENT)}
    assert len(Ledger.opened(folders["south"]).entries()) == 1


def test_a_new_run_does_not_reset_the_budget(config: RunConfig, folders: dict[str, Path]) -> None:
    site = first(folders)
    contribute(site, task_of(site, config))
    spent = Ledger.opened(site.folder).epsilon
    contribute(site, task_of(site, config.model_copy(update={"name": "another"})))
    assert Ledger.opened(site.folder).epsilon > spent


def test_local_steps_of_fedavg_are_charged_each(small_model: Path, tmp_path: Path) -> None:
    federation = {"protocol": "fedavg", "local_steps": 3, "population": 30, "sampling_rate": 0.3, "rounds": 1}
    config = private_config(small_model, federation=federation)
    site = first(prepare(config, synthetic.codebook(), tmp_path / "sites"))
    assert isinstance(contribute(site, task_of(site, config)), Contribution)
    spent = Ledger.opened(site.folder).epsilon
    assert spent == pytest.approx(epsilon(rdp(noise_multiplier=4.0, sampling_rate=0.3, steps=3), 1e-5), rel=1e-6)


def test_a_ledger_that_is_gone_stops_the_site(config: RunConfig, folders: dict[str, Path]) -> None:
    site = first(folders)
    contribute(site, task_of(site, config))
    for path in (site.folder / "state" / "ledger").glob("*.jsonl"):
        path.unlink()
    with pytest.raises(FedReasonError) as refusal:
        contribute(site, task_of(site, config, 2))
    assert refusal.value.code in (Code.LEDGER_ROLLED_BACK, Code.LEDGER_DAMAGED)


def test_a_delta_that_promises_too_little_is_refused_before_the_registry_is_looked_at(
    small_model: Path, tmp_path: Path
) -> None:
    config = private_config(small_model, privacy={**PRIVACY, "delta": 0.01})
    site = first(prepare(config, synthetic.codebook(), tmp_path / "sites"))
    shutil.rmtree(site.folder / "state", ignore_errors=True)
    with pytest.raises(FedReasonError) as refusal:
        layout(site, task_of(site, config))
    assert refusal.value.code in (Code.DP_REFUSED, Code.POLICY_REFUSED)


def test_noised_counts_hide_one_patient_and_are_charged(small_model: Path, tmp_path: Path) -> None:
    privacy = {**PRIVACY, "metrics_noise_multiplier": 20.0, "metrics_questions": 2}
    config = private_config(small_model, privacy=privacy)
    site = first(prepare(config, synthetic.codebook(), tmp_path / "sites"))
    path = site.folder / "policy.toml"
    path.write_text(path.read_text().replace('"plain"', '"noised"'))
    limit(site.folder, min_sites=1)
    counts = evaluate(site, task_of(site, config)).counts
    assert counts is not None and set(counts) == {TOTALS} and set(counts[TOTALS]) == {"asked", "free", "forced"}
    assert [entry.release.mechanism for entry in Ledger.opened(site.folder).entries()] == ["metrics"]


def test_the_noise_on_counts_has_the_stated_spread() -> None:
    privacy = PrivacyConfig(**PRIVACY, metrics_noise_multiplier=5.0, metrics_questions=3)
    totals = np.array([100, 50, 60])
    seen = [noised(totals, privacy)[TOTALS]["asked"] for _ in range(2000)]
    assert np.std(seen) == pytest.approx(5 * 6, rel=0.1)
    assert np.mean(seen) == pytest.approx(100, abs=4)


@pytest.mark.parametrize("together", [False, True])
def test_noised_counts_decode_each_patient_alone(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    """The mutation, all patients in one batch, is caught: then others move a patient's answers, and the bound fails."""
    config = private_config(small_model, privacy={**PRIVACY, "metrics_noise_multiplier": 20.0})
    site = first(prepare(config, synthetic.codebook(), tmp_path / "sites"))
    decoded: list[int] = []

    def watched(*arguments: Any, **options: Any) -> Any:
        decoded.append(len({question.patient for question in arguments[2]}))
        return answer_questions(*arguments, **options)

    monkeypatch.setattr(metrics, "answer", watched)
    assert config.privacy is not None
    if together:
        metrics.accuracy_counts(site.engine(config), site.questions(config), config)
    else:
        held_out, maker = site.held_out(config), site.maker(config)
        counts = metrics.noised_counts(site.engine(config), held_out, maker, config, config.privacy)
        assert set(counts[TOTALS]) == {"asked", "free", "forced"}, "nothing else leaves under noise made for three"
    assert (set(decoded) == {1}) is not together
