"""Floats to integers on the public lattice and back; sums of integers do not depend on their order or grouping."""

from __future__ import annotations

import numpy as np

from common.arrays import Floats, Integers, Vector
from common.errors import Code, FedReasonError

LARGEST = 2.0**62
"""Multiples from here on, either way, are outside."""
LARGEST_WEIGHT = 1e4
"""Largest value of an adapter in a private run, sent or come to by local steps: trained ones stay far below 100."""
_INSIDE = np.nextafter(LARGEST, 0)
_FIX = "Lower lattice.bits, or look for a diverged model."


def to_lattice(vector: Floats, bits: int) -> Integers:
    """Round to the nearest multiple of 2^-bits and return the multiples.

    Raises
    ------
    FedReasonError
        Where a value is not finite or its multiple does not fit; it is refused, never wrapped.
    """
    scaled = np.rint(np.ldexp(vector.astype(np.float64), bits))
    if not np.all(np.abs(scaled) < LARGEST):
        raise FedReasonError(Code.LATTICE_RANGE, "A value of a contribution lies outside the public lattice.", _FIX)
    return scaled.astype(np.int64)


def clamped_to_lattice(vector: Floats, bits: int) -> Integers:
    """Round as `to_lattice`; what lies outside becomes the nearest that lies inside, and what is no number zero.

    For what is noised already, where a refusal would tell more than the value.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.rint(np.ldexp(vector.astype(np.float64), bits))
    return np.nan_to_num(scaled, nan=0.0).clip(-_INSIDE, _INSIDE).astype(np.int64)


def from_lattice(integers: Integers, unit: float) -> Floats:
    """Return the floats that multiples of `unit` stand for."""
    return integers.astype(np.float64) * unit


def usable(adapter: Vector, *, private: bool) -> bool:
    """Whether sites compute with an adapter: it holds numbers alone, and in a private run none that is too large."""
    return bool(np.isfinite(adapter).all()) and not (private and np.abs(adapter).max(initial=0) > LARGEST_WEIGHT)


def within(part: Integers, largest: int) -> Integers:
    """Return integers as they are.

    Raises
    ------
    FedReasonError
        Where one lies beyond `largest`, either way.
    """
    if np.any(part > largest) or np.any(part < -largest):
        raise FedReasonError(Code.LATTICE_RANGE, "A value lies outside what the run allows a sum to hold.", _FIX)
    return part


def add(total: Integers, part: Integers) -> Integers:
    """Add two integer vectors exactly.

    Raises
    ------
    FedReasonError
        Where a sum does not fit 64 bits.
    """
    result = total + part
    if np.any(((total ^ result) & (part ^ result)) < 0):
        raise FedReasonError(Code.LATTICE_RANGE, "A sum lies outside the public lattice.", _FIX)
    return result
