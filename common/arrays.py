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


def zero_adapter(size: int) -> Vector:
    """Return the adapter before training: B is zero."""
    return np.zeros(size, dtype=np.float32)


def adapter_sha256(vector: Vector) -> str:
    """Hash of the adapter's little-endian float32 bytes."""
    return hashlib.sha256(np.ascontiguousarray(vector, dtype="<f4").tobytes()).hexdigest()


def adapter_of(tensor: NDArray[np.generic]) -> Vector:
    """Return a tensor that was read from a file or a message as the adapter it has to be.

    Raises
    ------
    ValueError
        Where it is no vector of float32: cast to it, it would be another adapter.
    """
    if tensor.ndim != 1 or tensor.dtype != np.float32:
        raise ValueError(f"an adapter of {tensor.dtype} {tensor.shape}, not a vector of float32")
    return np.asarray(tensor, dtype=np.float32)
