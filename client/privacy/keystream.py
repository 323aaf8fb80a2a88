"""Whole 64-bit words from the AES-CTR keystream, for draws whose probabilities must be exact."""

from __future__ import annotations

import secrets

import numpy as np
from numpy.typing import NDArray

from common.stream import Stream

Words = NDArray[np.uint64]


class Keystream(Stream):
    """A stream of words that nobody can repeat, but who knows its 32-byte key, or the secret among its labels."""

    def __init__(self, key: bytes | None = None) -> None:
        super().__init__(secrets.token_bytes(32) if key is None else key)

    @classmethod
    def named(cls, *labels: str | int) -> Keystream:
        """Return the stream of these labels, as `Stream.named`."""
        stream = super().named(*labels)
        assert isinstance(stream, cls)
        return stream

    def words(self, count: int) -> Words:
        """Return `count` words, each uniform on 0 .. 2^64 - 1."""
        return np.frombuffer(self._keystream.update(bytes(8 * count)), dtype="<u8")
