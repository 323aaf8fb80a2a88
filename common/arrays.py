"""Names for the flat vectors that travel, and the hash of an adapter; no heavy import."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
"""An adapter: the trained parameters in the order of the layout."""

Integers = NDArray[np.int64]
"""Multiples of the lattice's unit."""

Floats = NDArray[np.float64]


def adapter_sha256(vector: Vector) -> str:
    """Hash of the adapter's little-endian float32 bytes."""
    return hashlib.sha256(np.ascontiguousarray(vector, dtype="<f4").tobytes()).hexdigest()
