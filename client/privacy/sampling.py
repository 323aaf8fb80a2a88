"""Poisson sampling: every patient by a coin of its own, from the operating system's randomness.

The size of a batch is random and may be zero. An empty batch is noised, sent and charged like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import compress
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from client.privacy.keystream import Keystream
from common.errors import Code, FedReasonError

_Patient = TypeVar("_Patient")


def poisson_sample(patients: Sequence[_Patient], rate: Fraction | float, key: bytes | None = None) -> list[_Patient]:
    """Return the patients whose coin fell on heads, in their order.

    Parameters
    ----------
    patients
        Whom to toss a coin for.
    rate
        q, the probability of heads: exactly this number, a float being the rational that it is.
    key
        For tests alone: 32 bytes that repeat a draw.

    Raises
    ------
    FedReasonError
        DP_REFUSED where the rate is no probability.
    """
    return list(compress(patients, coins(len(patients), rate, Keystream(key))))


def coins(count: int, rate: Fraction | float, keystream: Keystream) -> NDArray[np.bool_]:
    """Toss `count` coins that show heads with probability exactly `rate`.

    A coin is a uniform number in [0, 1) below the rate, compared 64 bits at a time: the next word is drawn where all
    bits so far are those of the rate.
    """
    if not 0 <= rate <= 1:
        raise FedReasonError(
            Code.DP_REFUSED,
            f"A sampling rate of {float(rate)} is no probability.",
            "Choose federation.sampling_rate between 0 and 1.",
        )
    heads = np.full(count, rate == 1)
    rest = Fraction(rate) % 1
    undecided = np.arange(count)
    while rest and undecided.size:
        digit, rest = divmod(rest * 2**64, 1)
        words = keystream.words(undecided.size)
        heads[undecided[words < np.uint64(digit)]] = True
        undecided = undecided[words == np.uint64(digit)]
    return heads
