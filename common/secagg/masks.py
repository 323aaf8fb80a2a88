"""Masks: AES-CTR keystreams added to a vector in place, and a sum's integers as residues of 2^32 or 2^64.

Every mask has a key of its own, used once, so the counter starts at 0. The work goes block by block, all masks on one
block before the next: it stays in the processor's cache, and memory does not grow with the number of masks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from common.arrays import Integers
from common.errors import Code, FedReasonError

Bits = Literal[32, 64]
Residues = NDArray[np.uint32] | NDArray[np.uint64]
WORDS: dict[Bits, np.dtype[np.uint32] | np.dtype[np.uint64]] = {32: np.dtype("<u4"), 64: np.dtype("<u8")}
"""Type of a residue, by the lattice's bits."""

_BLOCK = 1 << 18
_CIPHER_BLOCK = 16


class Mask(NamedTuple):
    """A keystream, added or subtracted."""

    key: bytes
    add: bool


def apply(masks: Sequence[Mask], vector: Residues, *, threads: int = 1) -> None:
    """Add the masks to a vector, in place, modulo 2^bits.

    Parameters
    ----------
    masks
        In any order.
    vector
        Residues [size].
    threads
        How many share the vector; the result does not depend on it.
    """
    step = _BLOCK // vector.itemsize
    part = max(1, -(-len(vector) // (threads * step))) * step
    starts = range(0, len(vector), part)
    if threads == 1:
        _apply(masks, vector, 0)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda start: _apply(masks, vector[start : start + part], start * vector.itemsize), starts))


def _apply(masks: Sequence[Mask], vector: Residues, offset: int) -> None:
    """Add masks to a part that begins `offset` bytes, whole cipher blocks, into the vector."""
    counter = (offset // _CIPHER_BLOCK).to_bytes(_CIPHER_BLOCK, "big")
    streams = [(Cipher(algorithms.AES256(mask.key), modes.CTR(counter)).encryptor(), mask.add) for mask in masks]
    zeros, buffer = memoryview(bytes(_BLOCK)), memoryview(bytearray(_BLOCK))
    words = np.frombuffer(buffer, dtype=vector.dtype)
    for block in _blocks(vector):
        for stream, add in streams:
            stream.update_into(zeros[: block.nbytes], buffer[: block.nbytes])
            (np.add if add else np.subtract)(block, words[: len(block)], out=block)


def residues(total: Integers, bits: Bits, *, sites: int, clamp: bool) -> Residues:
    """Return a sum as residues of 2^bits, within the range in which `sites` such sums cannot wrap around.

    Parameters
    ----------
    total
        Lattice units [size].
    bits
        32 or 64.
    sites
        How many sums are added up.
    clamp
        Bring what lies outside to the edge: a private sum must not be refused for what is in it.

    Raises
    ------
    FedReasonError
        LATTICE_RANGE where a value lies outside and is not clamped.
    """
    most = ((1 << bits - 1) - 1) // sites
    result = np.empty(len(total), dtype=WORDS[bits])
    step = _BLOCK // result.itemsize
    for start in range(0, len(total), step):
        block = total[start : start + step]
        inside = np.clip(block, -most, most)
        if not clamp and not np.array_equal(inside, block):
            raise FedReasonError(
                Code.LATTICE_RANGE,
                f"A value of a contribution lies outside the secure sum's range of {bits} bits over {sites} sites.",
                "Lower lattice.bits, or look for a diverged model.",
            )
        result[start : start + step] = inside.astype(result.dtype)
    return result


def integers(vector: Residues) -> Integers:
    """Return the integers in -2^(bits - 1) .. 2^(bits - 1) - 1 that residues stand for."""
    return vector.view(np.dtype(f"<i{vector.itemsize}")).astype(np.int64)


def digest(vector: Residues) -> bytes:
    """Return the SHA-256 of the residues' little-endian bytes."""
    return hashlib.sha256(np.ascontiguousarray(vector).data.cast("B")).digest()


def _blocks(vector: Residues) -> Iterator[Residues]:
    step = _BLOCK // vector.itemsize
    for start in range(0, len(vector), step):
        yield vector[start : start + step]
