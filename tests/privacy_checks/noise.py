"""Noise has the variance, the distribution and the unpredictability that the accounting takes for granted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from mpmath import mp, mpf
from scipy import stats

from client.privacy.noise import Table, discrete_gaussian, table_of
from common.arrays import Integers
from common.secagg.terms import share_sigma
from tests.privacy_checks import FALSE_ALARM, Check, unpredictable

Sampler = Callable[[float, int], Integers]

SIGMA = 11_000.0
SIZE = 1 << 20
_SITES = {"sites": 10, "colluders": 3, "dropouts": 3}
_COPIED = np.random.default_rng()


def check_variance(sampler: Sampler, sigma: float = SIGMA) -> bool:
    """Sum of squares of 2^20 samples over sigma^2 is chi-squared distributed, from both sides."""
    statistic = _squares(sampler(sigma, SIZE)) / sigma**2
    return bool(2 * min(stats.chi2.cdf(statistic, SIZE), stats.chi2.sf(statistic, SIZE)) > FALSE_ALARM)


def check_shares(share: Callable[..., int]) -> bool:
    """What 10 sites add hides as much as sigma, after 3 told their shares and 3 others dropped out."""
    hiding = _SITES["sites"] - _SITES["colluders"] - _SITES["dropouts"]
    sigma = share(SIGMA, **_SITES)
    total = sum((discrete_gaussian(sigma, SIZE) for _ in range(hiding)), start=np.zeros(SIZE, dtype=np.int64))
    return bool(stats.chi2.cdf(_squares(total) / SIGMA**2, SIZE) > FALSE_ALARM)


def check_table(table_for: Callable[[float], Table]) -> bool:
    """Total variation between table and definition, computed with 60 digits by mpmath, is at most 2^-100."""
    return all(distance(table_for(sigma), sigma) <= mpf(2) ** -100 for sigma in (0.5, 3.7, 100.0))


def check_fit(sampler: Sampler) -> bool:
    """Counts of 2^20 small integers fit the exact probabilities (Pearson's chi-squared)."""
    return all(fit(sampler(sigma, SIZE), sigma) > FALSE_ALARM for sigma in (0.5, 1.0, 2.3, 10.0))


def check_range(sampler: Sampler) -> bool:
    """Wide noise comes in 64 bits and does not wrap around."""
    return sampler(48_000.0, 1).dtype == np.int64 and check_variance(sampler, 48_000.0)


def check_unpredictable(sampler: Sampler) -> bool:
    """No draw can be repeated."""
    return unpredictable(lambda: sampler(SIGMA, 64).tobytes())


def thresholds(table: Table) -> list[int]:
    """Return the thresholds as whole numbers of 2^-128."""
    return [int(high) << 64 | int(low) for high, low in zip(table.high, table.low, strict=True)]


def distance(table: Table, sigma: float) -> mpf:
    """Total variation between what a table draws and the discrete Gaussian, tails included."""
    with mp.workdps(60):
        edges = [0, *thresholds(table), 2**128]
        weights = [mp.exp(-(mpf(k) ** 2) / (2 * mpf(sigma) ** 2)) for k in range(table.reach + 1)]
        total = weights_total(sigma)
        apart, inside = mpf(0), mpf(0)
        for k in range(-table.reach, table.reach + 1):
            drawn = mpf(edges[k + table.reach + 1] - edges[k + table.reach]) / mpf(2) ** 128
            exact = weights[abs(k)] / total
            apart += abs(drawn - exact)
            inside += exact
        return (apart + (1 - inside)) / 2


def weights_total(sigma: float) -> mpf:
    """Sum of exp(-k^2 / (2 sigma^2)) over all integers, a theta function."""
    return mp.jtheta(3, 0, mp.exp(-1 / (2 * mpf(sigma) ** 2))) if sigma < 20 else mpf(sigma) * mp.sqrt(2 * mp.pi)


def fit(samples: Integers, sigma: float) -> float:
    """Return Pearson's p-value; both tails are one bin, which is expected at least 20 times."""
    largest = int(9 * sigma) + 9
    weights = np.exp(-(np.arange(-largest, largest + 1) ** 2) / (2 * sigma**2))
    expected = weights / weights.sum() * samples.size
    counted = np.bincount(np.clip(samples, -largest, largest) + largest, minlength=expected.size)
    rare = np.cumsum(expected) - expected < 10
    rare |= rare[::-1]
    bins = [np.append(array[~rare], array[rare].sum()) for array in (counted, expected)]
    return float(stats.chisquare(*bins).pvalue)


def _squares(samples: Integers) -> float:
    return float(np.square(samples.astype(np.float64)).sum())


def _no_noise(sigma: float, size: int) -> Integers:
    return np.zeros(size, dtype=np.int64)


def _scaled(factor: float, sigma: float, size: int) -> Integers:
    return discrete_gaussian(sigma * factor, size)


def _numpy(sigma: float, size: int) -> Integers:
    return np.rint(np.random.normal(0, sigma, size)).astype(np.int64)


def _numpy_words(sigma: float, size: int) -> Integers:
    """Draw from the right distribution with words of NumPy's global generator."""

    def words(count: int) -> np.ndarray:
        return np.random.randint(0, 2**64, count, dtype=np.uint64)

    return table_of(sigma).samples(words(size), words)


def _fixed_seed(sigma: float, size: int) -> Integers:
    return discrete_gaussian(sigma, size, bytes(32))


def _copied_by_a_fork(sigma: float, size: int) -> Integers:
    return np.rint(_COPIED.normal(0, sigma, size)).astype(np.int64)


def _wrapped(sigma: float, size: int) -> Integers:
    return discrete_gaussian(sigma, size).astype(np.int16).astype(np.int64)


def _without_second_words(sigma: float) -> Table:
    table = table_of(sigma)
    return replace(table, low=np.zeros_like(table.low))


def _short(sigma: float) -> Table:
    """Cut the tails at 6 sigma."""
    table = table_of(sigma)
    cut = table.reach - int(np.ceil(6 * sigma))
    return replace(table, reach=table.reach - cut, high=table.high[cut:-cut], low=table.low[cut:-cut])


def _share(left_out: set[str], sigma: float, **tolerated: int) -> int:
    return share_sigma(sigma, **{name: 0 if name in left_out else count for name, count in tolerated.items()})


CHECKS = [
    Check(
        "noise: variance",
        partial(check_variance, discrete_gaussian),
        {
            "no noise": partial(check_variance, _no_noise),
            "a quarter": partial(check_variance, partial(_scaled, 0.25)),
            "one per cent too little": partial(check_variance, partial(_scaled, 0.99)),
        },
    ),
    Check(
        "noise: the sum of shares",
        partial(check_shares, share_sigma),
        {
            "no share inflation": partial(check_shares, partial(_share, {"colluders", "dropouts"})),
            "colluders forgotten": partial(check_shares, partial(_share, {"colluders"})),
            "dropouts forgotten": partial(check_shares, partial(_share, {"dropouts"})),
        },
    ),
    Check(
        "discrete noise: table",
        partial(check_table, table_of),
        {
            "thresholds of 64 bits": partial(check_table, _without_second_words),
            "tails cut at 6 sigma": partial(check_table, _short),
        },
    ),
    Check(
        "discrete noise: fit",
        partial(check_fit, discrete_gaussian),
        {
            "np.random.normal, rounded": partial(check_fit, _numpy),
            "one per cent too little": partial(check_fit, partial(_scaled, 0.99)),
        },
    ),
    Check(
        "discrete noise: no wrap-around",
        partial(check_range, discrete_gaussian),
        {"16 bits": partial(check_range, _wrapped)},
    ),
    Check(
        "discrete noise: unpredictable",
        partial(check_unpredictable, discrete_gaussian),
        {
            "np.random": partial(check_unpredictable, _numpy_words),
            "a fixed seed": partial(check_unpredictable, _fixed_seed),
            "a generator that a fork copies": partial(check_unpredictable, _copied_by_a_fork),
        },
    ),
]
