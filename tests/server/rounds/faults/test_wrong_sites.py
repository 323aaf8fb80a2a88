"""A site that refuses, or sends what is wrong, costs its own part of the round at most."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Error, Message

from common.config import RunConfig
from common.errors import TRANSIENT, Code, FedReasonError
from common.messages.kinds import Contribution, Layout, Refusal, Reply, Task
from common.messages.records import reply_record
from server.provisioning.federation import Federation
from tests.clock import Clock
from tests.scripted_grid import SIZE, Node, ScriptedGrid, contribution, federation_of, run
from tests.server.rounds.faults.scene import Stopped, contributed, met, nodes, refused, standing, stop_after, task_of


@pytest.mark.parametrize("code", sorted(TRANSIENT))
def test_a_site_that_cannot_for_now_is_asked_again_and_the_bits_stay(
    config: RunConfig, federation: Federation, undisturbed: str, tmp_path: Path, code: Code
) -> None:
    north, south, west = nodes()
    south.but("train", Refusal("south", int(code)), times=3, number=2)
    assert run(config, ScriptedGrid(north, south, west), tmp_path / "run", federation) == undisturbed
    assert south.times("train", 2) == 4


def test_a_site_that_cannot_for_now_is_asked_at_growing_intervals(
    config: RunConfig, federation: Federation, clock: Clock
) -> None:
    north, south, west = nodes()
    asked: list[float] = []
    south.but("train", Refusal("south", int(Code.SITE_PAUSED)), times=4)
    answers = south.handle

    def handle(kind: str, task: Task) -> Reply | Error | None:
        asked.append(clock.monotonic())
        return answers(kind, task)

    exchange = met(config, federation, north, south, west)
    south.handle = handle
    replies = list(exchange.contributions(task_of(config), lambda: False))
    pauses = np.diff(asked)
    assert len(replies) == 3
    assert all(pause > wanted for pause, wanted in zip(pauses, (5, 10, 20, 40), strict=True))


@pytest.mark.parametrize(
    "code", [Code.POLICY_REFUSED, Code.CODEBOOK_CHANGED, Code.MODEL_MANIFEST, Code.REGISTRY_MISSING, Code.RUN_FAILED]
)
def test_any_other_refusal_is_final_for_its_round(
    config: RunConfig, federation: Federation, tmp_path: Path, code: Code
) -> None:
    config = federation_of(config, quorum=2)
    north, south, west = nodes()
    west.but("train", Refusal("west", int(code)), number=2)
    run(config, ScriptedGrid(north, south, west), tmp_path / "run", federation)
    assert refused(config, tmp_path / "run") == [{}, {"west": code}, {}, {}]
    assert [west.times("train", number) for number in (1, 2, 3, 4)] == [1, 1, 1, 1]


def test_where_refusals_leave_no_quorum_the_run_stops_at_once_and_names_them(
    config: RunConfig, federation: Federation, undisturbed: str, tmp_path: Path, clock: Clock
) -> None:
    config = federation_of(config, quorum=2)
    north, south, west = nodes()
    north.but("train", None, number=3)
    south.but("train", Refusal("south", int(Code.POLICY_REFUSED)), times=1, number=3)
    west.but("train", Refusal("west", int(Code.REGISTRY_MISSING)), times=1, number=3)
    with pytest.raises(FedReasonError) as stopped:
        run(config, ScriptedGrid(north, south, west), tmp_path / "run", federation)
    assert clock.monotonic() < config.federation.deadline
    assert stopped.value.code == Code.RUN_QUORUM
    assert "south refused: E832 policy refused (the run asks for more" in stopped.value.found
    assert "west refused: E301 registry missing (its registry" in stopped.value.found
    assert stopped.value.fix.startswith("Change the run or have the site change")
    now = standing(tmp_path / "run")
    assert (now.state, now.round, now.code, now.refused) == ("stopped", 3, 503, {"south": 832, "west": 301})
    assert run(config, ScriptedGrid(*nodes()), tmp_path / "run", federation) == undisturbed


def test_a_reply_under_another_site_s_name_is_left_out(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    config = federation_of(config, quorum=2)
    north, south, west = nodes()
    answers = west.handle
    west.handle = lambda kind, task: (
        replace(contribution("west", task), site="north") if (kind, task.round) == ("train", 2) else answers(kind, task)
    )
    run(config, ScriptedGrid(north, south, west), tmp_path / "run", federation)
    assert refused(config, tmp_path / "run") == [{}, {"west": Code.SITE_IDENTITY}, {}, {}]
    assert contributed(config, tmp_path / "run")[1] == ["north", "south"]


class Forged(ScriptedGrid):
    """Flower as it is: with each answer comes what a node addressed to the program, here in everybody's name."""

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        latest, forged = max((number for _, number in self.nodes[1].asked), default=0), []
        for site in ("north", "south", "west"):
            lie = Contribution(site, latest, 0, np.full(SIZE, 2**40), None)
            forged.append(Message(reply_record(lie), dst_node_id=1, message_type="train"))
        return [*forged, *super().pull_messages(message_ids)]


