"""The parts of the protocol against published vectors, and the laws that they obey."""

from __future__ import annotations

from contextlib import suppress
from itertools import combinations
from unittest.mock import patch

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from common.secagg import masks, shamir
from common.secagg.keys import Secrets, agreeable, agreed, derived, labelled, own_mask, pair_mask
from common.secagg.masks import Mask
from common.secagg.sealed import Kind, Place, commitment, seal, unseal
from tests.examples import examples
from tests.privacy_checks import FALSE_ALARM

SESSION, OTHER = b"s" * 32, b"t" * 32
SECRETS = st.binary(min_size=32, max_size=32)


def test_the_keystream_is_aes_256_in_counter_mode_from_zero() -> None:
    """AES-256 of the blocks 0 and 1 under the key of zeros."""
    vector = np.zeros(8, dtype=np.uint32)
    masks.apply([Mask(bytes(32), add=True)], vector)
    assert vector.tobytes().hex() == "dc95c078a2408989ad48a21492842087530f8afbc74536b9a963b4f1c4cb738b"


def test_two_keys_agree_as_rfc_7748_says() -> None:
    alice, bob, shared = map(
        bytes.fromhex,
        (
            "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
            "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
            "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742",
        ),
    )
    assert agreed(X25519PrivateKey.from_private_bytes(alice), bob) == shared


def test_a_key_is_derived_as_rfc_5869_says() -> None:
    """Its third test case: no salt, no information."""
    expected = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    assert derived(b"\x0b" * 22, b"", 42).hex() == expected


def test_points_of_small_order_are_no_keys() -> None:
    assert agreeable(X25519PrivateKey.generate().public_key().public_bytes_raw())
    for bad in (bytes(32), b"\x01" + bytes(31), bytes.fromhex("ecffff" + "ff" * 28 + "7f")):
        assert not agreeable(bad)


def test_a_polynomial_that_is_known_has_the_values_that_are_known() -> None:
    """42 + 3 x + 5 x^2."""
    with patch("common.secagg.shamir.secrets.randbelow", side_effect=[3, 5]):
        assert shamir.deal((42).to_bytes(32, "big"), 3, 4) == [50, 68, 96, 134]
    assert shamir.recover({1: 50, 3: 96, 4: 134}) == (42).to_bytes(32, "big")
    assert shamir.PRIME == 2**521 - 1


@examples(40)
@given(SECRETS, st.integers(1, 7), st.integers(0, 3))
def test_any_t_shares_give_the_secret(secret: bytes, threshold: int, more: int) -> None:
    dealt = dict(enumerate(shamir.deal(secret, threshold, threshold + more), start=1))
    for points in combinations(dealt, threshold):
        assert shamir.recover({point: dealt[point] for point in points}) == secret


@examples(40)
@given(SECRETS, SECRETS, st.integers(2, 7))
def test_fewer_than_t_shares_fit_every_secret(secret: bytes, other: bytes, threshold: int) -> None:
    """Whatever t - 1 holders have, the share of the last one makes it any secret."""
    dealt = dict(enumerate(shamir.deal(secret, threshold, threshold), start=1))
    weights = shamir._weights(tuple(dealt))
    missing = (int.from_bytes(other, "big") - int.from_bytes(secret, "big")) * pow(weights[threshold], -1, shamir.PRIME)
    dealt[threshold] = (dealt[threshold] + missing) % shamir.PRIME
    assert shamir.recover(dealt) == other


@given(SECRETS, st.integers(1, shamir.PRIME - 1))
def test_one_wrong_share_gives_another_secret_or_none(secret: bytes, error: int) -> None:
    dealt = dict(enumerate(shamir.deal(secret, 3, 3), start=1))
    dealt[2] = (dealt[2] + error) % shamir.PRIME
    with suppress(ValueError):
        assert shamir.recover(dealt) != secret


def test_no_two_deals_of_a_secret_share_a_number() -> None:
    first, second = (shamir.deal(bytes(32), 3, 5) for _ in range(2))
    assert not set(first) & set(second)


