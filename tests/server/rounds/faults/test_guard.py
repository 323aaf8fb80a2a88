"""The guard in the rounds: a bad adapter is taken back to the bit, on resume too; evaluators may lie, be away, refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from common.config import RunConfig
from common.errors import Code, FedReasonError
from common.guard import PUBLIC, GuardConfig
from common.messages.kinds import Evaluation, Refusal, Reply, Task
from server.provisioning.federation import Federation
from server.rounds.store import RunStore
from tests.scripted_grid import Node, ScriptedGrid, contribution, run
from tests.server.rounds.faults.scene import ROUNDS, Stopped, contributed, nodes, standing, stop_after
from tests.small import PRIVACY

Counts = dict[str, int]
GOOD: Counts = {"asked": 64, "boxed": 60, "right": 40, "other": 40}
FELL: Counts = {"asked": 64, "boxed": 20, "right": 10, "other": 10}


def guarded(config: RunConfig, **changes: object) -> RunConfig:
    return config.model_copy(update={"guard": GuardConfig.model_validate({"every": 2, **changes})})


def answering(*sites: Node, counts: Callable[[Task], Counts]) -> None:
    """Have sites answer public questions so; all else as before."""
    for site in sites:
        site.handle = _answering(site, counts)


def _answering(site: Node, counts: Callable[[Task], Counts]) -> Callable[[str, Task], Reply | None]:
    before = site.handle

    def handle(kind: str, task: Task) -> Reply | None:
        if kind == "evaluate" and task.public:
            return Evaluation(site.site, task.round, {PUBLIC: counts(task)})
        return before(kind, task)  # type: ignore[return-value]

    return handle


def looks(config: RunConfig, folder: Path) -> list[int]:
    with RunStore.opened(folder, config) as store:
        return [look.round for look in store.looks()]


def stopped(code: Code, *arguments: object) -> FedReasonError:
    with pytest.raises(FedReasonError) as stop:
        run(*arguments)  # type: ignore[arg-type]
    assert stop.value.code is code
    return stop.value


def poisoning(site: Node, rounds: set[int]) -> None:
    """Have a site send the tenfold of what it should with its sign turned round, in some rounds."""
    before = site.handle

    def handle(kind: str, task: Task) -> Reply | None:
        if kind == "train" and task.round in rounds:
            honest = contribution(site.site, task)
            return type(honest)(site.site, task.round, task.attempt, -10 * honest.total, honest.counts)
        return before(kind, task)  # type: ignore[return-value]

    site.handle = handle  # type: ignore[assignment]


@pytest.fixture
def watched(config: RunConfig) -> RunConfig:
    return guarded(config)


@pytest.fixture
def good_bits(watched: RunConfig, federation: Federation, tmp_path: Path) -> str:
    sites = nodes()
    answering(*sites, counts=lambda task: GOOD)
    return run(watched, ScriptedGrid(*sites), tmp_path / "good", federation)


def test_a_guarded_run_that_nothing_befalls_ends_with_the_bits_of_one_without(
    watched: RunConfig, undisturbed: str, good_bits: str, tmp_path: Path
) -> None:
    assert good_bits == undisturbed
    assert looks(watched, tmp_path / "good") == [0, 2, 4]


@pytest.mark.parametrize("bad", [3, 4])
def test_after_a_rollback_the_run_ends_as_if_the_bad_round_had_never_been(
    watched: RunConfig, federation: Federation, good_bits: str, tmp_path: Path, bad: int
) -> None:
    north, south, west = sites = nodes()
    honest = {site.site: site.handle for site in sites}
    poisoning(west, {bad})
    answering(*sites, counts=lambda task: FELL if task.round == 4 else GOOD)
    error = stopped(Code.GUARD_FELL, watched, ScriptedGrid(*sites), tmp_path / "run", federation)
    assert "back at round 2" in error.found and "north, south, west" in error.found and "boxed from 0.94 to 0.31" in error.found
    assert standing(tmp_path / "run").code == Code.GUARD_FELL
    for site in sites:
        site.handle = honest[site.site]
    answering(*sites, counts=lambda task: GOOD)
    assert run(watched, ScriptedGrid(*sites), tmp_path / "run", federation) == good_bits
    assert (north.times("train", 2), north.times("train", 3), south.times("train", 4)) == (1, 2, 2)
    assert contributed(watched, tmp_path / "run") == [["north", "south", "west"]] * ROUNDS
