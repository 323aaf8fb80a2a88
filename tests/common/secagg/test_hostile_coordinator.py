"""What a coordinator that bends the protocol gets: a named refusal, and no site's own sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from scipy import stats

from common.arrays import Integers
from common.errors import Code, FedReasonError
from common.identity.keys import new_signing_key
from common.secagg import masks
from common.secagg.keys import agreed, pair_mask
from common.secagg.messages import Advertisement, Boxes, Consents, Directory, Inbox, Masked, Revealed, Survivors
from common.secagg.statement import sign_advertisement
from common.secagg.terms import Limits, Noise, Terms, threshold
from tests.common.secagg.cohort import TERMS, Cohort, refused
from tests.privacy_checks import FALSE_ALARM

A, B, C, D, E = (f"site-{number:03}" for number in range(5))
PRIVATE = replace(TERMS, noise=Noise(11_000, 1, 1))


def public() -> bytes:
    return X25519PrivateKey.generate().public_key().public_bytes_raw()


def directory(cohort: Cohort, *, without: str = "", **changes: Advertisement) -> Directory:
    """Return the directory of a cohort that advertised, with some keys exchanged."""
    message: Any = cohort.server.proceed()[A]
    told = {one.site: one for one in message.advertisements} | changes
    return Directory(message.session, tuple(one for name, one in told.items() if name != without))


def advertised(cohort: Cohort, name: str) -> Advertisement:
    (one,) = (one for one in cohort.exchange().values() if one.site == name)
    assert isinstance(one, Advertisement)
    return one


def survivors(cohort: Cohort, *names: str) -> Survivors:
    return Survivors(cohort.session.id, {name: cohort.server._inputs[name] for name in names})


@pytest.mark.parametrize("part", ["mask_key", "envelope_key", "seed"])
def test_a_key_that_the_coordinator_exchanged_is_refused_and_its_site_named(part: str) -> None:
    cohort = Cohort(5)
    forged = replace(advertised(cohort, B), **{part: public()})
    refusal = refused(Code.SECAGG_KEYS, lambda: cohort.sites[A].take(directory(cohort, **{B: forged})))
    assert B in refusal.found
    assert cohort.sites[A].awaits is None


def test_keys_that_another_key_signed_are_refused() -> None:
    cohort = Cohort(5).until(1)
    forged = sign_advertisement(cohort.session.id, B, public(), public(), bytes(32), new_signing_key())
    refused(Code.SECAGG_KEYS, lambda: cohort.sites[A].take(directory(cohort, **{B: forged})))


@pytest.mark.parametrize("relabelled", [False, True])
def test_keys_that_a_site_signed_for_another_session_are_refused(relabelled: bool) -> None:
    """So too those of one site that was shown another model: its session is another."""
    cohort, other = Cohort(5).until(1), Cohort(5, model_sha256="c" * 64)
    old = advertised(other, B)
    replayed = replace(old, session=cohort.session.id) if relabelled else old
    assert B in refused(Code.SECAGG_KEYS, lambda: cohort.sites[A].take(directory(cohort, **{B: replayed}))).found


@pytest.mark.parametrize("part", ["mask_key", "envelope_key"])
def test_a_point_of_small_order_is_no_key_though_its_site_signed_it(part: str) -> None:
    cohort = Cohort(5).until(1)
    keys = {"mask_key": public(), "envelope_key": public(), part: bytes(32)}
    forged = sign_advertisement(cohort.session.id, B, **keys, seed=bytes(32), key=cohort.keys[B])
    refused(Code.SECAGG_KEYS, lambda: cohort.sites[A].take(directory(cohort, **{B: forged})))


def test_a_peers_key_in_another_spelling_is_no_key_though_it_is_the_same_point() -> None:
    """The top bit does not count (RFC 7748, section 5): with it set, a copied key would pass for another one."""
    cohort = Cohort(5)
    theirs = advertised(cohort, C)
    spelled = theirs.mask_key[:-1] + bytes([theirs.mask_key[-1] | 0x80])
    own = X25519PrivateKey.generate()
    assert spelled != theirs.mask_key and agreed(own, spelled) == agreed(own, theirs.mask_key)
    copied = sign_advertisement(cohort.session.id, B, spelled, public(), bytes(32), cohort.keys[B])
    refusal = refused(Code.SECAGG_KEYS, lambda: cohort.sites[A].take(directory(cohort, **{B: copied})))
    assert B in refusal.found


def test_a_site_named_twice_a_key_used_twice_and_a_directory_without_oneself_are_refused() -> None:
    for case in ("twice", "copied", "without"):
        cohort = Cohort(5)
        mine = advertised(cohort, C)
        copied = sign_advertisement(cohort.session.id, B, mine.mask_key, public(), bytes(32), cohort.keys[B])
        message = directory(cohort, without=A if case == "without" else "", **({B: copied} if case == "copied" else {}))
        if case == "twice":
            message = replace(message, advertisements=(*message.advertisements, mine))
        refused(Code.SECAGG_KEYS, lambda cohort=cohort, message=message: cohort.sites[A].take(message))


@pytest.mark.parametrize(
    ("limits", "count"), [(Limits(cohort=6), 5), (Limits(cohort=3, threshold=5), 5), (Limits(most=6), 7)]
)
def test_a_cohort_beyond_the_limits_of_the_site_is_refused(limits: Limits, count: int) -> None:
    cohort = Cohort(count, limits=limits).until(1)
    refused(Code.SECAGG_COHORT, lambda: cohort.sites[A].take(directory(cohort)))
    assert not cohort.shares


def test_two_sites_are_no_cohort_whatever_the_limits() -> None:
    cohort = Cohort(3, limits=Limits(cohort=1)).until(1)
    refused(Code.SECAGG_COHORT, lambda: cohort.sites[A].take(directory(cohort, without=C)))


@pytest.mark.parametrize("colluders", [0, 3])
def test_noise_that_allows_for_no_colluder_or_for_more_than_the_threshold_withstands_is_refused(colluders: int) -> None:
    cohort = Cohort(5, terms=replace(TERMS, noise=Noise(11_000, colluders, 1))).until(1)
    refused(Code.SECAGG_COHORT, lambda: cohort.sites[A].take(directory(cohort)))


def test_so_many_sums_of_a_round_are_masked_and_attempts_that_came_to_none_do_not_count() -> None:
    """A coordinator that was restarted again and again while the sites were awaited has used nothing up."""
    stores = Cohort(5).stores
    for attempt in range(1, 9):
        Cohort(5, attempt=attempt, stores=stores).until(2)
    for attempt in (9, 10, 11):
        Cohort(5, attempt=attempt, stores=stores).until(3)
    left = stores[A].content
    refused(Code.SECAGG_COHORT, Cohort(5, attempt=12, stores=stores).exchange)
    assert stores[A].content == left
    Cohort(5, round=2, stores=stores).run()
    refused(Code.SECAGG_COHORT, Cohort(5, attempt=13, stores=stores).exchange)


def test_a_sum_that_was_begun_counts_though_nothing_of_it_was_masked() -> None:
    """It was computed, and what refused it, its range or that it was masked before, comes after that."""
    stores = Cohort(5).stores

    def fails(share: int | None) -> Integers:
        raise FedReasonError(Code.LATTICE_RANGE, "It left its range.", "Look at the run.")

    for attempt in (1, 2, 3):
        cohort = Cohort(5, attempt=attempt, stores=stores)
        cohort.sites[A] = cohort.site(A, contribute=fails)
        messages = cohort.until(2).server.proceed()
        refused(Code.LATTICE_RANGE, lambda cohort=cohort, messages=messages: cohort.sites[A].take(messages[A]))
    refused(Code.SECAGG_COHORT, Cohort(5, attempt=4, stores=stores).exchange)


def test_a_lowered_threshold_unmasks_nothing() -> None:
    """A coordinator that goes on with two of five gets neither their consent nor a share."""
    cohort = Cohort(5).until(2)
    cohort.exchange([C, D, E])
    refused(Code.SECAGG_SURVIVORS, lambda: cohort.sites[A].take(survivors(cohort, A, B)))
    cohort = Cohort(5).until(3)
    messages = cohort.server.proceed()
    signed = {name: cohort.sites[name].take(messages[name]).signature for name in (A, B)}  # type: ignore[union-attr]
    told = refused(Code.SECAGG_SURVIVORS, lambda: cohort.sites[A].take(Consents(cohort.session.id, signed)))
    assert "2 sites signed" in told.found and "takes 4" in told.found


@pytest.mark.parametrize("case", ["fewer than t", "without its own", "a stranger's"])
def test_shares_of_fewer_or_others_than_those_who_advertised_are_no_inbox(case: str) -> None:
    cohort = Cohort(5).until(2)
    message: Any = cohort.server.proceed()[A]
    boxes = dict(message.boxes)
    changed = {
        "fewer than t": {name: boxes[name] for name in (A, B, C)},
        "without its own": {name: boxes[name] for name in (B, C, D, E)},
        "a stranger's": boxes | {"site-999": boxes[B]},
    }
    refused(Code.SECAGG_SURVIVORS, lambda: cohort.sites[A].take(Inbox(message.session, changed[case])))
    assert not cohort.shares, "the sum was not made"


def consent(cohort: Cohort, seen: Mapping[str, Survivors]) -> dict[str, str]:
    """Return every site's signature on what it was shown."""
    return {name: cohort.sites[name].take(message).signature for name, message in seen.items()}  # type: ignore[union-attr]


