"""Held-out counts that no site of the run can have are left out with their number, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from client.privacy.totals import noised
from common.arrays import zero_adapter
from common.config import RunConfig
from common.messages.heads import Gathered
from common.messages.kinds import Evaluation, Reply, Task
from common.sums import KINDS
from server.rounds.loop import evaluate
from server.rounds.shares import possible
from server.rounds.store import RunStore
from simulation.arms import LocalExchange
from tests.small import PRIVACY, small_config

NOISED = PRIVACY | {"metrics_noise_multiplier": 4.0, "metrics_questions": 3}


def counts(asked: int, free: int, forced: int, **more: int) -> dict[str, dict[str, int]]:
    return {"age": dict(zip(KINDS, (asked, free, forced), strict=True)) | more}


def config(**changes: Any) -> RunConfig:
    """A run of 70 patients that train, and 30 held out."""
    federation = {"population": 70}
    return small_config(Path("none"), federation=federation, **{"questions": {"held_out": 0.3}, **changes})


@pytest.mark.parametrize("told", [{}, counts(0, 0, 0), counts(30, 0, 30), counts(30, 7, 9, disagreeing=3)])
def test_what_a_site_counts_is_possible(told: dict[str, dict[str, int]]) -> None:
    assert possible(told, config())


@pytest.mark.parametrize(
    "told",
    [
        counts(30, 31, 30),
        counts(30, 10, 31),
        counts(30, -1, 9),
        counts(30, 3, -1),
        counts(30, 3, 3, disagreeing=31),
        counts(-3, 0, 0),
        counts(101, 0, 0),
        {"age": {"free": 1}},
        {"age": {"asked": 1} | {str(kind): 0 for kind in range(30)}},
        {"x" * 2000: counts(1, 1, 1)["age"]},
        {str(item): counts(1, 1, 1)["age"] for item in range(20_000)},
    ],
)
def test_what_no_site_counts_is_not(told: dict[str, dict[str, int]]) -> None:
    assert not possible(told, config())


def test_where_the_run_names_its_items_another_is_none() -> None:
    asked = {"held_out": 0.3, "weights": {"sex": 1.0}}
    assert not possible(counts(1, 1, 1), config(questions=asked))
    assert possible({"sex": counts(1, 1, 1)["age"]}, config(questions=asked))


def test_noise_explains_counts_out_of_range_and_no_more() -> None:
    run = config(privacy=NOISED)
    assert run.privacy is not None and run.privacy.metrics_sigma is not None
    for _ in range(50):
        assert possible(noised([0, 0, 0], run.privacy), run) and possible(noised([90, 0, 90], run.privacy), run)
    for far in (counts(10**12, 0, 0), counts(90, 10**9, 0), counts(90, -(10**9), 0)):
        assert not possible({"all": far["age"]}, run)


def test_an_evaluation_that_is_none_is_left_out_by_name_and_number_and_the_others_are_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Told(LocalExchange):
        """Sites of which two tell what cannot be."""

        def evaluations(self, task: Task, enough: Callable[[], bool]) -> Iterator[Reply]:
            yield Evaluation("liar", task.round, counts(10**12, 10**12, 0))
            yield Evaluation("late", task.round - 1, counts(30, 7, 9))
            yield Evaluation("silent", task.round, None)
            yield Evaluation("north", task.round, counts(30, 7, 9))

    with RunStore.opened(tmp_path, config()) as store:
        evaluate(config(), Told([], evaluate=False), store, 1, 0, zero_adapter(4), Gathered())
        assert [(row.site, row.counts) for row in store.evaluations()] == [("north", counts(30, 7, 9))]
    assert [site for site in ("liar", "late", "silent", "north") if f"{site} failed: E504" in caplog.text] == [
        "liar",
        "late",
    ]
