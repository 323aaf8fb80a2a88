"""Who may come in: names and Argon2id hashes of passwords, in one file for its owner alone.

RFC 9106's second recommended parameters (3 passes, 64 MiB, 4 lanes).
"""

from __future__ import annotations

import json
import re
import secrets
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from filelock import FileLock, Timeout

from common.errors import Code, FedReasonError
from common.identity.keys import private_folder, require_private, write_private
from common.web.sessions import STARTER

SHORTEST_PASSWORD = 12
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
_PASSES, _LANES, _KIB = 3, 4, 64 * 1024
_LONGEST_PASSWORD = 256
_LOCK_SECONDS = 15
_one_at_a_time = Lock()
"""A hash takes 64 MiB: a flood of attempts is computed one after the other."""


class Accounts:
    """The accounts in a file, read anew at each question, so that a change counts at once."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> tuple[str, ...]:
        """Return who has an account.

        Raises
        ------
        FedReasonError
            PAGES_ACCOUNT where the file is damaged; KEY_PERMISSIONS where others may read it.
        """
        return tuple(sorted(self._read()))

    def of(self, name: str) -> str | None:
        """Return the password hash of an account, another one once its password is; None where there is no account."""
        return self._read().get(name)

    def add(self, name: str, password: str) -> None:
        """Add an account, or give it another password.

        Raises
        ------
        FedReasonError
            PAGES_ACCOUNT where name or password are not fit, or the file is damaged; RUN_LOCKED where another command
            has been changing the accounts for 15 s.
        """
        if not _NAME.fullmatch(name):
            raise FedReasonError(
                Code.PAGES_ACCOUNT,
                "An account's name has 1 to 32 of a-z, 0-9, '.', '_' and '-', and begins with a letter or digit.",
                "Choose another name.",
            )
        if name == STARTER:
            raise FedReasonError(
                Code.PAGES_ACCOUNT, f"{STARTER} is what whoever started the pages is called.", "Choose another name."
            )
        if not SHORTEST_PASSWORD <= len(password) <= _LONGEST_PASSWORD:
            raise FedReasonError(
                Code.PAGES_ACCOUNT,
                f"A password has {SHORTEST_PASSWORD} to {_LONGEST_PASSWORD} characters.",
                "Choose another one; a few random words do well.",
            )
        hashed = _hashed(password)  # which takes long: the others do not wait for it
        private_folder(self._path.parent)
        with self._locked():
            self._write(self._read() | {name: hashed})

    def remove(self, name: str) -> bool:
        """Take an account away; return whether it was there. Errors are those of `add`."""
        if not self._path.exists():
            return False
        with self._locked():
            found = self._read()
            there = found.pop(name, None) is not None
            if there:
                self._write(found)
        return there

    def holds(self, name: str, password: str) -> bool:
        """Whether the account is there and this is its password; as slow for a name that nobody has."""
        known = self._read().get(name)
        with _one_at_a_time:
            try:
                Argon2id.verify_phc_encoded(password[:_LONGEST_PASSWORD].encode(), known or _hash_of_nobody())
            except InvalidKey:
                return False
            except ValueError:
                raise self._damaged() from None
        return known is not None

    def _read(self) -> dict[str, str]:
        if not self._path.exists():
            return {}
        require_private(self._path)
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            if not all(isinstance(value, str) and value.startswith("$argon2id$") for value in found.values()):
                raise ValueError
        except (OSError, ValueError, AttributeError):
            raise self._damaged() from None
        return {str(name): str(value) for name, value in found.items()}

    def _damaged(self) -> FedReasonError:
        return FedReasonError(
            Code.PAGES_ACCOUNT,
            f"{self._path} is damaged.",
            "Put it back from a backup, or remove it and add the accounts again.",
        )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep others from changing the accounts meanwhile: what they wrote would be lost."""
        try:
            with FileLock(self._path.with_name(f".{self._path.name}.lock"), timeout=_LOCK_SECONDS, mode=0o600):
                yield
        except Timeout:
            raise FedReasonError(
                Code.RUN_LOCKED, f"Another command is changing {self._path}.", "Wait for it, then repeat this one."
            ) from None

    def _write(self, accounts: dict[str, str]) -> None:
        write_private(self._path, json.dumps(accounts, indent=1, sort_keys=True).encode())


def _hash_of_nobody() -> str:
    """Return a hash that takes as long as any other and that no password is known to have."""
    salt, digest = (b64encode(bytes(size)).decode().rstrip("=") for size in (16, 32))
    return f"$argon2id$v=19$m={_KIB},t={_PASSES},p={_LANES}${salt}${digest}"


def _hashed(password: str) -> str:
    made = Argon2id(salt=secrets.token_bytes(16), length=32, iterations=_PASSES, lanes=_LANES, memory_cost=_KIB)
    return made.derive_phc_encoded(password.encode())