def test_split_survivor_sets_are_unmasked_by_nobody() -> None:
    """Half the sites are told that one was lost, so that some reveal its seed and others its key."""
    cohort = Cohort(9).until(3)
    names = list(cohort.keys)
    whole, part = survivors(cohort, *names), survivors(cohort, *names[:-1])
    signed = consent(cohort, {name: part if number < 4 else whole for number, name in enumerate(names)})
    for name in names:
        told = Consents(cohort.session.id, signed)
        refused(Code.SECAGG_SURVIVORS, lambda name=name, told=told: cohort.sites[name].take(told))


def test_a_second_survivor_set_is_not_signed() -> None:
    cohort = Cohort(9).until(3)
    names = list(cohort.keys)
    cohort.sites[A].take(survivors(cohort, *names))
    refused(Code.SECAGG_TURN, lambda: cohort.sites[A].take(survivors(cohort, *names[:-1])))


def test_no_site_reveals_of_one_node_that_it_is_active_and_dead() -> None:
    cohort = Cohort(9)
    for number in range(1, 5):
        cohort.exchange([B] if number == 3 else ())
    for name, message in cohort.server.proceed().items():
        revealed = cohort.sites[name].take(message)
        assert isinstance(revealed, Revealed) and set(revealed.shares) == set(cohort.keys)
        refused(Code.SECAGG_TURN, lambda name=name, message=message: cohort.sites[name].take(message))
        cohort.server.take(revealed)
    assert np.array_equal(cohort.server.total(), cohort.expected())


