"""A secure sum in the rounds: the same adapter as the plain and the pooled run, whoever is lost on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from client.training.workplace import Workplace
from common import synthetic
from common.arrays import adapter_sha256
from common.config import RunConfig
from common.errors import Code, FedReasonError
from common.messages.kinds import Contribution, Reply, Task
from server.dashboard.history import History
from server.rounds.loop import run_rounds
from server.rounds.stages import STEPS
from server.rounds.store import RunStore
from simulation.arms import LocalExchange, one_site
from simulation.prepare import prepare
from tests.five_sites import HOSPITALS, config_of


def reached(config: RunConfig, sites: list[Path], folder: Path) -> str:
    with RunStore.opened(folder, config) as store:
        return adapter_sha256(run_rounds(config, LocalExchange([Workplace(site) for site in sites]), store))


def test_secure_plain_and_pooled_end_with_the_same_bits(small_model: Path, tmp_path: Path) -> None:
    config = config_of(small_model)
    sites = list(prepare(config, synthetic.codebook(), tmp_path / "run").values())
    secure = reached(config, sites, tmp_path / "secure")
    plain = reached(config_of(small_model, "plain"), sites, tmp_path / "plain")
    pooled = reached(one_site(config), [tmp_path / "run" / "pooled" / "pooled"], tmp_path / "pooled")
    assert secure == plain == pooled
    with RunStore.opened(tmp_path / "secure", config) as store:
        assert [row.sites for row in store.rounds()] == [HOSPITALS] * 2
        assert all(row.gradient_norm > 0 and row.bytes_down and row.counts for row in store.rounds())
    history = History(tmp_path / "secure")
    history.look()
    for row, (number, stages) in zip(history.rounds[::-1], history.stages(2), strict=True):
        assert [*stages][:5] == [*STEPS.values()] and number == row.round
        took = [took for stage in STEPS.values() for took in stages[stage].values()]
        assert len(took) == 5 * len(HOSPITALS)
        assert sum(one.down for one in took) == row.bytes_down and sum(one.up for one in took) == row.bytes_up


def test_a_norm_that_bites_changes_the_run_and_not_that_secure_is_pooled(small_model: Path, tmp_path: Path) -> None:
    config = config_of(small_model, rounds=1, lattice={"bits": 24, "clip_norm": 0.02})
    sites = list(prepare(config, synthetic.codebook(), tmp_path / "run").values())
    secure = reached(config, sites, tmp_path / "secure")
    pooled = reached(one_site(config), [tmp_path / "run" / "pooled" / "pooled"], tmp_path / "pooled")
    assert secure == pooled
    wide = config_of(small_model, rounds=1).model_copy(update={"name": "wide"})
    assert reached(wide, sites, tmp_path / "wide") != secure
    with RunStore.opened(tmp_path / "wide", wide) as store:
        assert store.begin_attempt(1) == 1


def test_a_run_of_another_name_and_the_same_sums_gets_fresh_ones(small_model: Path, tmp_path: Path) -> None:
    """Its sums, with a site fewer, could be subtracted from those of the first."""
    config = config_of(small_model, rounds=1)
    sites = list(prepare(config, synthetic.codebook(), tmp_path / "run").values())
    first = reached(config, sites, tmp_path / "first")
    second = config.model_copy(update={"name": "second"})
    assert reached(second, sites, tmp_path / "second") != first
    with RunStore.opened(tmp_path / "second", second) as store:
        assert store.begin_attempt(1) == 2


def test_a_coordinator_that_died_asks_for_the_next_attempt_and_ends_as_a_plain_run_of_it(
    small_model: Path, tmp_path: Path
) -> None:
    config = config_of(small_model, rounds=1)
    sites = list(prepare(config, synthetic.codebook(), tmp_path / "run").values())

    class Dying(LocalExchange):
        def steps(self, tasks: Mapping[str, Task], enough: Callable[[], bool], *, pause: bool) -> Iterator[Reply]:
            if any(task.step is not None and task.step["kind"] == "survivors" for task in tasks.values()):
                raise KeyboardInterrupt
            return super().steps(tasks, enough, pause=pause)

    with RunStore.opened(tmp_path / "secure", config) as store, pytest.raises(KeyboardInterrupt):
        run_rounds(config, Dying([Workplace(site) for site in sites]), store)

    class Again(LocalExchange):
        def contributions(self, task: Task, enough: Callable[[], bool]) -> Iterator[Reply]:
            for reply in super().contributions(replace(task, attempt=1), enough):
                assert isinstance(reply, Contribution)
                yield replace(reply, attempt=0)

    plain = config_of(small_model, "plain", rounds=1)
    with RunStore.opened(tmp_path / "plain", plain) as store:
        expected = adapter_sha256(run_rounds(plain, Again([Workplace(site) for site in sites]), store))
    assert reached(config, sites, tmp_path / "secure") == expected


def test_a_run_that_a_site_refuses_stops_and_says_which(small_model: Path, tmp_path: Path) -> None:
    config = config_of(small_model, rounds=1)
    sites = list(prepare(config, synthetic.codebook(), tmp_path / "run").values())
    (sites[0] / "state").mkdir(exist_ok=True)
    (sites[0] / "state" / "secagg.json").write_text("torn")
    with pytest.raises(FedReasonError) as caught:
        reached(config, sites, tmp_path / "secure")
    assert caught.value.code is Code.RUN_QUORUM
    assert "coast" in caught.value.found and "E752" in caught.value.found
