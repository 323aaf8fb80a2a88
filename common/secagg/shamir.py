"""Shamir's secret sharing over the field of 2^521 - 1: any t shares give the secret, fewer say nothing of it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from functools import lru_cache

PRIME = 2**521 - 1
SECRET_BYTES = 32
SHARE_BYTES = 66


def deal(secret: bytes, threshold: int, holders: int) -> list[int]:
    """Return the values at 1 .. `holders` of a random polynomial of degree t - 1 with the secret at 0."""
    coefficients = [int.from_bytes(secret, "big"), *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    return [_value(coefficients, point) for point in range(1, holders + 1)]


def recover(shares: Mapping[int, int]) -> bytes:
    """Return the secret from exactly t shares by their points.

    Raises
    ------
    ValueError
        Where they do not meet in a secret of 32 bytes: one of them is wrong.
    """
    weights = _weights(tuple(sorted(shares)))
    secret = sum(weights[point] * share for point, share in shares.items()) % PRIME
    if secret.bit_length() > 8 * SECRET_BYTES:
        raise ValueError("no secret of 32 bytes")
    return secret.to_bytes(SECRET_BYTES, "big")


def _value(coefficients: list[int], point: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * point + coefficient) % PRIME
    return value


@lru_cache(maxsize=64)
def _weights(points: tuple[int, ...]) -> dict[int, int]:
    """Return Lagrange's weights at 0."""
    weights = {}
    for point in points:
        above = below = 1
        for other in points:
            if other != point:
                above = above * -other % PRIME
                below = below * (point - other) % PRIME
        weights[point] = above * pow(below, -1, PRIME) % PRIME
    return weights
