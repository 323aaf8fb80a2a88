"""The discrete Gaussian: its table against mpmath, its samples against the table, its shares against the sum."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mp, mpf
from scipy import stats

from client.privacy.keystream import Keystream, Words
from client.privacy.noise import (
    LARGEST_SIGMA,
    discrete_gaussian,
    table_of,
    total_variation,
)
from common.errors import Code, FedReasonError
from common.secagg.terms import share_sigma, share_variance
from tests.checked import mutated, passing
from tests.privacy_checks.noise import CHECKS, SIGMA, check_variance, distance, fit, thresholds, weights_total

MUTATIONS = mutated(CHECKS)


@pytest.mark.parametrize("passes", passing(CHECKS))
def test_the_check_passes(passes: Callable[[], bool]) -> None:
    assert passes()


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_check_catches_the_mutation(mutation: Callable[[], bool]) -> None:
    assert not mutation()


def test_the_keystream_is_aes_256_in_counter_mode() -> None:
    zero_block = bytes.fromhex("dc95c078a2408989ad48a21492842087")
    assert Keystream(bytes(32)).words(2).tobytes() == zero_block


@pytest.mark.parametrize("sigma", [0.2, 1.0, 7.25, 1000.0])
def test_the_bound_on_total_variation_holds(sigma: float) -> None:
    assert distance(table_of(sigma), sigma) <= mpf(total_variation(sigma)) <= mpf(2) ** -100


@pytest.mark.parametrize("sigma", [1e-9, 0.5, 11_000, 48_000, Fraction(110_000, 3), LARGEST_SIGMA])
def test_no_sigma_is_further_than_2_to_the_minus_100_from_exact(sigma: float | Fraction) -> None:
    assert total_variation(sigma) <= 2.0**-100


def survival(a: int, sigma: int) -> mpf:
    """P(X >= a) by Euler and Maclaurin, without a sum over the integers."""
    x = mpf(a) / sigma
    height = mp.exp(-(x**2) / 2)
    terms = sigma * mp.sqrt(mp.pi / 2) * mp.erfc(x / mp.sqrt(2)) + height / 2
    for m in range(1, 9):
        order = 2 * m - 1
        hermite = mp.hermite(order, x / mp.sqrt(2)) / mp.sqrt(2) ** order
        derivative = (-1) ** order * hermite * height / mpf(sigma) ** order
        terms -= mp.bernoulli(2 * m) / mp.factorial(2 * m) * derivative
    return terms / weights_total(sigma)


@pytest.mark.parametrize("sigma", [11_000, 48_000])
def test_wide_tables_agree_with_euler_and_maclaurin(sigma: int) -> None:
    table = table_of(sigma)
    words, reach = thresholds(table), table.reach
    with mp.workdps(60):
        first, last = survival(-reach, sigma), survival(reach + 1, sigma)
        assert last + 1 - first < total_variation(sigma)
        for k in np.linspace(-reach, reach - 1, 41).astype(int).tolist():
            exact = (first - survival(k + 1, sigma)) / (first - last)
            assert abs(words[k + reach] - exact * mpf(2) ** 128) < 1


@pytest.mark.parametrize("sigma", [0.3, 3.7, 5000.0])
def test_thresholds_rise_and_are_symmetric(sigma: float) -> None:
    words = thresholds(table_of(sigma))
    assert all(a <= b for a, b in pairwise(words))
    assert all(a + b == 2**128 or a == 0 for a, b in zip(words, words[::-1], strict=True) if a < b)
    assert words[-1] >> 64 == 2**64 - 1


def drawn(sigma: float, first: list[int], second: list[int]) -> tuple[list[int], int]:
    """Samples for given words, and how many second words were asked for."""
    asked = 0

    def more(count: int) -> Words:
        nonlocal asked
        asked += count
        return np.array(second, dtype=np.uint64)

    return table_of(sigma).samples(np.array(first, dtype=np.uint64), more).tolist(), asked


@pytest.mark.parametrize("sigma", [0.5, 3.7, 2000.0])
@pytest.mark.parametrize("step", [-1, 0, 1])
def test_ties_are_decided_by_the_second_word(sigma: float, step: int) -> None:
    words = thresholds(table_of(sigma))
    uniform = [min(max(word + step, 0), 2**128 - 1) for word in words]
    high, low = [u >> 64 for u in uniform], [u % 2**64 for u in uniform]
    upper = {word >> 64 for word in words}
    tied = [u in upper for u in high]
    samples, asked = drawn(sigma, high, [word for word, ties in zip(low, tied, strict=True) if ties])
    assert samples == [bisect_right(words, u) - table_of(sigma).reach for u in uniform]
    assert asked == sum(tied) > 0


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1), st.sampled_from([0.1, 0.5, 2.0, 37.5, 9000.0]))
def test_the_first_word_decides_where_nothing_ties(first: list[int], sigma: float) -> None:
    words = thresholds(table_of(sigma))
    upper = {word >> 64 for word in words}
    first = [word for word in first if word not in upper]
    samples, asked = drawn(sigma, first, [])
    assert samples == [bisect_right(words, word << 64) - table_of(sigma).reach for word in first]
    assert asked == 0


@pytest.mark.long
@pytest.mark.parametrize("sigma", [0.5, 11_000.0, 48_000.0])
def test_the_guide_finds_what_a_search_finds(sigma: float) -> None:
    table = table_of(sigma)
    words = np.concatenate(
        [Keystream().words(200_000), table.high[::97] + np.uint64(1), table.high[::97] - np.uint64(1)]
    )
    words = words[~np.isin(words, table.high)]
    samples = table.samples(words, Keystream().words)
    assert np.array_equal(samples, table.high.searchsorted(words, side="right") - table.reach)
    assert np.abs(samples).max() <= table.reach


def test_a_sigma_stands_for_the_rational_number_it_is_and_its_table_is_kept() -> None:
    assert table_of(2.5) is table_of(Fraction(5, 2))
    assert table_of(0.1) is not table_of(Fraction(1, 10))


def test_wide_noise_has_the_moments_of_a_gaussian_and_no_grid() -> None:
    samples = discrete_gaussian(SIGMA, 2_000_000)
    standard = samples / SIGMA
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10_170)):
        assert abs((standard**power).mean() - moment) < 5.5 * (variance / samples.size) ** 0.5
    assert abs((standard[1:] * standard[:-1]).mean()) < 5.5 / samples.size**0.5
    edges = np.floor(stats.norm.ppf(np.arange(1, 1000) / 1000) * SIGMA).astype(int)
    counted = np.bincount(edges.searchsorted(samples, side="left"), minlength=1000)
    expected = np.diff(stats.norm.cdf((edges + 0.5) / SIGMA), prepend=0, append=1) * samples.size
    assert stats.chisquare(counted, expected).pvalue > 1e-6
    assert stats.chisquare(np.bincount(samples % 64)).pvalue > 1e-6


def test_a_passed_key_repeats_a_draw_and_no_key_never_does() -> None:
    draw = partial(discrete_gaussian, 3.0, 100_000)
    assert np.array_equal(draw(bytes(32)), draw(bytes(32)))
    assert np.array_equal(draw(bytes(32))[:1000], discrete_gaussian(3.0, 1000, bytes(32)))
    assert not np.array_equal(draw(), draw())
    assert not np.array_equal(draw(bytes(32)), draw(bytes([1] * 32)))


def test_no_coordinates_need_no_noise() -> None:
    assert discrete_gaussian(3.0, 0).size == 0


@pytest.mark.parametrize("sigma", [0, -1.0, float("nan"), float("inf"), LARGEST_SIGMA + 1])
def test_a_sigma_that_is_no_noise_is_refused(sigma: float) -> None:
    with pytest.raises(FedReasonError) as refusal:
        discrete_gaussian(sigma, 1)
    assert refusal.value.code == Code.DP_REFUSED


@given(
    st.integers(1, LARGEST_SIGMA), st.integers(1, 100), st.integers(0, 100), st.integers(0, 100), st.integers(1, 1000)
)
def test_the_shares_that_remain_have_the_variance_of_a_centre(
    sigma: int, hiding: int, colluders: int, dropouts: int, denominator: int
) -> None:
    central = Fraction(sigma, denominator)
    sites = {"sites": hiding + colluders + dropouts, "colluders": colluders, "dropouts": dropouts}
    variance = share_variance(central, **sites)
    assert hiding * variance == central**2
    assert (share_sigma(central, **sites) - 1) ** 2 < variance <= share_sigma(central, **sites) ** 2


def test_ten_sites_that_tolerate_three_and_three_add_1_6_times_the_noise() -> None:
    tolerant = share_variance(SIGMA, sites=10, colluders=3, dropouts=3)
    assert tolerant / share_variance(SIGMA, sites=10, colluders=0, dropouts=0) == Fraction(10, 4)


@pytest.mark.parametrize(("sites", "colluders", "dropouts"), [(3, 2, 1), (3, 0, 3), (1, 0, 2), (3, -1, 0), (3, 0, -1)])
def test_shares_that_hide_nothing_are_refused(sites: int, colluders: int, dropouts: int) -> None:
    with pytest.raises(FedReasonError) as refusal:
        share_variance(SIGMA, sites=sites, colluders=colluders, dropouts=dropouts)
    assert refusal.value.code == Code.DP_REFUSED


def test_a_sum_of_shares_cannot_be_told_from_the_noise_of_a_centre() -> None:
    shares = sum((discrete_gaussian(4, 1 << 20) for _ in range(4)), start=np.zeros(1 << 20, dtype=np.int64))
    assert fit(shares, 8.0) > 1e-6
    assert check_variance(lambda sigma, size: sum(discrete_gaussian(sigma / 2, size) for _ in range(4)))
