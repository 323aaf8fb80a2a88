"""The site's own account of what its patients' privacy has cost; no message can change or reset it.

A release is charged, and its line is on the disk, before it may leave: a crash in between charges for nothing, and
nothing ever leaves uncharged. The ledger is the site's, not a run's: it composes over all runs, restarts and keys.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from filelock import FileLock, Timeout

from client.privacy.chain import (
    KIND,
    LEDGER,
    MARK,
    Chain,
    compare_heads,
    ledger_folder,
    mark_of,
    read_chain,
    read_mark,
    recompute,
    site_keys,
    summed,
)
from client.privacy.entry import Entry, Release, cost, spent
from client.site.anchor import ANCHOR, Anchor, new_anchor, read_anchor, require_reaches, write_anchor
from common.cli import disk_full, is_disk_full
from common.errors import Code, FedReasonError
from common.identity.keys import (
    fingerprint,
    load_signing_key,
    private_folder,
    public_text,
    signature,
    sync_folder,
    write_private,
)
from common.identity.lines import append_private
from common.logs import logger
from common.messages.heads import START, Head

__all__ = ["Entry", "Head", "Ledger", "Release", "ledger_folder"]

_log = logger("site")
_PATIENCE = 60.0
"""Seconds to wait for another process that is charging."""


class Ledger:
    """The ledger of a site, for those who release; several processes may, one after the other.

    Parameters
    ----------
    folder
        The site's folder. Lines are signed by `keys/signing`.
    witnesses
        Folder outside the site's, where a second anchor is kept; None for none.
    """

    def __init__(self, folder: Path, witnesses: Path | None = None) -> None:
        self._site, self.folder, self._witnesses = folder, ledger_folder(folder), witnesses
        self._anchor: Anchor | None = None
        self._path = self.folder / LEDGER
        private_folder(self.folder)
        for above in (self.folder.parent, folder):
            sync_folder(above)
        self._lock = FileLock(self.folder / "lock", timeout=_PATIENCE)
        self._heads = [START]
        self._last: Entry | None = None
        self._charged: Counter[tuple[str, int, str]] = Counter()
        self._attempted: set[tuple[str, int, int, str]] = set()
        self._seen: tuple[int, ...] | None = None

    @classmethod
    def opened(cls, folder: Path, witnesses: Path | None = None) -> Ledger:
        """Open the ledger of a site folder, check every line of it, and remove what a crash left of a last one.

        It must reach as far as its anchor saw it; where there is no anchor yet, one is made for it as it is.

        Raises
        ------
        FedReasonError
            KEY_MISSING without `keys/signing`, LEDGER_DAMAGED, LEDGER_ROLLED_BACK, SITE_RUNNING where another process
            does not let go of it.
        """
        ledger = cls(folder, witnesses)
        with ledger._locked():
            for unfinished in ledger.folder.glob(f".{MARK}.*"):
                unfinished.unlink()
            ledger._read()
        return ledger

    @property
    def head(self) -> Head:
        """Number and hash of the last line, to show to the other sites."""
        return self._heads[-1]

    @property
    def name(self) -> str:
        """What it was named when it was begun."""
        assert self._anchor is not None
        return self._anchor.ledger

    @property
    def epsilon(self) -> float:
        """Spent so far, at the delta of the last release."""
        return self._last.epsilon if self._last else 0.0

    def entries(self) -> list[Entry]:
        """Return every charged release, oldest first."""
        return self._chain().entries

    def charged(self, release: Release) -> tuple[int, bool]:
        """Return how often this part of the round was charged, and whether this very attempt at it was."""
        with self._locked():
            self._refresh()
            times = sum(self._charged[subject] for subject in release.part)
            return times, release.attempted in self._attempted

    def require(self, release: Release, *, cap: float) -> float:
        """Refuse a release that would pass the cap, before anything is computed for it; nothing is charged.

        Returns the epsilon that would be spent after it.

        Raises
        ------
        FedReasonError
            As `charge` does.
        """
        with self._locked():
            self._refresh()
            entry = self._next(release, self._key())
            self._require(entry, cap)
            return entry.epsilon

    def charge(self, release: Release, *, cap: float) -> Entry:
        """Charge a release, which may leave only once this has returned.

        Parameters
        ----------
        cap
            Largest epsilon, at the delta of the release.

        Raises
        ------
        FedReasonError
            BUDGET_SPENT where it would pass the cap: nothing is charged then. DISK_FULL, LEDGER_DAMAGED,
            LEDGER_ROLLED_BACK or SITE_RUNNING where it cannot be charged.
        """
        with self._locked():
            self._refresh()
            key = self._key()
            entry = self._next(release, key)
            self._require(entry, cap)
            entry = replace(entry, signature=signature(entry.document, key, kind=KIND))
            append_private(self._path, entry.line + b"\n")
            write_private(self.folder / MARK, mark_of(entry.head))
            self._write_anchors(entry.head, key)
            self._take(entry)
            return entry

    def verify(self, *, costs: bool = False) -> None:
        """Check every line again: hashes, signatures, sums, numbers, and epsilon that only rises.

        Parameters
        ----------
        costs
            Compute RDP and epsilon anew, from the mechanisms.

        Raises
        ------
        FedReasonError
            LEDGER_DAMAGED naming the first line that is wrong, LEDGER_ROLLED_BACK where lines are missing.
        """
        entries = self._chain().entries
        if costs:
            recompute(entries, self._path)

    def seen_by_peers(self, seen: Mapping[str, Head]) -> None:
        """Refuse to go on where another site saw more of this ledger than there is, or other lines.

        Raises
        ------
        FedReasonError
            LEDGER_ROLLED_BACK, naming the sites.
        """
        with self._locked():
            self._refresh()
            compare_heads(self._heads, seen)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except Timeout:
            raise FedReasonError(
                Code.SITE_RUNNING,
                f"Another process has held {self._lock.lock_file} for {_PATIENCE:.0f} seconds.",
                "Nothing is released. End that process.",
            ) from None
        except OSError as error:
            self._seen = None
            if is_disk_full(error):
                raise disk_full(error) from None
            raise

    def _chain(self) -> Chain:
        """Read the ledger, which must go at least as far as this process and its anchors know it to."""
        keys = self._keys()
        self._anchor = read_anchor(self._site / ANCHOR, keys) or self._anchor
        known = {"this process": self.head}
        for path in self._anchor_files():
            if anchor := read_anchor(path, keys):
                known[str(path)] = anchor.head
        chain = read_chain(self.folder, keys)
        for seen_by, head in known.items():
            require_reaches(chain.heads, head, self._path, seen_by)
        return chain

    def _anchor_files(self) -> list[Path]:
        """Where the anchors are: beside site.toml, and outside the site's folder; none before there is one."""
        if self._anchor is None:
            return []
        outside = [] if self._witnesses is None else [self._witnesses / f"{self._anchor.ledger}.json"]
        return [self._site / ANCHOR, *outside]

    def _write_anchors(self, head: Head, key: Ed25519PrivateKey) -> None:
        """Write how far the ledger goes into its anchors; they are made where there are none."""
        if self._anchor is None:
            self._anchor = new_anchor(head)
            _log.log(
                logging.WARNING if head.sequence else logging.INFO,
                "%s is begun for a ledger of %d lines, which had none",
                ANCHOR,
                head.sequence,
            )
        self._anchor = replace(self._anchor, head=head)
        for path in self._anchor_files():
            try:
                if path.parent != self._site:
                    private_folder(path.parent)
                write_anchor(path, self._anchor, key)
            except OSError as error:
                if is_disk_full(error):
                    raise
                raise FedReasonError(
                    Code.DISK_FULL,
                    f"{path} cannot be written ({type(error).__name__}).",
                    "How far the ledger went must be known outside of it. Correct the permissions; another place for "
                    "what the machine knows is named by FEDREASON_STATE.",
                ) from None

    def _keys(self) -> list[str]:
        return list(dict.fromkeys([*site_keys(self._site), public_text(self._key())]))

    def _key(self) -> Ed25519PrivateKey:
        """Return the key as it is now: accepting a roster may have put a new one in its place."""
        return load_signing_key(self._site / "keys" / "signing")

    def _refresh(self) -> None:
        """Read the ledger again where it is not as this process left it."""
        if self._seen is None or self._seen != self._stat() or read_mark(self.folder) != self.head:
            self._read()

    def _read(self) -> None:
        chain = self._chain()
        if chain.torn or chain.mark != chain.heads[-1]:
            with self._path.open("r+b") as file:
                file.truncate(chain.size)
                os.fsync(file.fileno())
        if chain.torn:
            _log.warning(
                "%s: %d bytes of a line that a crash cut short are removed; nothing had been released for it",
                self._path,
                chain.torn,
            )
        self._heads, self._last = chain.heads, chain.entries[-1] if chain.entries else None
        self._charged = Counter(entry.release.subject for entry in chain.entries)
        self._attempted = {entry.release.attempted for entry in chain.entries}
        if chain.mark != self.head:
            write_private(self.folder / MARK, mark_of(self.head))
        keys = self._keys()
        told = [read_anchor(path, keys) for path in self._anchor_files()]
        if not told or any(anchor is None or anchor.head != self.head for anchor in told):
            self._write_anchors(self.head, self._key())
        self._seen = self._stat()

    def _stat(self) -> tuple[int, ...]:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return ()
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _next(self, release: Release, key: Ed25519PrivateKey) -> Entry:
        from common.accounting import ORDERS

        last, rdp = self._last, cost(release)
        entry = Entry(
            sequence=self.head.sequence + 1,
            previous=self.head.sha256,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            release=release,
            retry=release.subject in self._charged,
            orders=ORDERS,
            rdp=rdp,
            rdp_sum=summed(last, ORDERS, rdp),
            total_variation_sum=release.total_variation + (last.total_variation_sum if last else 0.0),
            epsilon=0.0,
            key=fingerprint(public_text(key)),
        )
        return replace(entry, epsilon=spent(entry))

    def _require(self, entry: Entry, cap: float) -> None:
        if entry.epsilon <= cap and math.isfinite(entry.epsilon):
            return
        release = entry.release
        raise FedReasonError(
            Code.BUDGET_SPENT,
            f"Round {release.round} of run '{release.run}' would bring epsilon from {self.epsilon:.4g} to "
            f"{entry.epsilon:.4g} at delta {release.delta:g}; the cap is {cap:g}.",
            "Nothing was released or charged. Wait for runs that cost less, or let the privacy officer raise the cap.",
        )

    def _take(self, entry: Entry) -> None:
        self._heads.append(entry.head)
        self._last = entry
        self._charged[entry.release.subject] += 1
        self._attempted.add(entry.release.attempted)
        self._seen = self._stat()
