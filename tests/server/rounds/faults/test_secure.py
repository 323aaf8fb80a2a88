"""Secure sums over Flower's Grid: whoever is lost at whichever exchange, the sum is right or begun once more."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.arrays import Integers
from common.config import RunConfig
from common.errors import Code, FedReasonError
from common.identity.keys import new_node_key, new_signing_key, public_text, save_key
from common.identity.roster import Member, Roster, sign_roster
from common.messages.kinds import Contribution, Refusal, Reply, Step, Task
from common.secagg.messages import message_of, parts_of
from common.secagg.session import Session, model_sha256
from common.secagg.site import Site
from common.secagg.terms import FEWEST, Limits, terms_of
from common.stream import Stream
from server.provisioning.federation import Federation, FederationConfig
from tests.common.secagg.cohort import Memory
from tests.scripted_grid import LAYOUT, SIZE, Node, ScriptedGrid, federation_of, run
from tests.server.rounds.faults.scene import contributed, refused
from tests.small import small_config

FIVE = ("coast", "east", "north", "south", "west")
TURNS = ("opening", "directory", "inbox", "survivors", "consents")


def total_of(site: str, task: Task, attempt: int) -> Integers:
    stream = Stream.named("secure", site, task.round, attempt)
    return np.array([stream.below(2**20) - 2**19 for _ in range(SIZE)], dtype=np.int64)


class SecureNode(Node):
    """A site that takes part in secure sums; in plain ones with the integers of a given attempt at each round."""

    def __init__(self, number: int, site: str, key: Ed25519PrivateKey, roster: Roster) -> None:
        super().__init__(number, site)
        self.key, self.roster, self.store = key, roster, Memory()
        self.session: Site | None = None
        self.turns: list[tuple[str, int, int]] = []
        self.attempts: Mapping[int, int] = {}

    def answer(self, kind: str, task: Task) -> Any:
        if kind == "train":
            total = total_of(self.site, task, self.attempts.get(task.round, 0))
            return Contribution(self.site, task.round, task.attempt, total, None)
        return self.step(task) if kind == "train.secure" else super().answer(kind, task)

    def step(self, task: Task) -> Reply:
        assert task.step is not None
        self.turns.append((task.step["kind"], task.round, task.attempt))
        try:
            if task.step["kind"] == "opening":
                assert task.adapter is not None
                model = model_sha256(task.adapter, LAYOUT)
                session = Session.of(
                    task.config, self.roster, round=task.round, attempt=task.attempt, model_sha256=model
                )
                self.session = Site(
                    name=self.site, key=self.key, roster=self.roster, session=session,
                    terms=terms_of(task.config, SIZE), limits=Limits(cohort=FEWEST), store=self.store,
                    contribute=lambda _: total_of(self.site, task, task.attempt),
                )  # fmt: skip
            else:
                assert task.adapter is None
            if self.session is None:
                return Refusal(self.site, int(Code.SECAGG_TURN))
            parts = parts_of(self.session.take(message_of(task.step, {})))  # type: ignore[arg-type]
        except FedReasonError as error:
            return Refusal(self.site, int(error.code))
        return Step(self.site, task.round, task.attempt, parts.head, parts.arrays.get("words"))

    def restart(self) -> None:
        """Be killed and started again: the session is gone, and the journal is not."""
        self.come_back()
        self.session = None


@pytest.fixture
def secure_config() -> RunConfig:
    federation = {"rounds": 3, "sites": 5, "deadline": 60.0, "aggregation": "secure"}
    return small_config(Path("none"), federation=federation, lattice={"bits": 20, "clip_norm": 1.0})


@pytest.fixture
def five(tmp_path: Path) -> tuple[Federation, list[SecureNode]]:
    folder = tmp_path / "coordinator"
    federation = Federation(folder, FederationConfig(name="small", host="localhost", sites=FIVE))
    key, own = new_signing_key(), {site: new_signing_key() for site in FIVE}
    save_key(federation.signing_key, key)
    federation.save()
    members = tuple(
        Member(site=s, signing_key=public_text(own[s]), node_key=public_text(new_node_key()), admitted=date(2026, 1, 1))
        for s in FIVE
    )
    roster = Roster(federation="small", version=1, issued=datetime.now(UTC), members=members)
    federation.roster_file.write_text(sign_roster(roster, key))
    federation.nodes_file.write_text(json.dumps({str(i): site for i, site in enumerate(FIVE, start=1)}))
    return federation, [SecureNode(i, site, own[site], roster) for i, site in enumerate(FIVE, start=1)]


def plain(config: RunConfig, five: tuple[Federation, list[SecureNode]], folder: Path, attempts: dict[int, int]) -> str:
    """Hash of the adapter of the same sums in the open, each round's of a given attempt."""
    nodes = [SecureNode(node.number, node.site, node.key, node.roster) for node in five[1]]
    for node in nodes:
        node.attempts = attempts
    return run(federation_of(config, aggregation="plain"), ScriptedGrid(*nodes), folder, five[0])


