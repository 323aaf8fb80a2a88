"""No session is answered twice: not after a crash, not from a restored disk, not by a second process."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from common.errors import Code
from common.secagg.keys import Secrets
from common.secagg.messages import Directory, Opening
from tests.common.secagg.cohort import Cohort, Memory, refused

A = "site-000"


@pytest.mark.parametrize("exchanges", [1, 2, 3, 4, 5])
def test_a_site_that_was_killed_is_silent_for_the_rest_of_the_session(exchanges: int) -> None:
    cohort = Cohort(5).until(exchanges)
    made = len(cohort.shares)
    reborn = cohort.site(A)
    refused(Code.SECAGG_REPLAYED, lambda: reborn.take(Opening(cohort.session.id)))
    for message in [] if exchanges == 5 else cohort.server.proceed().values():
        refused(Code.SECAGG_TURN, lambda message=message: reborn.take(message))
    assert len(cohort.shares) == made


def test_the_others_finish_without_the_one_that_was_killed() -> None:
    for exchanges in (1, 2, 3, 4):
        cohort = Cohort(5).until(exchanges)
        while exchanges < 5:
            cohort.exchange([A])
            exchanges += 1
        assert np.array_equal(cohort.server.total(), cohort.expected())


def test_the_journal_is_written_before_a_message_leaves() -> None:
    """A disk that fails lets nothing leave, and the session is over."""
    for exchanges in range(5):
        cohort = Cohort(5).until(exchanges)
        messages = cohort.server.proceed()

        def full(content: bytes) -> None:
            raise OSError(28, "no space")

        cohort.stores[A].write = full  # type: ignore[method-assign]
        with pytest.raises(OSError, match="no space"):
            cohort.sites[A].take(messages[A])
        assert cohort.sites[A].awaits is None
        assert A not in cohort.shares or exchanges > 2
        refused(Code.SECAGG_TURN, lambda cohort=cohort, messages=messages: cohort.sites[A].take(messages[A]))


def test_what_is_written_says_where_the_session_stands_and_holds_no_key() -> None:
    cohort = Cohort(5).until(1)
    secrets = cohort.sites[A]._secrets
    assert isinstance(secrets, Secrets)
    cohort.until(4)
    turns = [json.loads(content)["trial"]["turn"] for content in cohort.stores[A].written]
    assert turns == ["advertised", "shared", "masked", "masked", "consented", "revealed"]
    entry = cohort.stores[A].entries["trial"]
    assert entry["cohort"] == sorted(cohort.keys) and entry["threshold"] == 4
    assert len({store.entries["trial"]["agreed"] for store in cohort.stores.values()}) == 1  # type: ignore[arg-type]
    kept = b"".join(cohort.stores[A].written)
    for secret in (secrets.seed, secrets.mask.private_bytes_raw(), secrets.envelope.private_bytes_raw()):
        assert secret not in kept and secret.hex().encode() not in kept


def test_secrets_are_forgotten_when_the_session_is_over() -> None:
    cohort = Cohort(5).until(2)
    assert cohort.sites[A]._secrets is not None
    cohort.until(3)
    assert cohort.sites[A]._secrets is None and not cohort.sites[A]._held


@pytest.mark.parametrize(
    ("before", "after", "taken"),
    [
        ((1, 1), (1, 1), False),
        ((1, 2), (1, 1), False),
        ((2, 2), (2, 1), False),
        ((1, 1), (1, 2), True),
        ((1, 3), (2, 1), True),
    ],
)
def test_a_round_is_not_answered_once_more(before: tuple[int, int], after: tuple[int, int], taken: bool) -> None:
    cohort = Cohort(5, round=before[0], attempt=before[1])
    cohort.run()
    again = Cohort(5, stores=cohort.stores, round=after[0], attempt=after[1])
    if taken:
        assert np.array_equal(again.run(), again.expected())
    else:
        refused(Code.SECAGG_REPLAYED, again.exchange)


def test_rounds_that_are_taken_back_are_answered_once_more_as_their_next_attempts_alone() -> None:
    """A guard takes back as many rounds as it lets pass between two looks."""
    stores = Cohort(5).stores
    for number in (6, 7, 8, 9, 10):
        Cohort(5, round=number, attempt=0, stores=stores).run()
    for number in (6, 7, 10):
        refused(Code.SECAGG_REPLAYED, Cohort(5, round=number, attempt=0, stores=stores).exchange)
    for number in (6, 7, 8):
        again = Cohort(5, round=number, attempt=1, stores=stores)
        assert np.array_equal(again.run(), again.expected())
        refused(Code.SECAGG_REPLAYED, Cohort(5, round=number, attempt=1, stores=stores).exchange)
    refused(Code.SECAGG_REPLAYED, Cohort(5, round=9, attempt=0, stores=stores).exchange)


def test_a_journal_of_a_version_before_lets_its_round_go_on_and_no_earlier_one_come_again() -> None:
    cohort = Cohort(5, round=4, attempt=2)
    cohort.run()
    for store in cohort.stores.values():
        entries = json.loads(store.content or b"")
        del entries["trial"]["rounds"]
        store.content = json.dumps(entries).encode()
    for number, attempt in ((3, 9), (4, 2), (4, 1)):
        refused(Code.SECAGG_REPLAYED, Cohort(5, round=number, attempt=attempt, stores=cohort.stores).exchange)
    Cohort(5, round=4, attempt=3, stores=cohort.stores).run()
    Cohort(5, round=5, attempt=1, stores=cohort.stores).run()


def test_zeros_may_come_again_for_their_refusal_would_tell_what_they_are() -> None:
    first = Cohort(6, attempt=1)
    first.vectors[A] = np.zeros_like(first.vectors[A])
    first.until(3)
    again = Cohort(6, attempt=2, stores=first.stores)
    again.vectors[A] = first.vectors[A]
    assert np.array_equal(again.run(), again.expected())


def test_the_same_round_and_attempt_at_another_model_is_a_replay_too() -> None:
    cohort = Cohort(5)
    cohort.run()
    refused(Code.SECAGG_REPLAYED, Cohort(5, stores=cohort.stores, model_sha256="d" * 64).exchange)


def test_runs_do_not_disturb_each_other() -> None:
    cohort = Cohort(5, run="first", round=9)
    cohort.run()
    Cohort(5, stores=cohort.stores, run="second").run()
    assert set(cohort.stores[A].entries) == {"first", "second"}
    refused(Code.SECAGG_REPLAYED, Cohort(5, stores=cohort.stores, run="first", round=9).exchange)


def test_no_sum_is_masked_in_two_attempts() -> None:
    """With overlapping cohorts the two sums would subtract to what one site added."""
    first = Cohort(6, attempt=1).until(3)
    again = Cohort(6, attempt=2, stores=first.stores)
    again.vectors[A] = first.vectors[A]
    again.exchange(["site-005"])
    again.exchange()
    refused(Code.SECAGG_REPLAYED, again.exchange)
    assert again.sites[A].awaits is None


def test_an_attempt_with_an_overlapping_cohort_has_nothing_of_the_one_before() -> None:
    first = Cohort(6, attempt=1).until(3)
    again = Cohort(6, attempt=2, stores=first.stores)
    again.exchange(["site-005"])
    again.until(4)
    assert np.array_equal(again.server.total(), again.expected())
    assert len(again.stores[A].entries["trial"]["inputs"]) == 2  # type: ignore[arg-type]
    keys = [{one.mask_key for one in cohort.server._cohort.values()} for cohort in (first, again)]
    assert not keys[0] & keys[1]


def test_hashes_of_sums_are_kept_for_one_round() -> None:
    cohort = Cohort(5)
    cohort.run()
    again = Cohort(5, round=2, stores=cohort.stores)
    again.vectors = cohort.vectors
    assert np.array_equal(again.run(), again.expected())
    assert len(again.stores[A].entries["trial"]["inputs"]) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("exchanges", [1, 2, 3, 4])
def test_a_journal_that_was_put_back_ends_the_session(exchanges: int) -> None:
    cohort = Cohort(5).until(exchanges)
    store = cohort.stores[A]
    store.content = store.written[-2] if exchanges > 1 else None
    messages = cohort.server.proceed()
    refused(Code.SECAGG_REPLAYED, lambda: cohort.sites[A].take(messages[A]))
    assert cohort.sites[A].awaits is None


def test_a_site_restored_from_before_the_session_cannot_take_its_old_place() -> None:
    """It makes other keys, and no peer takes a second directory: nothing is ever masked twice by one mask."""
    cohort = Cohort(5).until(3)
    restored = cohort.site(A, store=Memory())
    fresh: Any = restored.take(Opening(cohort.session.id))
    old = cohort.server._cohort
    assert {fresh.mask_key, fresh.envelope_key, fresh.seed}.isdisjoint(
        {old[A].mask_key, old[A].envelope_key, old[A].seed}
    )
    told = Directory(cohort.session.id, tuple((old | {A: fresh}).values()))
    for name in cohort.keys.keys() - {A}:
        refused(Code.SECAGG_TURN, lambda name=name: cohort.sites[name].take(told))
    refused(Code.SECAGG_KEYS, lambda: restored.take(Directory(cohort.session.id, tuple(old.values()))))


def test_two_processes_with_one_journal_answer_once() -> None:
    cohort = Cohort(5)
    twin = cohort.site(A)
    cohort.until(1)
    refused(Code.SECAGG_REPLAYED, lambda: twin.take(Opening(cohort.session.id)))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"trial": {}}', b'{"trial": {"session": "x", "round": "two"}}']
)
def test_a_journal_that_cannot_be_read_is_not_taken_for_none(content: bytes) -> None:
    cohort = Cohort(5)
    cohort.stores[A].content = content
    refused(Code.SECAGG_REPLAYED, cohort.exchange)
    assert cohort.stores[A].content == content
