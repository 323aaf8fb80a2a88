"""A site of a private run that may not answer for an attempt is asked for the next one; another is asked again."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.config import PrivacyConfig, RunConfig
from common.messages.records import read_task
from server.provisioning.federation import Federation
from tests.clock import Clock
from tests.scripted_grid import ScriptedGrid, federation_of, run
from tests.server.rounds.faults.scene import ROUNDS, nodes, refused


@pytest.mark.parametrize("private", [True, False])
def test_a_site_that_stays_silent_for_an_attempt_is_asked_for_the_next_one_and_only_in_a_private_run(
    config: RunConfig, federation: Federation, tmp_path: Path, private: bool
) -> None:
    privacy = PrivacyConfig(clip_norm=1.0, noise_multiplier=1.0, delta=1e-5, answer_every=0.0)
    config = federation_of(config, deadline=300.0).model_copy(update={"privacy": privacy if private else None})
    north, south, west = nodes()
    dropped: list[int] = []

    def script(step: int) -> None:
        if west.queue and west.queue[0].metadata.message_type == "train" and len(dropped) < 2:
            dropped.append(read_task(west.queue.pop(0).content).attempt)

    run(config, ScriptedGrid(north, south, west, script=script), tmp_path / "run", federation)
    asked = [task.attempt for task in west.tasks if task.adapter is not None and task.round == 1]
    assert dropped == [0, 0] and asked[0] == int(private)
    assert {task.attempt for node in (north, south) for task in node.tasks} == {0}
    assert refused(config, tmp_path / "run") == [{}] * ROUNDS


def test_a_site_that_had_neither_the_task_nor_the_first_probe_is_probed_again_and_asked_within_minutes(
    config: RunConfig, federation: Federation, tmp_path: Path, clock: Clock
) -> None:
    config = federation_of(config, deadline=3600.0)
    north, south, west = nodes()
    dropped: list[str] = []

    def script(step: int) -> None:
        kind = west.queue[0].metadata.message_type if west.queue else ""
        if [*dropped, kind] in (["train"], ["train", "query"], ["train", "query", "query"]):
            west.queue.pop(0)
            dropped.append(kind)

    run(config, ScriptedGrid(north, south, west, script=script), tmp_path / "run", federation)
    assert dropped == ["train", "query", "query"] and west.times("train", 1) == 1
    assert clock.monotonic() < 600
    assert refused(config, tmp_path / "run") == [{}] * ROUNDS