def test_what_a_node_sends_of_its_own_accord_is_nobody_s_answer(
    config: RunConfig, federation: Federation, undisturbed: str, tmp_path: Path
) -> None:
    assert run(config, Forged(*nodes()), tmp_path / "run", federation) == undisturbed
    assert refused(config, tmp_path / "run") == [{}, {}, {}, {}]


class Broken(ScriptedGrid):
    """What a look takes along may make no message: then Flower raises, and what the look fetched is gone."""

    def __init__(self, *nodes: Node, strays: bool, broken: Collection[int]) -> None:
        super().__init__(*nodes, script=self._stray if strays else lambda step: None)
        self.broken, self.strays, self.gone = broken, 0, dict[str, Message]()

    def _stray(self, step: int) -> None:
        self.strays = 1  # one at every look at the nodes

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        number = next(iter(message_ids), "")
        if (lost := self.gone.pop(number, None)) is not None:
            return [Message(Error(3), reply_to=lost)]
        sent = self.sent.get(number)
        pulled = list(super().pull_messages([number]))
        wrong = sent is not None and (sent.metadata.dst_node_id, sent.metadata.message_type) in self.broken_kinds
        if self.strays or (pulled and wrong):
            self.strays = 0
            if pulled and sent is not None:
                self.gone[number] = sent
            raise AttributeError("a record of another kind")
        return pulled

    @property
    def broken_kinds(self) -> set[tuple[int, str]]:
        return {(node, "train") for node in self.broken}


def test_an_answer_that_makes_no_message_costs_the_site_its_part_of_the_round_and_not_the_run(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    config = federation_of(config, quorum=2)
    run(config, Broken(*nodes(), strays=False, broken={3}), tmp_path / "run", federation)
    assert refused(config, tmp_path / "run") == [{"west": Code.SITE_SILENT}] * 4
    assert contributed(config, tmp_path / "run") == [["north", "south"]] * 4


def test_what_a_node_sends_beside_and_makes_no_message_takes_no_answer_along(
    config: RunConfig, federation: Federation, undisturbed: str, tmp_path: Path
) -> None:
    north, south, west = nodes()
    grid = Broken(north, south, west, strays=True, broken=())
    assert run(config, grid, tmp_path / "run", federation) == undisturbed
    assert [site.times("train", number) for site in (north, south, west) for number in (1, 2, 3, 4)] == [1] * 12


def test_a_refusal_is_booked_to_the_node_that_sent_it(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    config = federation_of(config, quorum=2, rounds=1)
    north, south, west = nodes()
    west.but("train", Refusal("unknown site", int(Code.REGISTRY_MISSING)))
    run(config, ScriptedGrid(north, south, west), tmp_path / "run", federation)
    assert refused(config, tmp_path / "run") == [{"west": Code.REGISTRY_MISSING}]


def test_a_node_that_is_not_in_the_federation_is_not_asked(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    stranger = Node(7, "north")
    run(config, ScriptedGrid(*nodes(), stranger), tmp_path / "run", federation)
    assert stranger.asked == []


def test_a_contribution_of_another_shape_or_round_is_left_out(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    config = federation_of(config, quorum=2)
    north, south, west = nodes()
    west.but("train", Contribution("west", 2, 0, np.ones(SIZE + 1, dtype=np.int64), None), number=2)
    west.but("train", Contribution("west", 2, 0, np.ones(SIZE, dtype=np.int64), None), number=3)
    run(config, ScriptedGrid(north, south, west), tmp_path / "run", federation)
    assert refused(config, tmp_path / "run") == [{}, {"west": 504}, {"west": 504}, {}]


def test_a_program_that_fails_is_left_out_for_the_round(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    config = federation_of(config, quorum=2)
    north, south, west = nodes()
    west.but("train", Error(2, "text that a site should not have sent"), number=2)
    run(config, ScriptedGrid(north, south, west), tmp_path / "run", federation)
    assert refused(config, tmp_path / "run") == [{}, {"west": Code.RUN_FAILED}, {}, {}]
    assert west.times("train", 2) == 1


def test_sites_that_would_train_other_parameters_than_the_checkpoint_has_stop_the_run(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    with pytest.raises(Stopped):
        run(config, ScriptedGrid(*nodes()), tmp_path / "run", federation, stop_after(1))
    sites = nodes()
    for site in sites:
        site.but("query", Layout(site.site, SIZE + 1, "0" * 64))
    with pytest.raises(FedReasonError) as stopped:
        run(config, ScriptedGrid(*sites), tmp_path / "run", federation)
    assert stopped.value.code == Code.MODEL_ADAPTER


def test_where_refusals_leave_no_quorum_sites_that_are_offline_are_told_apart(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    config = federation_of(config, quorum=2)
    north, south, west = nodes()
    north.but("query", Refusal("north", int(Code.POLICY_REFUSED)))
    west.but("query", Refusal("west", int(Code.SITE_IDENTITY)))
    grid = ScriptedGrid(north, south, west, script=lambda step: south.die() if step > 1 else None)
    with pytest.raises(FedReasonError) as stopped:
        run(config, grid, tmp_path / "run", federation)
    found = stopped.value.found
    assert found.index("north refused: E832") < found.index("west failed: E815") < found.index("south is offline: E507")
    assert "policy.toml" in found and "have the absent sites started" in stopped.value.fix