def test_a_second_masked_sum_is_neither_made_nor_sent() -> None:
    cohort = Cohort(5).until(2)
    made = []
    inner = cohort.sites[A]._contribute
    cohort.sites[A]._contribute = lambda share: made.append(share) or inner(share)  # type: ignore[func-returns-value]
    message = cohort.server.proceed()[A]
    cohort.sites[A].take(message)
    refused(Code.SECAGG_TURN, lambda: cohort.sites[A].take(message))
    assert len(made) == 1


def test_a_site_with_another_view_of_who_shared_agrees_with_nobody() -> None:
    """Told that more or fewer shared, a site scales its noise otherwise; then its signature counts for nobody."""
    cohort = Cohort(10, terms=PRIVATE)
    cohort.until(2)
    messages: dict[str, Any] = dict(cohort.server.proceed())
    fewer = {name: boxes for name, boxes in messages[A].boxes.items() if name != "site-009"}
    messages[A] = replace(messages[A], boxes=fewer)
    cohort.deliver(messages)
    assert len(set(cohort.shares.values())) == 2
    shown = survivors(cohort, *list(cohort.keys)[:-1])
    told = Consents(cohort.session.id, consent(cohort, dict.fromkeys(shown.inputs, shown)))
    assert "8 sites signed" in refused(Code.SECAGG_SURVIVORS, lambda: cohort.sites[B].take(told)).found
    assert "1 sites signed" in refused(Code.SECAGG_SURVIVORS, lambda: cohort.sites[A].take(told)).found


