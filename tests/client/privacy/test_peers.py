"""Sites remember the heads of one another's ledgers, and tell what they saw; nobody can make them forget."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.node.inbox import Inbox
from client.privacy.peers import PEERS, hear_of_peers, heard_of_peers
from common.errors import Code, FedReasonError
from common.messages.frames import read_reply_frame, read_task_frame, reply_frame, task_frame
from common.messages.heads import MOST_SITES, Gathered, Head, read_heads, read_seen
from common.messages.kinds import Contribution, Layout, Task
from common.messages.parts import reply_of
from tests.privacy_checks.ledger import refused
from tests.privacy_checks.peers import CHECKS
from tests.small import small_config

ONE, TWO, OTHER = Head(1, "1" * 64), Head(2, "2" * 64), Head(2, "3" * 64)


@pytest.mark.federation
@pytest.mark.parametrize("passes", [check.passes for check in CHECKS], ids=[check.name for check in CHECKS])
def test_the_check_passes(passes: Callable[[], bool]) -> None:
    assert passes()


@pytest.mark.federation
@pytest.mark.parametrize("mutation", CHECKS[0].mutations.values(), ids=CHECKS[0].mutations.keys())
def test_the_check_fails_on_a_broken_federation(mutation: Callable[[], bool]) -> None:
    assert not mutation()


def test_heads_travel_with_tasks_and_replies(small_model: Path) -> None:
    task = Task(small_config(small_model), 1, 0, np.zeros(2, dtype=np.float32), ledgers={"amc": {"snubh": TWO}})
    assert read_task_frame(task_frame(task)).ledgers == {"amc": {"snubh": TWO}}
    for reply in (
        Layout("amc", 2, "0" * 64, {"amc": ONE}),
        Contribution("amc", 1, 0, np.zeros(2, dtype=np.int64), None, {"amc": ONE, "snubh": TWO}),
    ):
        assert read_reply_frame(reply_frame(reply)).ledgers == reply.ledgers  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "heads",
    [
        ["amc"],
        {"amc": 1},
        {"amc": [1]},
        {"amc": [-1, "1" * 64]},
        {"amc": ["1", "1" * 64]},
        {"amc": [1, "text that is no hash"]},
        {"": [1, "1" * 64]},
        {f"site{number}": [1, "1" * 64] for number in range(201)},
    ],
)
def test_heads_of_another_form_are_refused(heads: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_heads(heads)
    with pytest.raises(FedReasonError):
        reply_of({"kind": "layout", "site": "amc", "size": 2, "sha256": "0" * 64, "ledgers": heads}, {})


def test_each_head_of_a_ledger_is_passed_on_once_with_one_site_that_saw_it() -> None:
    gathered = Gathered()
    for site in ("berlin", "lyon", "oslo"):
        gathered.take(site, {"amc": TWO})
    gathered.take("snubh", {"amc": OTHER, "snubh": ONE})
    gathered.take("amc", {"amc": ONE})
    gathered.take("amc", {"amc": TWO})
    seen = gathered.seen()
    assert sorted(seen["amc"].values()) == [TWO, OTHER] and seen["amc"]["snubh"] == OTHER
    assert seen["amc"]["amc"] == TWO  # only from itself do the others believe it
    assert seen["snubh"] == {"snubh": ONE}


def test_a_site_that_makes_names_of_ledgers_up_takes_no_other_site_out_of_the_run() -> None:
    """With theirs a task would name more than any site reads."""
    gathered = Gathered({"amc", "lyon", "snubh"})
    for site in ("amc", "lyon"):
        gathered.take(site, {site: ONE})
    gathered.take("snubh", {f"made-up-{number}": TWO for number in range(MOST_SITES)} | {"amc": ONE})
    assert read_seen(gathered.seen()) == {"amc": {"amc": ONE}, "lyon": {"lyon": ONE}}


def test_a_site_keeps_what_others_tell_of_themselves_alone(tmp_path: Path) -> None:
    told = {"snubh": {"snubh": ONE, "lyon": TWO}, "amc": {"amc": TWO}, "lyon": {"snubh": TWO}}
    hear_of_peers(tmp_path, "amc", told, None)
    assert heard_of_peers(tmp_path) == {"snubh": ONE}
    assert (tmp_path / PEERS).stat().st_mode & 0o077 == 0


def test_a_ledger_that_became_shorter_is_told_and_not_believed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hear_of_peers(tmp_path, "amc", {"snubh": {"snubh": TWO}}, None)
    with caplog.at_level("WARNING"):
        hear_of_peers(tmp_path, "amc", {"snubh": {"snubh": ONE}}, None)
    assert "snubh shows a ledger of 1 lines, before 2" in caplog.text
    assert heard_of_peers(tmp_path) == {"snubh": TWO}


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"[" * 100_000, json.dumps({"snubh": [1]}).encode()])
def test_a_broken_memory_is_an_error_and_stays_as_it_is(tmp_path: Path, content: bytes) -> None:
    (tmp_path / PEERS).write_bytes(content)
    for read in (
        lambda: heard_of_peers(tmp_path),
        lambda: hear_of_peers(tmp_path, "amc", {"snubh": {"snubh": ONE}}, frozenset({"snubh"})),
    ):
        assert PEERS in refused(read, Code.LEDGER_DAMAGED)
    assert (tmp_path / PEERS).read_bytes() == content


def test_names_that_the_roster_lacks_are_told_and_not_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    told = {name: {name: ONE} for name in ("snubh", "invented", "made-up")}
    hear_of_peers(tmp_path, "amc", told, frozenset({"amc", "snubh"}))
    assert heard_of_peers(tmp_path) == {"snubh": ONE}
    assert "2 names" in caplog.text and "invented" not in caplog.text


@given(st.lists(st.sets(st.integers(0, 400), max_size=200), max_size=5), st.sets(st.integers(0, 400), max_size=120))
def test_whatever_is_told_the_memory_stays_readable_and_no_site_of_the_roster_is_forgotten(
    told: list[set[int]], members: set[int]
) -> None:
    roster = frozenset(f"site{number}" for number in members)
    with TemporaryDirectory() as folder:
        known: set[str] = set()
        for numbers in told:
            seen = {f"site{number}": {f"site{number}": ONE} for number in numbers}
            hear_of_peers(Path(folder), "amc", seen, roster)
            known |= seen.keys() & roster
            assert heard_of_peers(Path(folder)).keys() == known


def test_a_task_asked_again_with_newer_heads_is_the_same_task(small_model: Path, tmp_path: Path) -> None:
    inbox = Inbox(tmp_path)
    task = Task(small_config(small_model), 1, 0, np.zeros(2, dtype=np.float32))
    inbox.remember("train", task, Contribution("amc", 1, 0, np.zeros(2, dtype=np.int64), None, {"amc": ONE}))
    assert inbox.remembered("train", replace(task, ledgers={"amc": {"snubh": ONE}})) is not None
    assert inbox.remembered("train", replace(task, round=2)) is None
