"""Poisson sampling: exact probabilities, independent coins, nobody can repeat a batch."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.privacy.keystream import Keystream, Words
from client.privacy.sampling import coins, poisson_sample
from common.errors import Code, FedReasonError
from tests.checked import mutated, passing
from tests.privacy_checks.sampling import CHECKS

MUTATIONS = mutated(CHECKS)


class Written(Keystream):
    """A keystream whose words are known."""

    def __init__(self, words: list[int]) -> None:
        super().__init__()
        self.left = words

    def words(self, count: int) -> Words:
        taken, self.left = self.left[:count], self.left[count:]
        return np.array(taken, dtype=np.uint64)


@pytest.mark.parametrize("passes", passing(CHECKS))
def test_the_check_passes(passes: Callable[[], bool]) -> None:
    assert passes()


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_check_catches_the_mutation(mutation: Callable[[], bool]) -> None:
    assert not mutation()


@given(st.fractions(0, 1), st.integers(0, 2**192 - 1))
def test_a_coin_is_a_uniform_number_below_the_rate(rate: Fraction, bits: int) -> None:
    words = [bits >> 128, (bits >> 64) % 2**64, bits % 2**64]
    assert bool(coins(1, rate, Written([*words, 0]))[0]) == (Fraction(bits, 2**192) < rate)


@given(st.floats(0, 1))
def test_a_float_rate_is_compared_exactly(rate: float) -> None:
    exact = Fraction(rate)
    last = int(exact * 2**1088)
    below, at = (
        [(n >> 64 * i) % 2**64 for i in reversed(range(17))] for n in (max(last - 1, 0), min(last, 2**1088 - 1))
    )
    assert coins(1, rate, Written(below))[0] == (rate > 0)
    assert coins(1, rate, Written(at))[0] == (rate == 1)


def test_a_word_is_drawn_again_only_where_it_ties() -> None:
    third = 2**64 // 3
    keystream = Written([0, third, third + 1, third, third - 1, third, 5, 7])
    assert coins(4, Fraction(1, 3), keystream).tolist() == [True, True, False, True]
    assert keystream.left == [7]


def test_rate_one_takes_everyone_and_rate_zero_nobody() -> None:
    assert poisson_sample("abc", 1) == poisson_sample("abc", 1.0) == ["a", "b", "c"]
    assert poisson_sample("abc", 0) == poisson_sample([], 0.5) == []


def test_batches_may_be_empty() -> None:
    sizes = {len(poisson_sample(range(3), 0.3)) for _ in range(500)}
    assert sizes == {0, 1, 2, 3}


def test_the_patients_keep_their_order_and_a_passed_key_repeats_a_draw() -> None:
    patients = [f"patient {i}" for i in range(1000)]
    batch = poisson_sample(patients, 0.5, bytes(32))
    assert batch == [patient for patient in patients if patient in set(batch)]
    assert batch == poisson_sample(patients, 0.5, bytes(32)) != poisson_sample(patients, 0.5)


def test_one_patient_more_tosses_no_other_coin_anew() -> None:
    some, more = (poisson_sample(range(count), 0.5, bytes(32)) for count in (100, 101))
    assert [patient for patient in more if patient < 100] == some


@pytest.mark.parametrize("rate", [-0.1, 1.0000001, float("nan"), float("inf")])
def test_a_rate_that_is_no_probability_is_refused(rate: float) -> None:
    with pytest.raises(FedReasonError) as refusal:
        poisson_sample([1], rate)
    assert refusal.value.code == Code.DP_REFUSED
