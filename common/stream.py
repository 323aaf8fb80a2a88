"""Randomness with a name: an AES-CTR keystream keyed by what the draw is for.

Keyed by (seed, labels) a draw is the same wherever and whenever it is made, which is what makes federated training
equal pooled training. Keyed by the operating system (`Stream.private`) nobody can repeat it.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

_Item = TypeVar("_Item")
_WORD = bytes(8)


class Stream:
    """Uniform draws from a 256-bit key."""

    def __init__(self, key: bytes) -> None:
        self._keystream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()

    @classmethod
    def named(cls, *labels: str | int) -> Stream:
        """Return the stream of these labels: equal labels give equal draws, different ones independent draws."""
        digest = hashlib.sha256()
        for label in labels:
            part = f"{type(label).__name__}:{label}".encode()
            digest.update(len(part).to_bytes(8, "big") + part)
        return cls(digest.digest())

    @classmethod
    def private(cls) -> Stream:
        """Return a stream that nobody can repeat."""
        return cls(secrets.token_bytes(32))

    def uniforms(self, count: int) -> NDArray[np.float64]:
        """Return `count` numbers in [0, 1) on the grid of 2^-53."""
        words = np.frombuffer(self._keystream.update(bytes(8 * count)), dtype="<u8")
        return np.ldexp((words >> np.uint64(11)).astype(np.float64), -53)

    def uniform(self) -> float:
        """Return one number in [0, 1), as `uniforms` would."""
        return (int.from_bytes(self._keystream.update(_WORD), "little") >> 11) * 2.0**-53

    def below(self, count: int) -> int:
        """Return an integer in 0 .. count - 1."""
        return int(self.uniform() * count)

    def shuffled(self, items: Sequence[_Item]) -> list[_Item]:
        """Return the items in random order (Fisher-Yates)."""
        result = list(items)
        for last in range(len(result) - 1, 0, -1):
            other = self.below(last + 1)
            result[last], result[other] = result[other], result[last]
        return result

    def weighted(self, items: Sequence[_Item], weights: Sequence[float]) -> _Item:
        """Return one item with probability in proportion to its weight."""
        edges = np.cumsum(weights)
        return items[int(np.searchsorted(edges, self.uniform() * edges[-1], side="right"))]
