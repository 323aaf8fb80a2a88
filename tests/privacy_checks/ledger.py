"""The ledger never under-charges, whatever happens to the process or the files, and no run goes past the cap."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import client.privacy.ledger
import common.identity.keys
from client.privacy.chain import LEDGER, MARK, ledger_folder, read_chain, site_keys
from client.privacy.entry import Entry, Release, cost
from client.privacy.ledger import Ledger
from client.site.anchor import ANCHOR
from common.errors import Code, FedReasonError
from common.identity.keys import new_signing_key, save_key
from common.processes import loading
from tests.paths import ROOT
from tests.privacy_checks import Check, on_broken

Step = Callable[[Ledger, Release, Callable[[], object]], None]
Open = Callable[[Path], Ledger]

CAP = 8.0
_TRACED = {client.privacy.ledger.__file__, common.identity.keys.__file__, __file__}


def release(round: int = 1, **changes: Any) -> Release:
    """Return a release of a run with 30 rounds, which cost 6.8133 in all."""
    fields = {
        "run": "trial",
        "round": round,
        "attempt": 0,
        "model_sha256": "a" * 64,
        "policy_sha256": "b" * 64,
        "mechanism": "fedsgd-local",
        "sigma_units": 44_000,
        "sensitivity_units": 11_000,
        "q": 1.0,
        "mu": 1,
        "steps": 1,
        "delta": 1e-5,
        "total_variation": 2.0**-100,
    }
    return Release(**{**fields, **changes})


def new_site(folder: Path) -> Path:
    """Give a folder a signing key, and return it."""
    save_key(folder / "keys" / "signing", new_signing_key())
    return folder


@contextmanager
def site() -> Iterator[Path]:
    """Make a site's folder in memory, where there is such a file system: a killed process leaves the same files."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield new_site(Path(folder) / "amc")


def filled(folder: Path, count: int, **changes: Any) -> Ledger:
    """Charge `count` releases."""
    ledger = Ledger.opened(folder)
    for number in range(1, count + 1):
        ledger.charge(release(number, **changes), cap=CAP)
    return ledger


def path_of(folder: Path) -> Path:
    """Return the file."""
    return ledger_folder(folder) / LEDGER


def refused(work: Callable[[], object], code: Code) -> str:
    """Return what a refusal says, which must have this code."""
    try:
        work()
    except FedReasonError as error:
        assert error.code is code, error
        return str(error)
    raise AssertionError(f"E{code.value} was expected")


def charge_then_send(ledger: Ledger, release: Release, send: Callable[[], object]) -> None:
    """Release something as a site does."""
    ledger.charge(release, cap=CAP)
    send()


def check_kill(step: Step) -> bool:
    """Killed (-9) before each line of the ledger's code: what left was charged, and the next start goes on."""
    with loading():
        cost(release())
    with site() as start:
        Ledger.opened(start).charge(release(1), cap=CAP)
        for line in count(1):
            with site() as folder:
                shutil.copytree(start, folder, dirs_exist_ok=True)
                (folder / "keys" / "signing").chmod(0o600)
                ended, sent = in_a_child(partial(_killed_at, line, folder, step))
                ledger = Ledger.opened(folder)
                ledger.verify()
                if len(ledger.entries()) < 1 + len(sent) or not goes_on(ledger):
                    return False
                if ended == 0:
                    return len(sent) == 1 and line > 50
    raise AssertionError


def check_kill_apart(step: str) -> bool:
    """Do `check_kill` in a process of its own: to fork one that holds every library of the tests takes far longer."""
    words = [sys.executable, "-m", "tests.privacy_checks.ledger", step]
    return bool(json.loads(subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout))


def _killed_at(line: int, folder: Path, step: Step, send: Callable[[bytes], object]) -> None:
    """Release something in a process that ends itself before its `line`-th line."""
    left = count(line, -1)

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename not in _TRACED:
            return None
        if event == "line" and next(left) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    step(Ledger.opened(folder), release(2), lambda: send(b"2"))
    sys.settrace(None)


