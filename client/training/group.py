"""The ranks of a site: processes that compute patients for its first one, connected by torch.distributed's Gloo.

What goes between two of them is sealed (AES-256-GCM) under a key that comes of a secret that only they have and of
numbers that both draw for this connection: whoever else listens or connects reads nothing and is not heard, nor is what
was said over an earlier one. A connection tells at once when the process at its other end is gone.
"""

from __future__ import annotations

import os
import pickle
import secrets
import threading
from collections import Counter
from datetime import timedelta
from typing import Any

import torch
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from torch.distributed import ProcessGroupGloo, Store  # type: ignore[attr-defined]

from common.errors import Code, FedReasonError

FIRST = 0
"""The rank that has the site: it keeps its disk, tosses its coins and answers."""
FOREVER = timedelta(days=365)

_JOIN = timedelta(minutes=5)
_NONCE, _TAG, _FRESH = 12, 16, 32
_PIECE = 1 << 26
_WORDS, _LIFE = 1, 2
"""Gloo's tags: what is said, and what is never said but ends with the other end."""


class Gone(Exception):
    """The other end has ended, or did not answer in time."""


class Group:
    """One rank's end of the connections.

    Parameters
    ----------
    store
        Where the ranks find one another; all must be there.
    secret
        32 bytes, the same at every rank and nobody else's.
    host
        Address to listen at; None takes that of GLOO_SOCKET_IFNAME, or the one that this machine's name stands for.
    """

    def __init__(self, store: Store, rank: int, size: int, secret: bytes, host: str | None = None) -> None:
        self.rank, self.size = rank, size
        options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._devices = [_device(host)]
        options._timeout = _JOIN
        self._secret, self._ciphers, self._said = secret, dict[int, AESGCM](), Counter[tuple[int, int]]()
        self._group: Any
        try:
            self._group = ProcessGroupGloo(store, rank, size, options)
        except RuntimeError as error:
            raise Gone from error

    def send(self, to: int, message: object) -> None:
        """Send what can be pickled; raises `Gone`."""
        content, cipher = pickle.dumps(message, protocol=5), self._cipher(to)
        self._put(torch.tensor([len(content)]), to)
        for start in range(0, len(content), _PIECE):
            nonce = secrets.token_bytes(_NONCE)
            piece = content[start : start + _PIECE]
            sealed = nonce + cipher.encrypt(nonce, piece, self._place(self.rank, to))
            self._put(torch.frombuffer(bytearray(sealed), dtype=torch.uint8), to)

    def receive(self, source: int, wait: timedelta = FOREVER) -> Any:
        """Return what was sent; raises `Gone`, also for what was not sealed by a rank of this group."""
        cipher, length = self._cipher(source, wait), torch.zeros(1, dtype=torch.int64)
        self._get(length, source, wait)
        pieces = []
        for start in range(0, int(length), _PIECE):
            size = min(_PIECE, int(length) - start) + _NONCE + _TAG
            sealed = torch.empty(size, dtype=torch.uint8)
            self._get(sealed, source, wait)
            words = sealed.numpy().tobytes()
            try:
                place = self._place(source, self.rank)
                pieces.append(cipher.decrypt(words[:_NONCE], words[_NONCE:], place))
            except InvalidTag:
                raise Gone from None
        return pickle.loads(b"".join(pieces))

    def end_with_first(self) -> None:
        """End this process, whatever it computes, as soon as the first rank is gone or has closed the group."""

        def watch() -> None:
            with_nobody = torch.zeros(1)
            try:
                self._group.recv([with_nobody], FIRST, _LIFE).wait(FOREVER)
            finally:
                os._exit(0)

        threading.Thread(target=watch, daemon=True, name="life").start()

    def close(self) -> None:
        """Let go of the connections: the others notice."""
        self._group = None

    def _cipher(self, other: int, wait: timedelta = FOREVER) -> AESGCM:
        """Return what seals and opens what goes between the two; numbers are exchanged before the first word."""
        if other not in self._ciphers:
            drawn, heard = secrets.token_bytes(_FRESH), torch.empty(_FRESH, dtype=torch.uint8)
            try:
                said = self._group.send([torch.frombuffer(bytearray(drawn), dtype=torch.uint8)], other, _WORDS)
                self._group.recv([heard], other, _WORDS).wait(wait)
                said.wait(wait)
            except RuntimeError as error:
                raise Gone from error
            numbers = {self.rank: drawn, other: heard.numpy().tobytes()}
            fresh = b"".join(numbers[rank] for rank in sorted(numbers))
            self._ciphers[other] = AESGCM(HKDF(SHA256(), 32, salt=fresh, info=b"fedreason ranks").derive(self._secret))
        return self._ciphers[other]

    def _place(self, source: int, to: int) -> bytes:
        """Return what a sealed piece is bound to: its way, and how many went it before."""
        self._said[source, to] += 1
        return f"{source}>{to}:{self._said[source, to]}".encode()

    def _put(self, tensor: torch.Tensor, to: int) -> None:
        try:
            self._group.send([tensor], to, _WORDS).wait(FOREVER)
        except RuntimeError as error:
            raise Gone from error

    def _get(self, tensor: torch.Tensor, source: int, wait: timedelta) -> None:
        try:
            self._group.recv([tensor], source, _WORDS).wait(wait)
        except RuntimeError as error:
            raise Gone from error


def _device(host: str | None) -> Any:
    interface = os.environ.get("GLOO_SOCKET_IFNAME", "")
    try:
        if host is not None:
            return ProcessGroupGloo.create_device(hostname=host)
        if interface:
            return ProcessGroupGloo.create_device(interface=interface)
        return ProcessGroupGloo.create_default_device()
    except RuntimeError:
        raise FedReasonError(
            Code.RANKS_MISSING,
            f"{host or interface or 'The name of this machine'} is at no network interface that this process may see.",
            "Name one by GLOO_SOCKET_IFNAME; under systemd let RestrictAddressFamilies have AF_NETLINK.",
        ) from None