@pytest.mark.parametrize("noise", [Noise(9_000, 1, 1), Noise(11_000, 2, 1), Noise(11_000, 1, 2), None])
def test_a_site_with_another_view_of_the_noise_agrees_with_nobody(noise: Noise | None) -> None:
    cohort = Cohort(10, terms=PRIVATE)
    cohort.sites[A] = cohort.site(A, terms=replace(TERMS, noise=noise))
    cohort.until(3)
    seen: Any = cohort.server.proceed()
    signed = consent(cohort, seen)
    refusal = refused(Code.SECAGG_SURVIVORS, lambda: cohort.sites[A].take(Consents(cohort.session.id, signed)))
    assert "1 sites signed" in refusal.found
    cohort.sites[B].take(Consents(cohort.session.id, signed))


def test_with_shared_noise_k_less_d_must_sign_and_not_only_t() -> None:
    """Seven of ten would do for the threshold; the noise of three who saw something else would be missing."""
    cohort = Cohort(10, terms=PRIVATE).until(3)
    seen: Any = cohort.server.proceed()
    signed = consent(cohort, seen)
    eight = dict(list(signed.items())[:8])
    assert len(eight) > threshold(10)
    refused(Code.SECAGG_SURVIVORS, lambda: cohort.sites[A].take(Consents(cohort.session.id, eight)))
    cohort.sites[B].take(Consents(cohort.session.id, dict(list(signed.items())[:9])))


def test_without_noise_too_a_site_with_another_view_of_who_shared_counts_no_other() -> None:
    cohort = Cohort(10).until(2)
    messages: dict[str, Any] = dict(cohort.server.proceed())
    fewer = {name: boxes for name, boxes in messages[A].boxes.items() if name != "site-009"}
    messages[A] = replace(messages[A], boxes=fewer)
    cohort.deliver(messages)
    shown = survivors(cohort, *list(cohort.keys)[:-1])
    told = Consents(cohort.session.id, consent(cohort, dict.fromkeys(shown.inputs, shown)))
    assert "1 sites signed" in refused(Code.SECAGG_SURVIVORS, lambda: cohort.sites[A].take(told)).found


def test_a_lost_site_that_signs_all_the_same_counts_for_nothing() -> None:
    cohort = Cohort(5).until(2)
    cohort.exchange([E])
    seen: Any = cohort.server.proceed()
    signed = consent(cohort, seen)
    del signed[D]
    signed[E] = cohort.server._statement.signed(cohort.keys[E])
    refused(Code.SECAGG_SURVIVORS, lambda: cohort.sites[A].take(Consents(cohort.session.id, signed)))


@pytest.mark.parametrize("case", ["another's", "of a stranger", "of the lost"])
def test_a_signature_counts_for_its_signer_and_once(case: str) -> None:
    cohort = Cohort(5).until(2)
    cohort.exchange([E])
    seen: Any = cohort.server.proceed()
    signed = consent(cohort, seen)
    del signed[D]
    signed[{"another's": D, "of a stranger": "site-999", "of the lost": E}[case]] = signed[C]
    refused(Code.SECAGG_SURVIVORS, lambda: cohort.sites[A].take(Consents(cohort.session.id, signed)))


