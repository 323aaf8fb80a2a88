"""The guard in the rounds: a bad adapter is taken back to the bit; evaluators may lie, be away, refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.config import PrivacyConfig, RunConfig
from common.errors import Code, FedReasonError
from common.guard import PUBLIC, GuardConfig
from common.messages.kinds import Contribution, Evaluation, Refusal, Reply, Task
from server.provisioning.federation import Federation
from server.reports.rows import read_rows
from server.rounds.store import RunStore
from server.services.admission import revoke
from tests.scripted_grid import SIZE, Node, ScriptedGrid, contribution, run
from tests.server.rounds.faults.scene import ROUNDS, Stopped, contributed, nodes, standing, stop_after
from tests.small import PRIVACY

Counts = dict[str, int]
GOOD: Counts = {"asked": 64, "boxed": 60, "right": 40, "other": 40}
FELL: Counts = {"asked": 64, "boxed": 20, "right": 10, "other": 10}


def guarded(config: RunConfig, **changes: object) -> RunConfig:
    return config.model_copy(update={"guard": GuardConfig.model_validate({"every": 2, **changes})})


def contributing_nothing(*sites: Node) -> None:
    """Have sites contribute zeros: at the largest learning rate anything else moves the adapter out of range."""
    for site in sites:
        site.handle = _still(site)


def _still(site: Node) -> Callable[[str, Task], Reply | None]:
    before = site.handle

    def handle(kind: str, task: Task) -> Reply | None:
        if kind == "train":
            return Contribution(site.site, task.round, task.attempt, np.zeros(SIZE, dtype=np.int64), None)
        return before(kind, task)  # type: ignore[return-value]

    return handle


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
    assert (
        "back at round 2" in error.found
        and "north, south, west" in error.found
        and "boxed from 0.94 to 0.31" in error.found
    )
    assert standing(tmp_path / "run").code == Code.GUARD_FELL
    assert "quorum of this run is all its sites" in error.fix and "revoke" not in error.fix
    (undone,) = read_rows(tmp_path / "run").looks[2:]
    assert (undone.round, undone.back_to, undone.since) == (4, 2, ("north", "south", "west"))
    assert undone.sites["west"] == {"boxed": 20 / 64, "right": 10 / 64, "other": 10 / 64}
    assert undone.agreed["right"] == 10 / 64 and undone.lost["boxed"] == 60 / 64
    assert undone.undone == {site.site: (2, 1) for site in sites} and len(read_rows(tmp_path / "run").rounds) == 2
    for site in sites:
        site.handle = honest[site.site]
    answering(*sites, counts=lambda task: GOOD)
    assert run(watched, ScriptedGrid(*sites), tmp_path / "run", federation) == good_bits
    assert (north.times("train", 2), north.times("train", 3), south.times("train", 4)) == (1, 2, 2)
    assert [(look.round, look.back_to) for look in read_rows(tmp_path / "run").looks][2:] == [(4, 2), (4, None)]
    assert contributed(watched, tmp_path / "run") == [["north", "south", "west"]] * ROUNDS


def test_without_the_site_that_poisons_it_a_run_goes_on_from_the_last_good_round(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    quorum = config.federation.model_copy(update={"quorum": 2})
    watched = guarded(config.model_copy(update={"federation": quorum}))
    north, south, west = nodes()
    poisoning(west, {3, 4})
    answering(north, south, west, counts=lambda task: FELL if task.round == 4 else GOOD)
    error = stopped(Code.GUARD_FELL, watched, ScriptedGrid(north, south, west), tmp_path / "run", federation)
    assert "`python -m server revoke SITE`" in error.fix and "goes on from round 2" in error.fix
    revoke(federation, ["west"])
    again = nodes()
    poisoning(again[2], {3, 4})
    answering(*again, counts=lambda task: GOOD)
    run(watched, ScriptedGrid(*again), tmp_path / "run", federation)
    assert again[2].asked == [], "a site that is off the roster is asked for nothing"
    assert contributed(watched, tmp_path / "run") == [["north", "south", "west"]] * 2 + [["north", "south"]] * 2


def test_rounds_are_not_kept_before_they_are_looked_at(
    watched: RunConfig, federation: Federation, good_bits: str, tmp_path: Path
) -> None:
    """The coordinator is killed while it waits for the answers: a second start asks for them."""
    sites = nodes()

    def dies(task: Task) -> Counts:
        if task.round == 2:
            raise Stopped
        return GOOD

    answering(*sites, counts=dies)
    with pytest.raises(Stopped):
        run(watched, ScriptedGrid(*sites), tmp_path / "run", federation)
    again = nodes()
    answering(*again, counts=lambda task: FELL if task.round == 2 else GOOD)
    assert (
        "back at round 0" in stopped(Code.GUARD_FELL, watched, ScriptedGrid(*again), tmp_path / "run", federation).found
    )
    last = nodes()
    answering(*last, counts=lambda task: GOOD)
    assert run(watched, ScriptedGrid(*last), tmp_path / "run", federation) == good_bits


def test_a_run_that_is_started_again_knows_the_best_of_before(
    watched: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    sites = nodes()
    answering(*sites, counts=lambda task: GOOD)
    with pytest.raises(Stopped):
        run(watched, ScriptedGrid(*sites), tmp_path / "run", federation, stop_after(3))
    again = nodes()
    answering(*again, counts=lambda task: FELL)
    assert (
        "back at round 2" in stopped(Code.GUARD_FELL, watched, ScriptedGrid(*again), tmp_path / "run", federation).found
    )


def test_a_round_that_was_looked_at_is_the_last_good_one_though_the_coordinator_died_right_after(
    watched: RunConfig, federation: Federation, good_bits: str, tmp_path: Path
) -> None:
    folder, sites = tmp_path / "run", nodes()
    answering(*sites, counts=lambda task: GOOD)
    with pytest.raises(Stopped):
        run(watched, ScriptedGrid(*sites), folder, federation, stop_after(1))
    older = (folder / "good.safetensors").read_bytes()
    with pytest.raises(Stopped):
        run(watched, ScriptedGrid(*sites), folder, federation, stop_after(2))
    (folder / "good.safetensors").write_bytes(older)
    again = nodes()
    answering(*again, counts=lambda task: FELL)
    assert "back at round 2" in stopped(Code.GUARD_FELL, watched, ScriptedGrid(*again), folder, federation).found
    last = nodes()
    answering(*last, counts=lambda task: GOOD)
    assert run(watched, ScriptedGrid(*last), folder, federation) == good_bits


def test_an_adapter_that_no_site_would_take_is_taken_back_whatever_the_round(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    """It would else be kept until the next look, which no site could answer."""
    optimizer = config.optimizer.model_copy(update={"name": "sgd", "learning_rate": 1e6, "momentum": 0.0})
    private = {"optimizer": optimizer, "privacy": PrivacyConfig.model_validate(PRIVACY)}
    watched = guarded(config.model_copy(update=private), every=4)
    sites = _, _, west = nodes()
    contributing_nothing(*sites)
    poison = Contribution("west", 2, 0, np.full(SIZE, watched.most_units, dtype=np.int64), None)
    west.but("train", poison, number=2)
    answering(*sites, counts=lambda task: GOOD)
    error = stopped(Code.GUARD_FELL, watched, ScriptedGrid(*sites), tmp_path / "run", federation)
    assert "Round 2" in error.found and "back at round 0" in error.found and "boxed from 0.94 to 0.00" in error.found
    again = nodes()
    contributing_nothing(*again)
    answering(*again, counts=lambda task: GOOD)
    run(watched, ScriptedGrid(*again), tmp_path / "run", federation)
    assert contributed(watched, tmp_path / "run") == [["north", "south", "west"]] * ROUNDS


def test_many_small_falls_are_one(watched: RunConfig, federation: Federation, tmp_path: Path) -> None:
    sites = nodes()
    answering(*sites, counts=lambda task: {**GOOD, "right": 40 - 4 * task.round})
    error = stopped(Code.GUARD_FELL, watched, ScriptedGrid(*sites), tmp_path / "run", federation)
    assert "right from 0.62 to 0.38" in error.found and "Round 4" in error.found


@pytest.mark.parametrize(
    "lie",
    [FELL, {}, {"asked": 1, "boxed": 1, "right": 1, "other": 0}, {**GOOD, "right": 99}, {**GOOD, "more": 1}],
)
def test_one_that_lies_changes_nothing_and_is_named(
    watched: RunConfig,
    federation: Federation,
    good_bits: str,
    tmp_path: Path,
    lie: Counts,
    caplog: pytest.LogCaptureFixture,
) -> None:
    north, south, west = nodes()
    answering(north, south, counts=lambda task: GOOD)
    answering(west, counts=lambda task: lie)
    assert run(watched, ScriptedGrid(north, south, west), tmp_path / "run", federation) == good_bits
    with RunStore.opened(tmp_path / "run", watched) as store:
        assert [look.disagreeing for look in store.looks()] == [["west"]] * 3
        assert all(len(look.counts["west"]) <= 4 for look in store.looks()), "nor does it fill the store with names"
    assert caplog.text.count("west answers the public questions otherwise") == 3


def test_a_liar_cannot_hide_what_two_others_see(watched: RunConfig, federation: Federation, tmp_path: Path) -> None:
    north, south, west = nodes()
    answering(north, south, counts=lambda task: FELL if task.round else GOOD)
    answering(west, counts=lambda task: GOOD)
    stopped(Code.GUARD_FELL, watched, ScriptedGrid(north, south, west), tmp_path / "run", federation)


def test_of_two_that_disagree_nobody_is_believed_and_the_round_is_done_anew(
    config: RunConfig, federation: Federation, good_bits: str, tmp_path: Path
) -> None:
    watched = guarded(config)
    north, south, west = nodes()
    answering(north, counts=lambda task: GOOD)
    answering(south, counts=lambda task: FELL if task.round == 2 else GOOD)
    west.but("evaluate", Refusal("west", int(Code.MODEL_MISSING)))
    error = stopped(Code.GUARD_UNDECIDED, watched, ScriptedGrid(north, south, west), tmp_path / "run", federation)
    assert "north boxed 0.94" in error.found and "south boxed 0.31" in error.found and "E401" in error.found
    again = nodes()
    answering(*again, counts=lambda task: GOOD)
    assert run(watched, ScriptedGrid(*again), tmp_path / "run", federation) == good_bits
    assert [site.times("train", 2) for site in again] == [1, 1, 1]


def test_one_that_is_away_or_refuses_is_not_waited_for_where_two_others_agree(
    watched: RunConfig, federation: Federation, good_bits: str, tmp_path: Path
) -> None:
    north, south, west = nodes()
    answering(north, south, counts=lambda task: GOOD)
    west.but("evaluate", Refusal("west", int(Code.CODEBOOK_CHANGED)))
    assert run(watched, ScriptedGrid(north, south, west), tmp_path / "run", federation) == good_bits


def test_too_few_that_answer_are_waited_for(
    watched: RunConfig, federation: Federation, good_bits: str, tmp_path: Path
) -> None:
    north, south, west = nodes()
    answering(north, south, west, counts=lambda task: GOOD)
    away: list[int] = []

    def script(step: int) -> None:
        if ("train", 2) in north.asked and not away:
            away.append(step)
            south.online = west.online = False
        elif away and step == away[0] + 30:
            south.come_back(empty=False)
            west.come_back(empty=False)

    assert run(watched, ScriptedGrid(north, south, west, script=script), tmp_path / "run", federation) == good_bits
    assert away


def test_held_out_counts_that_fall_count_too_where_sites_let_them_out(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    watched = guarded(config).model_copy(update={"evaluation": config.evaluation.model_copy(update={"every": 2})})
    sites = nodes()
    for site in sites:
        right = {0: 5, 2: 9, 4: 3}
        for number, free in right.items():
            counts = {"age": {"asked": 10, "free": free, "forced": free}}
            site.but("evaluate", Evaluation(site.site, number, counts), number=number)
    answering(*sites, counts=lambda task: GOOD)
    error = stopped(Code.GUARD_FELL, watched, ScriptedGrid(*sites), tmp_path / "run", federation)
    assert "held-out from 0.90 to 0.30" in error.found


@pytest.mark.parametrize("fallen", [0, 3])
def test_held_out_counts_are_compared_over_the_sites_that_answered_both_times(
    config: RunConfig, federation: Federation, tmp_path: Path, fallen: int
) -> None:
    """Of sites whose patients are unlike the median is another one while one of them is away."""
    every = {"evaluation": config.evaluation.model_copy(update={"every": 2})}
    watched = guarded(config).model_copy(update=every)
    north, south, west = sites = nodes()
    for site, right in ((north, 10), (south, 9), (west, 4)):
        for number in (0, 2, 4):
            free = right - (fallen if number == 4 else 0)
            counts = {"age": {"asked": 10, "free": free, "forced": free}}
            site.but("evaluate", Evaluation(site.site, number, counts), number=number)
    north.but("evaluate", Refusal("north", int(Code.MODEL_MISSING)), number=4)
    answering(*sites, counts=lambda task: GOOD)
    if fallen:
        error = stopped(Code.GUARD_FELL, watched, ScriptedGrid(*sites), tmp_path / "run", federation)
        assert "held-out from 0.65 to 0.35" in error.found
        found = read_rows(tmp_path / "run")
        assert found.looks[-1].undone == {"north": (2, 0), "south": (2, 1), "west": (2, 1)}
        assert {row.round for row in found.evaluations} == {0, 2}
    else:
        run(watched, ScriptedGrid(*sites), tmp_path / "run", federation)
        assert [look.agreed["held-out"] for look in read_rows(tmp_path / "run").looks] == [0.9, 0.9, 0.65]


@pytest.mark.parametrize("private", [False, True])
def test_a_private_round_that_was_taken_back_is_the_next_attempt(
    config: RunConfig, federation: Federation, tmp_path: Path, private: bool
) -> None:
    """A site computes an attempt at a private round once; one without privacy has the same bits whenever it is made."""
    watched = guarded(config)
    if private:
        watched = RunConfig.model_validate({**watched.model_dump(), "privacy": {**PRIVACY, "answer_every": 0.0}})
    for _ in range(2):
        sites = nodes()
        answering(*sites, counts=lambda task: FELL if task.round == 4 else GOOD)
        stopped(Code.GUARD_FELL, watched, ScriptedGrid(*sites), tmp_path / "run", federation)
    last = nodes()
    answering(*last, counts=lambda task: GOOD)
    run(watched, ScriptedGrid(*last), tmp_path / "run", federation)
    asked = [(task.round, task.attempt) for task in last[0].tasks if task.adapter is not None and not task.public]
    assert asked == [(3, 2 if private else 0), (4, 2 if private else 0), (4, 2 if private else 0)]
