"""A guarded run: one poisoned round costs the rounds since the last good one, and a lie about answers costs nothing."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest

from common.arrays import adapter_sha256
from common.config import RunConfig
from common.errors import Code, FedReasonError
from common.guard import GuardConfig
from common.messages.kinds import Contribution, Evaluation, PublicAnswers, Refusal, Reply, Task
from server.provisioning.federation import Federation
from server.rounds.store import RunStore, zero_adapter
from tests.scripted_grid import SIZE, Node, ScriptedGrid, run
from tests.server.rounds.faults.scene import ROUNDS, Stopped, contributed, nodes, standing, stop_after


def guarded(config: RunConfig, **changes: object) -> RunConfig:
    return config.model_copy(update={"guard": GuardConfig.model_validate({"questions": 20, **changes})})


@pytest.fixture
def sound(undisturbed: str, config: RunConfig, tmp_path: Path) -> set[str]:
    """Return the adapters of an undisturbed run: only those keep the form of answers in these tests."""
    with RunStore.opened(tmp_path / "undisturbed", config) as store:
        return {adapter_sha256(zero_adapter(SIZE)), *(row.adapter_sha256 for row in store.rounds())}


def sees(sound: Collection[str], *sites: Node) -> None:
    """Let sites answer public questions as the adapter deserves."""
    for node in sites:
        before = node.handle

        def handle(kind: str, task: Task, before: object = before, node: Node = node) -> Reply | None:
            if kind != "evaluate.public":
                return before(kind, task)  # type: ignore[operator, no-any-return]
            assert task.adapter is not None
            boxed = 18 if adapter_sha256(task.adapter) in sound else 6
            return PublicAnswers(node.site, task.round, 20, boxed, 6)

        node.handle = handle


def poison(number: int, site: str = "west") -> Contribution:
    return Contribution(site, number, 0, np.full(SIZE, -(2**50), dtype=np.int64), None)


def test_a_guard_that_finds_nothing_changes_no_bit(
    config: RunConfig, federation: Federation, undisturbed: str, tmp_path: Path
) -> None:
    sites = nodes()
    assert run(guarded(config), ScriptedGrid(*sites), tmp_path / "run", federation) == undisturbed
    assert [number for kind, number in sites[0].asked if kind == "evaluate.public"] == list(range(ROUNDS + 1))


@pytest.mark.parametrize(("every", "back"), [(1, 2), (2, 2), (3, 0), (99, 0)])
def test_a_poisoned_round_takes_the_run_back_to_the_last_good_one_and_it_ends_with_the_bits_of_an_undisturbed_run(
    config: RunConfig, federation: Federation, undisturbed: str, sound: set[str], tmp_path: Path, every: int, back: int
) -> None:
    config, (north, south, west) = guarded(config, every=every), nodes()
    west.but("train", poison(3), number=3)
    sees(sound, north, south, west)
    with pytest.raises(FedReasonError) as refusal:
        run(config, ScriptedGrid(north, south, west), tmp_path / "run", federation)
    assert refusal.value.code is Code.RUN_FALLEN
    assert f"back at round {back};" in refusal.value.found and "north, south, west" in refusal.value.found
    assert "boxed 0.90 -> 0.30" in refusal.value.found
    assert standing(tmp_path / "run").code == Code.RUN_FALLEN
    again = nodes()
    sees(sound, *again)
    assert run(config, ScriptedGrid(*again), tmp_path / "run", federation) == undisturbed
    assert [number for kind, number in again[0].asked if kind == "train"] == list(range(back + 1, ROUNDS + 1))
    assert contributed(config, tmp_path / "run") == [["north", "south", "west"]] * ROUNDS


def test_a_run_that_was_killed_is_guarded_by_what_it_saw_before(
    config: RunConfig, federation: Federation, sound: set[str], tmp_path: Path
) -> None:
    config, first = guarded(config), nodes()
    sees(sound, *first)
    with pytest.raises(Stopped):
        run(config, ScriptedGrid(*first), tmp_path / "run", federation, stop_after(2))
    north, south, west = nodes()
    west.but("train", poison(3), number=3)
    sees(sound, north, south, west)
    with pytest.raises(FedReasonError, match="back at round 2"):
        run(config, ScriptedGrid(north, south, west), tmp_path / "run", federation)


@pytest.mark.parametrize("boxed", [0, 20])
def test_a_site_that_lies_about_the_answers_is_named_and_neither_stops_nor_saves_a_run(
    config: RunConfig,
    federation: Federation,
    undisturbed: str,
    sound: set[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    boxed: int,
) -> None:
    config = guarded(config)
    for poisoned in (False, True):
        north, south, west = nodes()
        if poisoned:
            south.but("train", poison(3, "south"), number=3)
        sees(sound, north, south)
        for number in range(ROUNDS + 1):
            west.but("evaluate.public", PublicAnswers("west", number, 20, boxed, 0), number=number)
        grid, folder = ScriptedGrid(north, south, west), tmp_path / str(poisoned)
        with caplog.at_level(logging.WARNING, "fedreason"):
            if poisoned:
                with pytest.raises(FedReasonError, match="back at round 2"):
                    run(config, grid, folder, federation)
            else:
                assert run(config, grid, folder, federation) == undisturbed
        assert "guard: west answers public questions otherwise" in caplog.text


@pytest.mark.parametrize(
    "reply",
    [
        Refusal("west", 832),
        PublicAnswers("west", 99, 20, 18, 6),
        PublicAnswers("west", 3, 99, 18, 6),
        PublicAnswers("west", 3, 20, 21, 6),
        PublicAnswers("west", 3, 20, 6, 18),
        PublicAnswers("west", 3, 20, 6, -1),
        Evaluation("west", 3, None),
    ],
)
def test_where_too_few_sites_answer_a_round_is_not_judged_and_the_next_look_judges_it(
    config: RunConfig,
    federation: Federation,
    sound: set[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    reply: Reply,
) -> None:
    config, (north, south, west) = guarded(config, answers=3), nodes()
    west.but("train", poison(3), number=3)
    sees(sound, north, south, west)
    west.but("evaluate.public", reply, number=3)
    with (
        caplog.at_level(logging.WARNING, "fedreason"),
        pytest.raises(FedReasonError, match=r"Round 4 broke .*back at round 2"),
    ):
        run(config, ScriptedGrid(north, south, west), tmp_path / "run", federation)
    assert "round 3 is not judged" in caplog.text


def test_a_fall_of_the_accuracy_that_sites_tell_takes_a_run_back_too(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    config = guarded(config).model_copy(update={"evaluation": config.evaluation.model_copy(update={"every": 1})})
    sites = nodes()
    for node in sites:
        counts = {"age": {"asked": 20, "free": 2, "forced": 2}}
        node.but("evaluate", Evaluation(node.site, 3, counts), number=3)
    with pytest.raises(FedReasonError, match=r"accuracy 0\.50 -> 0\.10.*back at round 2"):
        run(config, ScriptedGrid(*sites), tmp_path / "run", federation)


def test_attempts_at_a_secure_sum_count_on_where_a_run_went_back(config: RunConfig, tmp_path: Path) -> None:
    with RunStore.opened(tmp_path / "run", config) as store:
        assert [store.begin_attempt(number) for number in (1, 2, 2, 3, 2, 3, 1)] == [0, 0, 1, 0, 2, 1, 1]
    (tmp_path / "run" / "attempt.json").write_text('{"round": 2, "attempt": 4}')
    with RunStore.opened(tmp_path / "run", config) as store:
        assert [store.begin_attempt(number) for number in (2, 3)] == [5, 0]
