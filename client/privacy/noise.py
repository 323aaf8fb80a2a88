"""Noise that keeps its promise on a computer: the discrete Gaussian on the integers, from a cryptographic keystream.

Inverse CDF with thresholds of 128 bits: a 64-bit word decides a sample, and a second one is drawn only where the first
equals the upper half of a threshold. Floating-point noise leaks through its grid; a seeded generator can be repeated.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from client.privacy.keystream import Keystream, Words
from common.arrays import Integers
from common.errors import Code, FedReasonError

LARGEST_SIGMA = 2**20
"""Standard deviation, in units, beyond which the table would need gigabytes."""

_REACH = Fraction(25, 2)
_WEIGHT_BITS = 192
_RECIPROCAL_BITS = 192
_THRESHOLD_BITS = 128
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Table:
    """Cumulative probabilities of the discrete Gaussian within a reach L, as thresholds of 128 bits.

    Attributes
    ----------
    reach
        Largest magnitude L that is ever drawn, in units.
    high, low
        Upper and lower 64 bits of 2^128 P(X <= k, given abs(X) <= L) for k = -L .. L - 1 [2 L], rounded to nearest. The
        last of `high` is 2^64 - 1, because L itself has less than 2^-64: no word lies above all thresholds.
    guide
        For each value of a word's first bits, how many thresholds lie below it [2^bits]; -1 where two or more begin
        with these bits and the thresholds must be searched.
    shift
        How many bits of a word the guide leaves out.
    """

    reach: int
    high: Words
    low: Words
    guide: NDArray[np.int32]
    shift: int

    def samples(self, words: Words, more: Callable[[int], Words]) -> Integers:
        """Return a sample for each word; `more(count)` draws the second words of those that tie.

        With U of 128 bits a sample is -L plus the number of thresholds that are at most U.
        """
        below = self.guide.take((words >> np.uint64(self.shift)).view(np.int64), mode="clip").astype(np.int64)
        searched = np.flatnonzero(below < 0)
        below[searched] = self.high.searchsorted(words[searched], side="left")
        threshold = self.high.take(below, mode="clip")
        tied = np.flatnonzero(words == threshold)
        below += words > threshold
        if tied.size:
            below[tied] = [self._at_most(*pair) for pair in zip(words[tied], more(tied.size), strict=True)]
        below -= self.reach
        return below

    def _at_most(self, first: np.uint64, second: np.uint64) -> int:
        """Count the thresholds that are at most the 128 bits of two words."""
        start, end = (int(self.high.searchsorted(first, side=side)) for side in ("left", "right"))
        return start + int(self.low[start:end].searchsorted(second, side="right"))


def discrete_gaussian(sigma_units: Fraction | float, size: int, key: bytes | None = None) -> Integers:
    """Draw integers k with probability in proportion to exp(-k^2 / (2 sigma^2)).

    Within `total_variation` of the exact distribution (Canonne, Kamath and Steinke 2020, The Discrete Gaussian for
    Differential Privacy, definition 1), as far as AES-256 in counter mode cannot be told from chance. Nothing wraps
    around: no magnitude exceeds 12.5 sigma, rounded up.

    Parameters
    ----------
    sigma_units
        sigma in lattice units; a float stands for the rational number that it is.
    size
        How many.
    key
        For tests alone: 32 bytes that repeat a draw. Without it every call has a key of its own from the operating
        system, so that neither a restart nor a fork repeats noise.

    Raises
    ------
    FedReasonError
        DP_REFUSED where sigma is not a number between 0 (excluded) and `LARGEST_SIGMA`.
    """
    table = _table(_rational(sigma_units))
    keystream = Keystream(key)
    result = np.empty(size, dtype=np.int64)
    for start in range(0, size, _CHUNK):
        part = result[start : start + _CHUNK]
        part[:] = table.samples(keystream.words(part.size), keystream.words)
    return result


def table_of(sigma_units: Fraction | float) -> Table:
    """Return the thresholds of one sigma; those of the last four are kept."""
    return _table(_rational(sigma_units))


def total_variation(sigma_units: Fraction | float) -> float:
    """Bound the total variation between one sample and the exact discrete Gaussian.

    What lies beyond the reach L: P(abs(X) > L) <= 2 Q(L / sigma) <= exp(-L^2 / (2 sigma^2)), Q the normal tail, since
    the sum of the weights is at least sigma sqrt(2 pi). The table: 2 L thresholds, each within 2^-127 (2^-129 from
    rounding, less than 2^-140 from the weights, 2^-128 where the last one would round to 1).
    """
    sigma = _rational(sigma_units)
    reach = _reach(sigma)
    return math.exp(-float((reach / sigma) ** 2) / 2) + 2 * reach * 2.0**-127


def _rational(sigma: Fraction | float) -> Fraction:
    if not 0 < sigma <= LARGEST_SIGMA:
        raise FedReasonError(
            Code.DP_REFUSED,
            f"Noise with a standard deviation of {float(sigma)} lattice units cannot be drawn.",
            f"Choose privacy.noise_multiplier x privacy.clip_units between 0 (excluded) and {LARGEST_SIGMA}.",
        )
    return Fraction(sigma)


def _reach(sigma: Fraction) -> int:
    return math.ceil(_REACH * sigma)


@lru_cache(maxsize=4)
def _table(sigma: Fraction) -> Table:
    reach = _reach(sigma)
    lower = _lower_tail(sigma, reach)
    upper = _mirrored(lower)[::-1]
    high, low = (np.concatenate([lower[:, half], upper[:, half]]) for half in (1, 0))
    bits = min(22, max(10, math.ceil(32 * sigma).bit_length()))
    shift = 64 - bits
    below = high.searchsorted(np.arange(2**bits, dtype=np.uint64) << np.uint64(shift), side="left")
    inside = np.diff(below, append=high.size)
    return Table(reach, high, low, np.where(inside > 1, -1, below).astype(np.int32), shift)


def _lower_tail(sigma: Fraction, reach: int) -> Words:
    """Return 2^128 P(X <= k, given abs(X) <= L) for k = -L .. -1 as lower and upper words [L, 2].

    The weights w(k) = exp(-k^2 / (2 sigma^2)) follow from w(k + 1) = w(k) r(k), r(k + 1) = r(k) exp(-1 / sigma^2) in
    fixed point; after k steps w(k) is off by less than (k + 1)^2 2^-192.
    """
    with localcontext() as context:
        context.prec = 120
        exponent = -(Decimal(sigma.denominator) ** 2) / (2 * Decimal(sigma.numerator) ** 2)
        ratio, step = (int((exponent * times).exp() * 2**_WEIGHT_BITS) for times in (1, 2))
    weight, weights = 1 << _WEIGHT_BITS, []
    for _ in range(reach):
        weight = weight * ratio >> _WEIGHT_BITS
        ratio = ratio * step >> _WEIGHT_BITS
        weights.append(weight)
    total = 2 * sum(weights) + (1 << _WEIGHT_BITS)
    reciprocal = (1 << _WEIGHT_BITS + _RECIPROCAL_BITS) // total
    shift = _WEIGHT_BITS + _RECIPROCAL_BITS - _THRESHOLD_BITS
    half = 1 << shift - 1
    thresholds = (mass * reciprocal + half >> shift for mass in accumulate(reversed(weights)))
    return np.frombuffer(b"".join(t.to_bytes(16, "little") for t in thresholds), dtype="<u8").reshape(-1, 2)


def _mirrored(lower: Words) -> Words:
    """Return 2^128 P(X <= -k - 1) = 2^128 - 2^128 P(X <= k); where that is 2^128, the largest number below."""
    mirrored = ~lower
    mirrored[:, 0] += np.uint64(1)
    mirrored[:, 1] += lower[:, 0] == 0
    mirrored[~lower.any(axis=1)] = np.iinfo(np.uint64).max
    return mirrored