@examples(50)
@given(st.integers(0, 200_000), st.integers(1, 5), st.sampled_from([32, 64]))
def test_what_one_site_adds_its_peer_subtracts(size: int, threads: int, bits: masks.Bits) -> None:
    one, two = Secrets(), Secrets()
    keys = {"amc": one.mask.public_key().public_bytes_raw(), "umc": two.mask.public_key().public_bytes_raw()}
    pair = [
        pair_mask(one.mask, keys["umc"], SESSION, site="amc", peer="umc"),
        pair_mask(two.mask, keys["amc"], SESSION, site="umc", peer="amc"),
    ]
    assert pair[0].key == pair[1].key and pair[0].add != pair[1].add
    vector = np.zeros(size, dtype=masks.WORDS[bits])
    masks.apply(pair[:1], vector, threads=threads)
    assert size < 4 or vector.any()
    masks.apply(pair[1:], vector)
    assert not vector.any()


def test_keys_of_different_names_sessions_and_purposes_differ() -> None:
    secrets = Secrets()
    other = Secrets().mask.public_key().public_bytes_raw()
    found = {
        derived(b"x" * 32, labelled(purpose, session, *names))
        for purpose in ("a", "b")
        for session in (SESSION, OTHER)
        for names in (("ab", "c"), ("a", "bc"), ("c", "ab"), ("abc",))
    }
    found |= {own_mask(secrets.seed, session, site).key for session in (SESSION, OTHER) for site in ("a", "b")}
    found |= {
        pair_mask(secrets.mask, other, session, site="a", peer=peer).key
        for session in (SESSION, OTHER)
        for peer in ("b", "c")
    }
    assert len(found) == 16 + 4 + 4


PLACE = Place(SESSION, "amc", "umc", "seed")
ELSEWHERE = [
    PLACE._replace(session=OTHER),
    PLACE._replace(sender="lumc"),
    PLACE._replace(receiver="lumc"),
    PLACE._replace(sender="umc", receiver="amc"),
    PLACE._replace(kind="key"),
]


@given(st.integers(0, shamir.PRIME - 1), st.sampled_from(["seed", "key"]))
def test_a_box_opens_where_it_belongs(share: int, kind: Kind) -> None:
    place = PLACE._replace(kind=kind)
    assert unseal(seal(share, b"k" * 32, place), b"k" * 32, place) == share


@pytest.mark.parametrize("place", ELSEWHERE)
def test_a_box_opens_nowhere_else_and_has_another_commitment(place: Place) -> None:
    sealed = seal(7, b"k" * 32, PLACE)
    with pytest.raises(ValueError, match="open"):
        unseal(sealed, b"k" * 32, place)
    assert commitment(7, place) != commitment(7, PLACE)
    assert seal(7, b"k" * 32, place).box != sealed.box


def test_a_box_that_holds_another_share_than_its_sender_committed_to_is_refused() -> None:
    with patch("common.secagg.sealed.commitment", lambda share, place: commitment(share + 1, place)):
        crooked = seal(7, b"k" * 32, PLACE)
    with pytest.raises(ValueError, match="another share"):
        unseal(crooked, b"k" * 32, PLACE)


@given(st.integers(0, 8 * 82 - 1))
def test_a_box_with_one_bit_changed_does_not_open(bit: int) -> None:
    sealed = seal(7, b"k" * 32, PLACE)
    spoilt = (int.from_bytes(sealed.box, "big") ^ 1 << bit).to_bytes(82, "big")
    with pytest.raises(ValueError, match="open"):
        unseal(type(sealed)(spoilt, sealed.commitment), b"k" * 32, PLACE)
    with pytest.raises(ValueError, match="open"):
        unseal(type(sealed)(sealed.box, bytes(32)), b"k" * 32, PLACE)


def test_a_masked_vector_looks_uniform() -> None:
    vector = np.zeros(1 << 18, dtype=np.uint32)
    masks.apply([own_mask(Secrets().seed, SESSION, "amc")], vector)
    counts = np.bincount(vector.view(np.uint8), minlength=256)
    assert stats.chisquare(counts).pvalue > FALSE_ALARM