def in_a_child(
    work: Callable[[Callable[[bytes], object]], None], after: float | None = None, sent: int = 0
) -> tuple[int, bytes]:
    """Run `work` in a fork, killed `after` seconds once it `sent` so many bytes; return its end and all it sent."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.close(reading)
            work(partial(os.write, writing))
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with open(reading, "rb") as pipe:
        told = pipe.read(sent)
        if after is not None:
            time.sleep(after)
            os.kill(child, signal.SIGKILL)
        told += pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), told


def goes_on(ledger: Ledger) -> bool:
    """Whether a release can be charged, to the full, after whatever was."""
    before = ledger.head.sequence, ledger.epsilon
    entry = ledger.charge(release(3), cap=CAP)
    return entry.sequence == before[0] + 1 and entry.epsilon > before[1]


def check_cap(step: Step) -> bool:
    """What leaves never adds up to more than the cap, and stops at the release that would cross it, not before."""
    sent: list[int] = []
    with site() as folder:
        ledger = Ledger.opened(folder)
        for number in range(1, 60):
            try:
                step(ledger, release(number), partial(sent.append, number))
            except FedReasonError as error:
                assert error.code is Code.BUDGET_SPENT
                break
        allowed = largest(CAP)
        return sent == list(range(1, allowed + 1)) and len(ledger.entries()) == allowed


def largest(cap: float) -> int:
    """Return how many releases stay within a cap, by the accountant alone."""
    from common.accounting import epsilon, rdp

    return next(
        number - 1
        for number in count(1)
        if epsilon(rdp(noise_multiplier=4.0, sampling_rate=1.0, steps=number), 1e-5) > cap
    )


def check_composes(opened: Callable[[Path, str], Ledger]) -> bool:
    """30 releases, in three runs with a restart before each, cost what 30 releases cost: 6.8133 within 1 %."""
    with site() as folder:
        for run in ("one", "two", "three"):
            ledger = opened(folder, run)
            for number in range(10):
                ledger.charge(release(number, run=run), cap=CAP)
        return abs(ledger.epsilon / 6.8133 - 1) <= 0.01


def check_flips(read: Callable[[Path], object]) -> bool:
    """A bit flipped anywhere in a small ledger or its mark is found."""
    with site() as folder:
        ledger = Ledger.opened(folder)
        for number in (1, 2):
            ledger.charge(release(number), cap=CAP)
        for path in (ledger_folder(folder) / LEDGER, ledger_folder(folder) / MARK):
            content = path.read_bytes()
            for place in range(0, len(content), 7):
                path.write_bytes(flipped(content, place, place % 8))
                if not found(partial(read, folder)):
                    return False
            path.write_bytes(content)
        read(folder)
    return True


def flipped(content: bytes, place: int, bit: int) -> bytes:
    """Return the content with one bit changed."""
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def found(read: Callable[[], object], *codes: Code) -> bool:
    """Whether a ledger is refused, as damaged or rolled back unless other codes are given."""
    try:
        read()
    except FedReasonError as error:
        return error.code in (codes or (Code.LEDGER_DAMAGED, Code.LEDGER_ROLLED_BACK))
    return False


def verified(folder: Path) -> list[Entry]:
    """Read a ledger and check every signature."""
    return read_chain(ledger_folder(folder), site_keys(folder)).entries


def check_mark(opened: Open) -> bool:
    """An older ledger, none, or one written anew is noticed by the mark beside it."""
    with site() as folder:
        old, latest, other = histories(folder)
        return all(
            found(partial(opened, put_back(folder, ledger, latest[MARK])), Code.LEDGER_ROLLED_BACK)
            for ledger in (old[LEDGER], None, other[LEDGER])
        )


def check_heads(opened: Open) -> bool:
    """Where the mark was put back too, the other sites notice, who saw the head of the latest ledger."""
    with site() as folder:
        old, latest, other = histories(folder)
        seen = {"berlin": opened(put_back(folder, latest[LEDGER], latest[MARK])).head}
        return all(
            found(partial(opened(put_back(folder, *files)).seen_by_peers, seen), Code.LEDGER_ROLLED_BACK)
            for files in ((old[LEDGER], old[MARK]), (None, None), (other[LEDGER], other[MARK]))
        )


def histories(folder: Path) -> Iterator[dict[str, bytes]]:
    """Yield ledger and mark after one release, after three, and after three others in a ledger begun anew."""
    place = ledger_folder(folder)
    for rounds, noise in (((1,), 44_000), ((2, 3), 44_000), ((1, 2, 3), 440_000)):
        if noise > 44_000:
            put_back(folder, None, None)
        for number in rounds:
            Ledger.opened(folder).charge(release(number, sigma_units=noise), cap=CAP)
        yield {name: (place / name).read_bytes() for name in (LEDGER, MARK)}


def put_back(folder: Path, ledger: bytes | None, mark: bytes | None) -> Path:
    """Replace the files of a ledger, None by nothing, and return the site's folder, which has no anchor then."""
    (folder / ANCHOR).unlink(missing_ok=True)
    for name, content in ((LEDGER, ledger), (MARK, mark)):
        path = ledger_folder(folder) / name
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
    return folder