@pytest.mark.parametrize("case", ["without it", "another hash", "a stranger"])
def test_a_survivor_set_must_hold_the_sites_own_sum_and_only_those_who_shared(case: str) -> None:
    cohort = Cohort(9)
    cohort.exchange()
    cohort.exchange(["site-008"])
    cohort.exchange()
    inputs = dict(cohort.server._inputs)
    changes: dict[str, dict[str, bytes]] = {"another hash": {A: bytes(32)}, "a stranger": {"site-008": bytes(32)}}
    inputs |= changes.get(case, {})
    if case == "without it":
        del inputs[A]
    refused(Code.SECAGG_SURVIVORS, lambda: cohort.sites[A].take(Survivors(cohort.session.id, inputs)))


def swapped(boxes: dict[str, Boxes], case: str) -> dict[str, Boxes]:
    mine = boxes[B]
    changed = {
        "the sender": boxes[C],
        "the kind": Boxes(seed=mine.key, key=mine.seed),
        "one share of two": Boxes(seed=mine.seed, key=boxes[C].key),
        "the commitment": replace(mine, seed=replace(mine.seed, commitment=bytes(32))),
    }
    return boxes | {B: changed[case]}


@pytest.mark.parametrize("case", ["the sender", "the kind", "one share of two", "the commitment"])
def test_shares_in_another_order_are_refused_and_their_sender_named(case: str) -> None:
    cohort = Cohort(5).until(2)
    message: Any = cohort.server.proceed()[A]
    refusal = refused(
        Code.SECAGG_SHARE, lambda: cohort.sites[A].take(replace(message, boxes=swapped(message.boxes, case)))
    )
    assert B in refusal.found and not cohort.shares


def test_shares_for_another_holder_are_refused() -> None:
    cohort = Cohort(5).until(2)
    messages: Any = cohort.server.proceed()
    mixed = replace(messages[A], boxes=messages[A].boxes | {B: messages[C].boxes[B]})
    assert B in refused(Code.SECAGG_SHARE, lambda: cohort.sites[A].take(mixed)).found


def test_a_site_that_is_reported_lost_after_it_sent_is_not_unmasked() -> None:
    """With everything that all others reveal, its sum stays under its own mask: no share of its seed is among it."""
    size = 1 << 16
    cohort = Cohort(9, terms=Terms(size=size, bits=32))
    cohort.until(2)
    messages = cohort.server.proceed()
    victim = cohort.sites[A].take(messages[A])
    assert isinstance(victim, Masked)
    cohort.deliver(messages, lost=[A])
    cohort.exchange()
    revealed: Any = cohort.exchange().values()
    dealt: Any = cohort.server._boxes[A]
    assert all(one.shares[A] for one in revealed) and len(dealt) == 9
    key = X25519PrivateKey.from_private_bytes(cohort.server._secret(A))
    words = victim.words.copy()
    others = [peer for peer in cohort.keys if peer != A]
    told = cohort.server._cohort
    pairs = [pair_mask(key, told[peer].mask_key, cohort.session.id, site=A, peer=peer) for peer in others]
    masks.apply([mask._replace(add=not mask.add) for mask in pairs], words)
    assert stats.chisquare(np.bincount(words.view(np.uint8), minlength=256)).pvalue > FALSE_ALARM
    assert np.abs(masks.integers(words)).max() > 2**21
    assert np.array_equal(cohort.server.total(), cohort.expected())


def test_a_late_upload_changes_nothing_once_the_survivors_are_fixed() -> None:
    cohort = Cohort(5).until(2)
    messages = cohort.server.proceed()
    late = cohort.sites[A].take(messages[A])
    cohort.deliver(messages, lost=[A])
    seen = cohort.server.proceed()
    refused(Code.SECAGG_TURN, lambda: cohort.server.take(late))
    cohort.deliver(seen)
    cohort.exchange()
    assert A not in cohort.server.survivors
    assert np.array_equal(cohort.server.total(), cohort.expected())
