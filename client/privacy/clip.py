"""The clip: one patient's gradient as integers whose norm is at most `clip_units`, exactly and whatever the gradient.

Rounding to the lattice lengthens a vector, so the bound is kept by integers after it and not by floats before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from client.privacy.keystream import Keystream
from common.arrays import Floats, Integers, Vector
from common.errors import Code, FedReasonError

LARGEST_CLIP_UNITS = 2**30
SMALLEST_CLIP_NORM = 1e-30

_PART = 1 << 13
_LIMB = (1 << 21) - 1


def clipped(gradient: Vector, clip_norm: float, clip_units: int, random: Keystream) -> tuple[Integers, bool]:
    """Scale a gradient to norm C at most and round it to lattice units of C / `clip_units`.

    Rounding is stochastic, up with the probability of the fraction, hence without bias. Where the rounded vector would
    be too long the gradient is first made shorter, so that its rounding almost surely fits, and shortened and rounded
    afresh until it does (conditional rounding: Kairouz, Liu and Steinke 2021, The Distributed Discrete Gaussian
    Mechanism, with a smaller scale in place of a wider bound). That scale is the bias, and there is no other to speak
    of: a gradient of norm C in d dimensions keeps about 1 - d / (12 U^2) - 3 / U of its length, U = `clip_units`: 0.998
    for 1.8M coordinates and 11,000 units. The retries say nothing: they stay at the site, and the bound holds for
    whatever they end with.

    Parameters
    ----------
    gradient
        Sum over all questions and completions of one patient [size]; wider floats are rounded to float32 first.
    clip_norm
        C, in units of the gradient, between 1e-30 and 1e30.
    clip_units
        C in lattice units, at most 2^30.
    random
        Fresh private randomness: `Keystream()`.

    Returns
    -------
    tuple of Integers and bool
        Lattice units [size], whose sum of squares is at most `clip_units` squared; and whether the gradient was not
        finite, in which case they are zeros.

    Raises
    ------
    FedReasonError
        DP_REFUSED where `clip_norm` or `clip_units` lies outside these limits.
    """
    if not SMALLEST_CLIP_NORM <= clip_norm <= 1e30 or not 1 <= clip_units <= LARGEST_CLIP_UNITS:
        raise FedReasonError(
            Code.DP_REFUSED,
            f"A clip norm of {clip_norm} in {clip_units} lattice units is no usable bound.",
            f"Choose privacy.clip_norm between 1e-30 and 1e30, privacy.clip_units between 1 and {LARGEST_CLIP_UNITS}.",
        )
    with np.errstate(over="ignore", invalid="ignore"):
        vector = gradient.astype(np.float32, copy=False).astype(np.float64)
        norm = math.sqrt(sum(float(np.dot(vector[part], vector[part])) for part in _parts(vector.size)))
    if not math.isfinite(norm):
        return np.zeros(vector.size, dtype=np.int64), True
    scale = clip_units / max(norm, clip_norm)
    vector *= scale
    return _rounded(vector, norm * scale, clip_units, random), False


def shortened(integers: Integers, bound: int) -> Integers:
    """Scale integers to a norm of `bound` at most, towards zero; the same bits on every machine.

    Parameters
    ----------
    integers
        Lattice units [size].
    bound
        At least 1.
    """
    squares, slack = _squares(integers), 1.0
    while squares > bound**2:
        integers = np.trunc(integers * (slack * bound / math.sqrt(squares))).astype(np.int64)
        squares, slack = _squares(integers), slack * (1 - 2.0**-20)
    return integers


def _squares(integers: Integers) -> int:
    """Sum of the squares of any integers, exact: in three limbs of 21 bits, whose products a sum of a part holds."""
    total = 0
    for part in _parts(integers.size):
        high, middle, low = integers[part] >> 42, (integers[part] >> 21) & _LIMB, integers[part] & _LIMB
        squares, doubled = (
            ((high, 84), (middle, 42), (low, 0)),
            ((high, middle, 64), (high, low, 43), (middle, low, 22)),
        )
        total += sum(int(np.dot(limb, limb)) << bits for limb, bits in squares)
        total += sum(int(np.dot(one, other)) << bits for one, other, bits in doubled)
    return total


def squared_norm(integers: Integers) -> int:
    """Sum of squares, exact: no vector that `clipped` looks at comes near 2^63.

    Each of its coordinates is less than 1 from one of a vector of norm at most 2^30, so that the sum of squares is less
    than (2^30 + sqrt(size))^2.
    """
    return int(np.dot(integers, integers))


def _rounded(vector: Floats, norm: float, bound: int, random: Keystream) -> Integers:
    """Round stochastically to integers of norm at most `bound`; shortens `vector` in place as far as that needs.

    With fractions f the squared norm of the rounded vector is norm^2 + sum f (1 - f) on average, and deviates by at
    most norm + sqrt(size) / 2. A vector is rounded when the bound is 3 deviations away, else shortened to leave 6.
    """
    assert math.isfinite(norm), "what is not finite is never shortened enough"
    while True:
        excess = sum(_excess(vector[part]) for part in _parts(vector.size))
        deviation = min(norm + math.sqrt(vector.size) / 2, bound**2 / 12)
        if norm**2 + excess + 3 * deviation <= bound**2:
            rounded = np.empty(vector.size, dtype=np.int64)
            for part in _parts(vector.size):
                rounded[part] = _either_way(vector[part], random)
            if squared_norm(rounded) <= bound**2:
                return rounded
            shorter = 0.99
        else:
            shorter = max(0.5, math.sqrt(max(0.0, bound**2 - excess - 6 * deviation)) / norm)
        vector *= shorter
        norm *= shorter


def _parts(size: int) -> Iterator[slice]:
    """Cut a long vector into parts that stay in a processor's cache."""
    return (slice(start, start + _PART) for start in range(0, size, _PART))


def _excess(vector: Floats) -> float:
    """How much rounding adds to the squared norm on average."""
    fractions = vector - np.floor(vector)
    return float(fractions.sum() - np.dot(fractions, fractions))


def _either_way(vector: Floats, random: Keystream) -> Integers:
    """Round down, or up with the probability of the fraction."""
    floor = np.floor(vector)
    up = (random.words(vector.size) >> np.uint64(11)) < (vector - floor) * 2.0**53
    return floor.astype(np.int64) + up