def check_attempts() -> bool:
    """A part of a round that was computed is an attempt at it, whatever protocol the same run names then."""
    with site() as folder:
        ledger = filled(folder, 1, mechanism="fedsgd-local")
        counted = [ledger.charged(release(1, mechanism=name))[0] for name in ("fedsgd-shared", "fedavg", "metrics")]
        return counted == [1, 1, 0]


def _send_then_charge(ledger: Ledger, release: Release, send: Callable[[], object]) -> None:
    send()
    ledger.charge(release, cap=CAP)


def _uncharged(ledger: Ledger, release: Release, send: Callable[[], object]) -> None:
    send()


def _reset(folder: Path, run: str) -> Ledger:
    """Begin a ledger for each run."""
    (folder / ANCHOR).unlink(missing_ok=True)
    shutil.rmtree(ledger_folder(folder), ignore_errors=True)
    return Ledger.opened(folder)


def _skipping(folder: Path, run: str) -> Ledger:
    """Leave the last step of each run uncharged."""
    ledger = Ledger.opened(folder)
    charge = ledger.charge

    def skipping(release: Release, *, cap: float) -> Entry | None:
        return None if release.round == 9 else charge(release, cap=cap)

    ledger.charge = skipping  # type: ignore[method-assign, assignment]
    return ledger


def _unchained(folder: Path) -> list[Any]:
    """Read a ledger as any lines of JSON, as the outbox is read."""
    lines = []
    for line in (ledger_folder(folder) / LEDGER).read_bytes().splitlines():
        with suppress(ValueError):
            lines.append(json.loads(line))
    return lines


def _without_mark(folder: Path) -> Ledger:
    """Believe the file alone."""
    (ledger_folder(folder) / MARK).unlink(missing_ok=True)
    return Ledger.opened(folder)


class _Deaf(Ledger):
    """Asks no other site."""

    def seen_by_peers(self, seen: object) -> None:
        pass


CHECKS = [
    Check(
        "ledger: kill -9",
        partial(check_kill_apart, "charge_then_send"),
        {
            "debit after release": partial(check_kill_apart, "_send_then_charge"),
            "no debit": partial(check_kill_apart, "_uncharged"),
        },
    ),
    Check(
        "ledger: cap",
        partial(check_cap, charge_then_send),
        {"debit after release": partial(check_cap, _send_then_charge), "no debit": partial(check_cap, _uncharged)},
    ),
    Check(
        "ledger: composes",
        partial(check_composes, lambda folder, run: Ledger.opened(folder)),
        {"reset on a new run": partial(check_composes, _reset), "a step skipped": partial(check_composes, _skipping)},
    ),
    Check(
        "ledger: attempts",
        check_attempts,
        {
            "each protocol's apart": lambda: on_broken(
                check_attempts,
                "client.privacy.entry.Release.part",
                property(lambda release: [release.subject]),  # type: ignore[arg-type]
            )
        },
    ),
    Check("ledger: bit flips", partial(check_flips, verified), {"no chain": partial(check_flips, _unchained)}),
    Check("ledger: roll-back", partial(check_mark, Ledger.opened), {"no mark": partial(check_mark, _without_mark)}),
    Check(
        "ledger: heads", partial(check_heads, Ledger.opened), {"peers not asked": partial(check_heads, _Deaf.opened)}
    ),
]

if __name__ == "__main__":
    print(json.dumps(check_kill(globals()[sys.argv[1]])))
