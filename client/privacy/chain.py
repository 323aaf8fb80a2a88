"""Reading a ledger and checking it, without anything heavy: each line names the hash of the line before, and is signed.

Beside the lines lies a mark, written after each of them: the lines up to it must be there, and whole. What a crash cut
short lies just beyond the mark, and nothing was released for it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.privacy.entry import Entry, Rdp, cost, parsed, spent
from common.errors import Code, FedReasonError
from common.identity.keys import canonical, fingerprint, read_public, signature_holds
from common.messages.heads import START, Head

LEDGER = "ledger.jsonl"
MARK = "mark"
KIND = "ledger"

_DAMAGED = (
    "Nothing is released until it is put right. Keep state/ledger as it is and tell the privacy officer; "
    "a fresh ledger, or an older one, would be noticed by the other sites."
)
_ROLLED_BACK = (
    "Nothing is released until the latest ledger is back: an older one would allow the same budget to be spent twice. "
    "Tell the privacy officer."
)


def ledger_folder(folder: Path) -> Path:
    """Return where the ledger of a site folder lies."""
    return folder / "state" / "ledger"


@dataclass(frozen=True)
class Chain:
    """A ledger as it was read.

    Parameters
    ----------
    entries
        Its lines, each checked against the one before.
    heads
        Their numbers and hashes, from START.
    size, torn
        Bytes of them, and bytes after them that a crash left.
    mark
        Up to where the mark says that it goes.
    """

    entries: list[Entry]
    heads: list[Head]
    size: int
    torn: int
    mark: Head


def read_chain(folder: Path, keys: Sequence[str] | None = None) -> Chain:
    """Read a ledger, which may be in use, and check its chain; nothing is written.

    Parameters
    ----------
    folder
        `state/ledger` of a site.
    keys
        The site's public keys, oldest first, to check every signature; None to leave them unchecked.

    Raises
    ------
    FedReasonError
        LEDGER_DAMAGED naming the first line that is not as it was written, LEDGER_ROLLED_BACK where lines are missing
        that the mark saw, or the mark is older than the lines.
    """
    path = folder / LEDGER
    mark = read_mark(folder)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        content = b""
    later = read_mark(folder)
    *lines, rest = content.split(b"\n")
    entries: list[Entry] = []
    heads, size, check = [START], 0, _Check(keys)
    for number, line in enumerate(lines + [rest] * bool(rest), start=1):
        try:
            if number > len(lines):
                raise ValueError("its end is missing")
            entry = parsed(line)
            check.follows(entry, heads[-1])
        except ValueError as error:
            if size + len(line) + 1 >= len(content) and mark.sequence < number <= later.sequence + 1:
                break
            raise FedReasonError(Code.LEDGER_DAMAGED, f"{path}, line {number}: {error}.", _DAMAGED) from None
        entries.append(entry)
        heads.append(Head(number, hashlib.sha256(line).hexdigest()))
        size += len(line) + 1
    _require_mark(path, heads, mark, later)
    return Chain(entries, heads, size, len(content) - size, mark)


class _Check:
    """What a line must have in common with those before it."""

    def __init__(self, keys: Sequence[str] | None) -> None:
        self._keys = None if keys is None else {fingerprint(key): key for key in keys}
        self._place = {name: number for number, name in enumerate(self._keys or ())}
        self._last: Entry | None = None
        self._charged: set[tuple[str, int, str]] = set()

    def follows(self, entry: Entry, head: Head) -> None:
        """Refuse a line that does not follow; ValueError says why."""
        if entry.sequence != head.sequence + 1:
            raise ValueError(f"it has the number {entry.sequence}")
        if entry.previous != head.sha256:
            raise ValueError("it does not follow the line before, which was changed or replaced")
        if self._keys is not None:
            self._signed(entry, self._keys)
        if entry.retry != (entry.release.subject in self._charged):
            raise ValueError("it says wrongly whether it is a retry")
        last = self._last
        if entry.rdp_sum != summed(last, entry.orders, entry.rdp):
            raise ValueError("its RDP is not the sum of the releases")
        if entry.total_variation_sum != entry.release.total_variation + (last.total_variation_sum if last else 0.0):
            raise ValueError("its total variation is not the sum of the releases")
        if not 0 <= entry.epsilon < math.inf:
            raise ValueError("its epsilon is no number")
        if (
            last
            and last.orders == entry.orders
            and last.release.delta >= entry.release.delta
            and last.epsilon * (1 - 1e-6) > entry.epsilon
        ):
            raise ValueError("its epsilon is less than that of the line before")
        self._last = entry
        self._charged.add(entry.release.subject)

    def _signed(self, entry: Entry, keys: Mapping[str, str]) -> None:
        if entry.key not in keys:
            raise ValueError(f"it is signed by {entry.key}, which is in no signing.pub of keys/ and keys/old-*")
        if self._last and self._place[entry.key] < self._place[self._last.key]:
            raise ValueError("it is signed by a key that an earlier line had replaced")
        if not (
            signature_holds(entry.document, entry.signature, kind=KIND, signer=keys[entry.key])
            and base64.b64encode(base64.b64decode(entry.signature)).decode() == entry.signature
        ):
            raise ValueError("its signature does not hold")


def summed(last: Entry | None, orders: tuple[float, ...], rdp: Rdp) -> Rdp:
    """Add a release to all before it; those of a ledger with other orders are bounded at these ones, from above."""
    if last is None:
        return rdp
    before = last.rdp_sum
    if last.orders != orders:
        from common.accounting import between_orders

        between = between_orders(last.rdp_sum, last.orders, orders)
        before = tuple(None if value is None else math.ceil(value) for value in between)
    return tuple(None if a is None or b is None else a + b for a, b in zip(before, rdp, strict=True))


def site_keys(folder: Path) -> list[str]:
    """Return the public signing keys of a site folder, oldest first; private halves are not needed.

    Raises
    ------
    FedReasonError
        KEY_MISSING where there is none, or one cannot be read.
    """
    keys = folder / "keys"
    former = [path for aside in sorted(keys.glob("old-*")) if (path := aside / "signing.pub").exists()]
    waiting = [path for path in (keys / "next" / "signing.pub",) if path.exists()]
    return list(dict.fromkeys(read_public(path) for path in (*former, keys / "signing.pub", *waiting)))


def read_mark(folder: Path) -> Head:
    """Return what the mark says; START where there is none."""
    path = folder / MARK
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return START
    try:
        head = Head(**json.loads(content))
        formed = mark_of(head) == content and type(head.sequence) is int and type(head.sha256) is str
    except (ValueError, TypeError, RecursionError):
        formed = False
    if not formed:
        raise FedReasonError(Code.LEDGER_DAMAGED, f"{path} is not as the ledger writes it.", _DAMAGED)
    return head


def mark_of(head: Head) -> bytes:
    """Return the content of the mark for a head."""
    return canonical(head._asdict()) + b"\n"


def _require_mark(path: Path, heads: list[Head], mark: Head, later: Head) -> None:
    """Refuse lines that the mark does not agree with; `later` is the mark as it was after the lines were read."""
    last = heads[-1].sequence
    if mark.sequence > last:
        found = f"ends at line {last}, {MARK} beside it saw line {mark.sequence}"
    elif heads[mark.sequence] != mark:
        found = f"has another line {mark.sequence} than the one that {MARK} beside it saw"
    elif later.sequence < last - 1:
        found = f"goes to line {last}, {MARK} beside it only to {later.sequence}: one of them was put back or removed"
    else:
        return
    raise FedReasonError(Code.LEDGER_ROLLED_BACK, f"{path} {found}.", _ROLLED_BACK)


def compare_heads(own: Sequence[Head], seen: Mapping[str, Head]) -> None:
    """Refuse to go on where another site saw more of this ledger, or other lines.

    Parameters
    ----------
    own
        Heads of this ledger after each line, from START.
    seen
        What each of the other sites last saw of it.

    Raises
    ------
    FedReasonError
        LEDGER_ROLLED_BACK, naming the sites.
    """
    told = []
    for site, head in sorted(seen.items()):
        if not 0 <= head.sequence < len(own):
            told.append(f"{site} saw line {head.sequence}")
        elif own[head.sequence] != head:
            told.append(f"{site} saw another line {head.sequence}")
    if told:
        found = f"This site's ledger ends at line {own[-1].sequence}, but {', '.join(told)}."
        raise FedReasonError(Code.LEDGER_ROLLED_BACK, found, _ROLLED_BACK)


def recompute(entries: Sequence[Entry], path: Path) -> None:
    """Refuse lines whose RDP or epsilon is not what their mechanism costs; imports Opacus.

    Raises
    ------
    FedReasonError
        LEDGER_DAMAGED naming the first such line.
    """
    for entry in entries:
        if not _agree(entry.rdp, cost(entry.release, entry.orders)):
            what = "the RDP of its mechanism is another"
        elif not math.isclose(entry.epsilon, spent(entry), rel_tol=1e-6, abs_tol=1e-9):
            what = "the epsilon of its RDP is another"
        else:
            continue
        raise FedReasonError(Code.LEDGER_DAMAGED, f"{path}, line {entry.sequence}: {what}.", _DAMAGED)


def _agree(stored: Rdp, computed: Rdp) -> bool:
    return all(
        a == b or (a is not None and b is not None and abs(a - b) <= 2 + 1e-6 * b)
        for a, b in zip(stored, computed, strict=True)
    )
