"""What a site that bends the protocol does to the others: nothing, or a refusal that names it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from common.errors import Code
from common.identity.keys import new_signing_key, public_text
from common.identity.roster import Roster
from common.secagg import shamir
from common.secagg.messages import Opening, Revealed, Shares
from common.secagg.server import Server
from common.secagg.statement import sign_advertisement
from tests.common.secagg.cohort import TERMS, Cohort, refused

A, B = "site-000", "site-001"


def revealing(cohort: Cohort) -> dict[str, Revealed]:
    """Return what every site reveals."""
    cohort.until(4)
    messages = cohort.server.proceed()
    return {name: cohort.sites[name].take(message) for name, message in messages.items()}  # type: ignore[misc]


@pytest.mark.parametrize("case", ["one bit", "another's", "too large"])
def test_a_wrong_share_is_named_with_its_holder_and_the_others_suffice(case: str) -> None:
    cohort = Cohort(5)
    answers = revealing(cohort)
    share = int.from_bytes(answers[A].shares[B], "big")
    wrong = {"one bit": share ^ 1, "too large": share + shamir.PRIME}.get(case, share).to_bytes(66, "big")
    shares = answers[A].shares | {B: answers[A].shares[A] if case == "another's" else wrong}
    refusal = refused(Code.SECAGG_SHARE, lambda: cohort.server.take(replace(answers[A], shares=shares)))
    assert A in refusal.found
    for name in answers.keys() - {A}:
        cohort.server.take(answers[name])
    assert np.array_equal(cohort.server.total(), cohort.expected())


def test_too_many_wrong_shares_end_the_session() -> None:
    cohort = Cohort(5)
    answers = revealing(cohort)
    for name, answer in answers.items():
        if name in (A, B):
            spoilt = replace(answer, shares={dealer: bytes(66) for dealer in answer.shares})
            refused(Code.SECAGG_SHARE, lambda spoilt=spoilt: cohort.server.take(spoilt))
        else:
            cohort.server.take(answer)
    refused(Code.SECAGG_INCOMPLETE, cohort.server.total)


@pytest.mark.parametrize("lost", [False, True])
def test_shares_that_do_not_meet_are_named_with_their_dealer(lost: bool) -> None:
    """Each box and each commitment is right, but the shares lie on no polynomial of the degree."""
    cohort = Cohort(5).until(1)
    messages = cohort.server.proceed()
    deal = shamir.deal

    def crooked(secret: bytes, threshold: int, holders: int) -> list[int]:
        return [(share + 1) % shamir.PRIME for share in deal(secret, threshold, holders)]

    answers = {}
    for name, message in messages.items():
        with patch("common.secagg.shamir.deal", crooked if name == A else deal):
            answers[name] = cohort.sites[name].take(message)
    for answer in answers.values():
        cohort.server.take(answer)
    cohort.exchange([A] if lost else ())
    cohort.until(2)
    assert A in refused(Code.SECAGG_SHARE, cohort.server.total).found
    refused(Code.SECAGG_TURN, cohort.server.total)


def test_a_box_with_something_else_is_named_with_its_sender() -> None:
    cohort = Cohort(5).until(2)
    message: Any = cohort.server.proceed()[A]
    box = message.boxes[B]
    spoilt = replace(box, key=replace(box.key, box=bytes(82)))
    refusal = refused(
        Code.SECAGG_SHARE, lambda: cohort.sites[A].take(replace(message, boxes=message.boxes | {B: spoilt}))
    )
    assert B in refusal.found
    assert cohort.sites[A].awaits is None and not cohort.shares


@pytest.mark.parametrize("case", ["fewer", "a stranger"])
def test_shares_for_others_than_the_cohort_are_refused(case: str) -> None:
    cohort = Cohort(5).until(1)
    message: Any = cohort.sites[A].take(cohort.server.proceed()[A])
    boxes = dict(message.boxes)
    one = boxes.pop(B)
    if case == "a stranger":
        boxes["site-999"] = one
    assert A in refused(Code.SECAGG_SHARE, lambda: cohort.server.take(replace(message, boxes=boxes))).found


@pytest.mark.parametrize("case", ["fewer", "a stranger"])
def test_shares_of_others_than_those_who_dealt_are_refused(case: str) -> None:
    cohort = Cohort(5)
    answer = revealing(cohort)[A]
    shares = dict(answer.shares)
    one = shares.pop(B)
    if case == "a stranger":
        shares["site-999"] = one
    assert A in refused(Code.SECAGG_SHARE, lambda: cohort.server.take(replace(answer, shares=shares))).found


def test_a_signature_on_something_else_is_named_and_its_site_lost() -> None:
    cohort = Cohort(5).until(3)
    messages = cohort.server.proceed()
    other = Cohort(5).until(3)
    wrong: Any = other.deliver(other.server.proceed())[A]
    told = replace(wrong, session=cohort.session.id)
    assert A in refused(Code.SECAGG_SURVIVORS, lambda: cohort.server.take(told)).found
    cohort.deliver(messages, lost=[A])
    cohort.exchange()
    assert np.array_equal(cohort.server.total(), cohort.expected())


def forgeries(cohort: Cohort) -> Iterator[tuple[str, Any]]:
    """Yield keys that no coordinator takes of A, while B has advertised."""
    session, key = cohort.session.id, cohort.keys[A]
    fresh: Any = cohort.site(A).take(cohort.server.proceed()[A])
    theirs: Any = cohort.sites[B].take(Opening(session))
    cohort.server.take(theirs)
    yield "one bit", replace(fresh, seed=bytes(32))
    yield "other session", sign_advertisement(bytes(32), A, fresh.mask_key, fresh.envelope_key, fresh.seed, key)
    yield "small order", sign_advertisement(session, A, bytes(32), fresh.envelope_key, fresh.seed, key)
    yield "one key twice", sign_advertisement(session, A, fresh.mask_key, fresh.mask_key, fresh.seed, key)
    yield "copied", sign_advertisement(session, A, theirs.mask_key, fresh.envelope_key, fresh.seed, key)
    yield "revoked", sign_advertisement(session, A, fresh.mask_key, fresh.envelope_key, fresh.seed, new_signing_key())


@pytest.mark.parametrize("case", ["one bit", "other session", "small order", "one key twice", "copied", "revoked"])
def test_keys_that_are_not_a_sites_own_are_refused_by_the_coordinator_too(case: str) -> None:
    cohort = Cohort(5)
    told = dict(forgeries(cohort))[case]
    code = Code.SECAGG_TURN if case == "other session" else Code.SECAGG_KEYS
    assert A in refused(code, lambda: cohort.server.take(told)).found


def without(roster: Roster, site: str) -> Roster:
    """Return the next version, in which a site was revoked."""
    members = tuple(member for member in roster.members if member.site != site)
    return roster.model_copy(update={"version": roster.version + 1, "members": members})


def test_a_revoked_site_is_refused_by_every_site_though_the_coordinator_lets_it_in() -> None:
    cohort = Cohort(5)
    newer = without(cohort.roster, B)
    cohort.sites[A] = cohort.site(A, roster=newer)
    cohort.until(1)
    assert B in refused(Code.SECAGG_KEYS, cohort.exchange).found


def test_a_key_that_was_replaced_in_the_roster_signs_no_longer() -> None:
    cohort = Cohort(5)
    old: Any = cohort.roster.member(B)
    fresh = old.model_copy(update={"signing_key": public_text(new_signing_key())})
    members = tuple(fresh if member.site == B else member for member in cohort.roster.members)
    newer = cohort.roster.model_copy(update={"members": members})
    server = Server(session=cohort.session, terms=TERMS, roster=newer, invited=cohort.keys)
    messages = server.proceed()
    assert B in refused(Code.SECAGG_KEYS, lambda: server.take(cohort.sites[B].take(messages[B]))).found


def test_a_site_with_another_roster_model_configuration_or_privacy_section_has_another_session() -> None:
    for changed in ("roster_version", "roster_sha256", "model_sha256", "privacy_sha256", "run", "run_sha256", "round",
                    "attempt"):  # fmt: skip
        cohort = Cohort(5)
        value = 7 if changed in ("roster_version", "round", "attempt") else "c" * 64
        cohort.sites[A] = cohort.site(A, session=replace(cohort.session, **{changed: value}))
        refused(Code.SECAGG_TURN, cohort.exchange)
        assert cohort.stores[A].content is None


def test_a_duplicate_from_the_network_changes_nothing() -> None:
    cohort = Cohort(5)
    for _ in range(5):
        answers = cohort.exchange()
        for answer in answers.values():
            refused(Code.SECAGG_TURN, lambda answer=answer: cohort.server.take(answer))
    assert np.array_equal(cohort.server.total(), cohort.expected())


def test_a_site_answers_for_no_other() -> None:
    cohort = Cohort(5).until(1)
    message: Any = cohort.sites[A].take(cohort.server.proceed()[A])
    assert isinstance(message, Shares)
    stranger = replace(message, site="site-999")
    refused(Code.SECAGG_TURN, lambda: cohort.server.take(stranger))