def test_a_secure_run_ends_with_the_adapter_of_the_plain_one(
    secure_config: RunConfig, five: tuple[Federation, list[SecureNode]], tmp_path: Path
) -> None:
    expected = plain(secure_config, five, tmp_path / "plain", {})
    assert run(secure_config, ScriptedGrid(*five[1]), tmp_path / "run", five[0]) == expected
    assert [kind for kind, _, _ in five[1][0].turns] == [*TURNS] * 3
    assert not any(kind == "train" for kind, _ in five[1][0].asked)


def dying_in(nodes: list[SecureNode], turn: str, back: Callable[[], bool]) -> Callable[[int], None]:
    """Have south die over a message of round 2, and start anew once `back` says so."""
    south, killed = nodes[3], list[int]()
    before = south.handle

    def handle(kind: str, task: Task) -> Any:
        at_it = not killed and task.round == 2 and task.step is not None and task.step["kind"] == turn
        return None if at_it else before(kind, task)

    south.handle = handle

    def script(step: int) -> None:
        if not killed and south.asked and south.asked[-1] == ("train.secure", 2):
            asked = south.tasks[-1].step
            if asked is not None and asked["kind"] == turn:
                killed.append(step)
                south.die()
        elif killed and not south.online and step >= killed[0] + 20 and back():
            south.restart()

    return script


@pytest.mark.long
@pytest.mark.parametrize("turn", TURNS)
def test_a_site_killed_at_any_exchange_is_in_the_sum_or_the_round_is_begun_anew(
    secure_config: RunConfig, five: tuple[Federation, list[SecureNode]], tmp_path: Path, turn: str
) -> None:
    """Once its masked sum has come the others unmask it without the site; before, the quorum is all five."""
    federation, nodes = five
    script = dying_in(nodes, turn, lambda: True)
    ended = run(secure_config, ScriptedGrid(*nodes, script=script), tmp_path / "run", federation)
    again = {} if turn in ("opening", "survivors", "consents") else {2: 1}
    assert ended == plain(secure_config, five, tmp_path / "plain", again)
    assert nodes[3].since.endswith("+")
    assert contributed(secure_config, tmp_path / "run") == [[*FIVE]] * 3


@pytest.mark.parametrize("turn", ["survivors", "consents"])
def test_the_others_unmask_the_sum_while_a_site_that_sent_its_part_is_away(
    secure_config: RunConfig, five: tuple[Federation, list[SecureNode]], tmp_path: Path, turn: str
) -> None:
    config = federation_of(secure_config, rounds=2)
    federation, nodes = five
    script = dying_in(nodes, turn, lambda: False)
    ended = run(config, ScriptedGrid(*nodes, script=script), tmp_path / "run", federation)
    assert ended == plain(config, five, tmp_path / "plain", {})
    assert not nodes[3].online
    assert contributed(config, tmp_path / "run") == [[*FIVE]] * 2


def test_with_shared_noise_of_no_dropouts_a_site_lost_after_all_have_signed_costs_nothing(
    five: tuple[Federation, list[SecureNode]], tmp_path: Path
) -> None:
    """K - d must sign, which binds the noise; then as many as find the sum are enough, and nobody is charged again."""
    federation, nodes = five
    privacy = {"clip_norm": 0.5, "noise_multiplier": 4.0, "delta": 1e-5, "noise": "distributed", "dropouts": 0}
    config = small_config(
        Path("none"),
        federation={"rounds": 2, "sites": 5, "deadline": 60.0, "aggregation": "secure"},
        privacy=privacy | {"colluders": 1, "answer_every": 2.0},
    )
    script = dying_in(nodes, "consents", lambda: False)
    run(config, ScriptedGrid(*nodes, script=script), tmp_path / "run", federation)
    assert not nodes[3].online
    assert contributed(config, tmp_path / "run") == [[*FIVE]] * 2
    assert [turn for turn in nodes[0].turns if turn[0] == "inbox"] == [("inbox", 1, 0), ("inbox", 2, 0)]


