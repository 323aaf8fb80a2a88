"""What was taken back stays spent: counted once, in rounds and evaluations, by every site that took part in it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common.arrays import zero_adapter
from common.config import RunConfig
from server.dashboard.history import History
from server.dashboard.watch import totals_of
from server.reports.report import write_run_report
from server.reports.rows import read_rows, read_stages
from server.reports.spent import epsilons, taken
from server.rounds.guard import Guard
from server.rounds.store import Checkpoint, EvaluationRow, FallRow, RoundRow, RunStore, StagesRow
from tests.server.reports.pages import Page
from tests.small import PRIVACY, small_config

SITES = ["north", "south", "west"]
NOISED = {"all": {"asked": 90, "free": 40, "forced": 41}}


@pytest.fixture
def config() -> RunConfig:
    return small_config(Path("none"), privacy={**PRIVACY, "metrics_noise_multiplier": 6.0}, guard={"every": 4})


def do_round(store: RunStore, number: int, sites: list[str], name: str) -> None:
    """Record a round, after every second of which all its sites are evaluated."""
    about: dict[str, Any] = {"seconds": 1.0, "refused": {}, "bytes_up": 1, "bytes_down": 1, "gradient_norm": 1.0}
    store.record(RoundRow(round=number, sites=sites, counts=None, adapter_sha256=f"{name}-{number}", **about))
    for site in sites if number % 2 == 0 else []:
        store.record(EvaluationRow(round=number, site=site, counts=NOISED))
    store.record(StagesRow(round=number, stages={}))


def fell(store: RunStore, config: RunConfig) -> None:
    """Do four rounds, after which the guard goes back to the beginning."""
    store.save(Checkpoint(0, zero_adapter(4), {}))
    store.save(Checkpoint(0, zero_adapter(4), {}), good=True)
    for number in range(1, 5):
        do_round(store, number, SITES, "bad")
        if number < 4:
            store.save(Checkpoint(number, zero_adapter(4), {}))
    take_back(store)


def take_back(store: RunStore) -> None:
    """Go back from the fourth round to the beginning."""
    guard: Any = SimpleNamespace(_store=store)
    sites = Guard._since(guard, 0, 4)
    store.go_back(FallRow(round=4, back_to=0, shares={}, lost={}, counts={}, disagreeing=[], sites=sites), {})


def told(folder: Path, config: RunConfig) -> tuple[dict[str, tuple[int, int]], dict[str, float | None], str]:
    """Return what the report counts, what the dashboard says of it, and the report."""
    history = History(folder)
    history.look()
    return taken(read_rows(folder)), totals_of(history, config).epsilon, Page(write_run_report(folder)).words


def of(config: RunConfig, counted: dict[str, tuple[int, int]]) -> dict[str, float]:
    return {site: spent[0] for site, took in counted.items() if (spent := epsilons(config, *took)) is not None}


def test_rounds_that_were_taken_back_count_once_before_the_run_goes_on_and_after(
    tmp_path: Path, config: RunConfig
) -> None:
    with RunStore.opened(tmp_path, config) as store:
        fell(store, config)
    counted, epsilon, page = told(tmp_path, config)
    assert counted == dict.fromkeys(SITES, (4, 2)) and epsilon == of(config, counted)
    assert f"Rounds finished 0 of {config.federation.rounds}" in page and "bad-" not in page
    assert read_stages(tmp_path) == []
    with RunStore.opened(tmp_path, config) as store:
        at = store.load()
        assert at is not None
        for number in (1, 2):
            do_round(store, number, ["north", "south"], "good")
            store.save(Checkpoint(number, zero_adapter(4), {}, at.redone))
    counted, epsilon, page = told(tmp_path, config)
    assert counted == {"north": (6, 3), "south": (6, 3), "west": (4, 2)} and epsilon == of(config, counted)
    assert "good-2" in page and "Sites north, south, west" in page, "west's rounds were taken back, and are spent"


def saved_until_it_goes_back(store: RunStore, at: Checkpoint, *, good: bool = False, save: Any = RunStore.save) -> None:
    """Die as the checkpoint is to be written that rounds are redone from."""
    if at.redone:
        raise KeyboardInterrupt
    save(store, at, good=good)


@pytest.mark.parametrize("again", [True, False])
def test_a_kill_before_the_run_is_back_counts_no_round_twice(
    tmp_path: Path, config: RunConfig, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """Whether the round that is done again falls, or is good; a dashboard that was watching says the same."""
    with RunStore.opened(tmp_path, config) as store:
        with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
            killed.setattr(RunStore, "save", saved_until_it_goes_back)
            fell(store, config)
        watched = History(tmp_path)
        watched.look()
        at = store.load()
        assert at is not None and at.round == 3 and not at.redone
        do_round(store, 4, SITES, "again")
        if again:
            take_back(store)
        else:
            store.save(Checkpoint(4, zero_adapter(4), {}))
        watched.look()
    assert told(tmp_path, config)[0] == dict.fromkeys(SITES, (4, 2))
    assert totals_of(watched, config).epsilon == of(config, dict.fromkeys(SITES, (4, 2)))
    with RunStore.opened(tmp_path, config) as store:
        store.load()
    assert len(watched.looks) == again and told(tmp_path, config)[0] == dict.fromkeys(SITES, (4, 2))


def test_a_round_that_ended_in_an_error_before_its_checkpoint_is_not_finished(
    tmp_path: Path, config: RunConfig
) -> None:
    with RunStore.opened(tmp_path, config) as store:
        store.save(Checkpoint(0, zero_adapter(4), {}))
        do_round(store, 1, SITES, "first")
        store.save(Checkpoint(1, zero_adapter(4), {}))
        do_round(store, 2, SITES, "broken")
    _, _, page = told(tmp_path, config)
    assert f"Rounds finished 1 of {config.federation.rounds}" in page
    assert "first-1" in page and "broken" not in page