@pytest.mark.parametrize("wrong", ["shares", "a form"])
def test_a_site_whose_fault_it_was_is_asked_for_no_further_sum(
    five: tuple[Federation, list[SecureNode]], tmp_path: Path, wrong: str
) -> None:
    """West deals shares that do not meet, or its masked sum is none: the others sum that round twice, and go on."""
    privacy = {"clip_norm": 0.5, "noise_multiplier": 4.0, "delta": 1e-5, "noise": "distributed", "dropouts": 0}
    config = small_config(
        Path("none"),
        federation={"rounds": 3, "sites": 5, "quorum": 4, "deadline": 60.0, "aggregation": "secure"},
        privacy=privacy | {"colluders": 1, "answer_every": 2.0},
    )
    federation, nodes = five
    west = nodes[4]
    before = west.step

    def step(task: Task) -> Reply:
        assert task.step is not None
        with pytest.MonkeyPatch.context() as patch:
            if wrong == "shares":
                patch.setattr("common.secagg.shamir.deal", lambda secret, t, holders: [*range(1, holders + 1)])
            reply = before(task)
        garbage = isinstance(reply, Step) and wrong == "a form" and task.step["kind"] == "inbox"
        return replace(reply, message={"kind": "garbage"}) if garbage else reply

    west.step = step  # type: ignore[method-assign]
    run(config, ScriptedGrid(*nodes), tmp_path / "run", federation)
    assert contributed(config, tmp_path / "run") == [[*FIVE[:4]]] * 3
    code = Code.SECAGG_SHARE if wrong == "shares" else Code.RUN_REPLY
    assert refused(config, tmp_path / "run") == [{"west": code}] * 3
    begun = [(number, attempt) for kind, number, attempt in nodes[0].turns if kind == "inbox"]
    assert begun == [(1, 0), (1, 1), (2, 0), (3, 0)]
    assert {(number, attempt) for _, number, attempt in west.turns} == {(1, 0)}


def test_without_a_site_that_a_quorum_needs_no_further_attempt_is_begun(
    secure_config: RunConfig, five: tuple[Federation, list[SecureNode]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every site that is asked counts the attempt."""
    federation, nodes = five
    before = nodes[4].step

    def step(task: Task) -> Reply:
        with monkeypatch.context() as patch:
            patch.setattr("common.secagg.shamir.deal", lambda secret, t, holders: [*range(1, holders + 1)])
            return before(task)

    nodes[4].step = step  # type: ignore[method-assign]
    with pytest.raises(FedReasonError) as refusal:
        run(secure_config, ScriptedGrid(*nodes), tmp_path / "run", federation)
    assert refusal.value.code is Code.RUN_QUORUM and "west" in refusal.value.found
    assert {(number, attempt) for _, number, attempt in nodes[0].turns} == {(1, 0)}


def test_a_site_that_says_nothing_ends_its_exchange_at_the_deadline_and_the_round_is_begun_anew(
    secure_config: RunConfig, five: tuple[Federation, list[SecureNode]], tmp_path: Path
) -> None:
    config = federation_of(secure_config, rounds=1, deadline=20.0)
    federation, nodes = five
    coast, south = nodes[0], nodes[3]
    before = south.handle

    def handle(kind: str, task: Task) -> Any:
        stuck = task.step is not None and task.step["kind"] == "directory" and ("opening", 1, 1) not in coast.turns
        return None if stuck else before(kind, task)

    south.handle = handle
    ended = run(config, ScriptedGrid(*nodes), tmp_path / "run", federation)
    attempt = json.loads((tmp_path / "run" / "attempt.json").read_text())["1"]
    assert attempt >= 1
    assert ended == plain(config, five, tmp_path / "plain", {1: attempt})


def test_with_a_smaller_quorum_the_round_goes_on_without_the_lost_and_names_it(
    secure_config: RunConfig, five: tuple[Federation, list[SecureNode]], tmp_path: Path
) -> None:
    config = federation_of(secure_config, quorum=4, rounds=2)
    federation, nodes = five
    nodes[1].but("train.secure", Refusal("east", int(Code.RUN_FAILED)), times=1, number=2)
    run(config, ScriptedGrid(*nodes), tmp_path / "run", federation)
    assert contributed(config, tmp_path / "run") in ([[*FIVE], ["coast", "north", "south", "west"]], [[*FIVE]] * 2)
    assert refused(config, tmp_path / "run")[1] in ({"east": int(Code.RUN_FAILED)}, {})
