"""A site killed (-9) anywhere in a secure sum: what was begun is charged, nothing is answered twice, and it goes on.

It is killed before each write to the disk is synced, one after another, so between every pair of messages and of what
stands on the disk for them. Then it is started anew, asked for all of that again, and for the next attempt.
"""

from __future__ import annotations

import io
import os
import pickle
import signal
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from client.privacy.ledger import Ledger
from client.training import secure
from client.training.states import Attempts, Silent
from client.training.walk import charged
from common.config import RunConfig
from common.errors import FedReasonError
from common.messages.kinds import Task
from tests.common.secagg.cohort import Memory
from tests.privacy_checks import Check
from tests.privacy_checks.ledger import in_a_child
from tests.privacy_checks.secure_run import SHARED, Changes, sites
from tests.secure_session import Coordinator, told
from tests.whole_site import FakeSite

VICTIM = "north"
MESSAGES = ["advertisement", "shares", "masked", "consent", "revealed"]

Folders = Mapping[str, Path]


def check_killed(changes: Changes) -> bool:
    """Kill the site at every moment of a session, and hold what is left against what had left."""
    with sites(changes, privacy=SHARED) as (config, folders, _):
        seen = list(_lives(config, folders))
        ends = {None if left is None else tuple(left) for left in seen}
        return ends == {tuple(MESSAGES[:number]) for number in range(6)}


def _lives(config: RunConfig, folders: Folders) -> Iterator[list[str] | None]:
    """Yield the kinds of message that had left in each life; None where something was wrong afterwards."""
    warm = {folder: FakeSite(folder) for folder in folders.values()}
    _whole(Coordinator(config, folders, opened=warm.__getitem__))
    for moment in count(1):
        here = Coordinator(config, folders, 2 * moment, lambda folder: _anew(warm[folder]))
        status, told_of = in_a_child(partial(_session, here, moment))
        events = list(_read(told_of))
        left = [what for what, task in events if task is None and what in MESSAGES]
        again = {**warm, folders[VICTIM]: FakeSite(folders[VICTIM])}
        after = Coordinator(config, folders, 2 * moment + 1, lambda folder, again=again: _anew(again[folder]))  # type: ignore[misc]
        right = _is_right(folders, after, events, left)
        yield left if right else None
        if status == 0 or not right:
            return


def _anew(place: Any) -> Any:
    """Return a warm site as one that was started since: what stands on the disk is read anew."""
    for each in ("ledger", "attempts"):
        vars(place).pop(each, None)
    place.session = None
    return place


def _whole(here: Coordinator) -> None:
    for _ in MESSAGES:
        here.exchange()
    here.server.total()


def _session(here: Coordinator, moment: int, send: Callable[[bytes], object]) -> None:
    """Be all five sites in one session, and the one that dies before it syncs for the `moment`th time."""
    computing, fsync, syncs = secure.site_sum, os.fsync, [0]
    victims = False

    def dying(descriptor: int) -> None:
        syncs[0] += victims
        if victims and syncs[0] == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(descriptor)

    def seen(*arguments: Any) -> Any:
        if victims:
            send(pickle.dumps(("begun", None)))
        return computing(*arguments)

    os.fsync, secure.site_sum = dying, seen  # type: ignore[assignment]
    for kind in MESSAGES:
        tasks = {site: here.task(message) for site, message in here.server.proceed().items()}
        send(pickle.dumps((kind, tasks[VICTIM])))
        victims = True
        answers = [secure.take_part(here.places[VICTIM], tasks[VICTIM])]
        victims = False
        send(pickle.dumps((kind, None)))
        answers += [secure.take_part(here.places[site], task) for site, task in tasks.items() if site != VICTIM]
        for answer in answers:
            here.server.take(told(answer))
    here.server.total()


def _read(content: bytes) -> Iterator[tuple[str, Task | None]]:
    stream = io.BytesIO(content)
    while stream.tell() < len(content):
        yield pickle.load(stream)


def _is_right(folders: Folders, after: Coordinator, events: list[tuple[str, Task | None]], left: list[str]) -> bool:
    """Whether what was begun is charged once, nothing more is answered, and the next attempt is done and charged."""
    attempt = after.attempt - 1
    before = _charges(folders, attempt)
    if before > 1 or (("begun", None) in events and before != 1):
        return False
    for kind, task in reversed(events):
        try:
            if task is not None:
                secure.take_part(after.places[VICTIM], task)
        except (FedReasonError, Silent):
            continue
        if task is not None and (left or kind != MESSAGES[0]):
            return False
    Attempts(folders[VICTIM]).go_on()  # a person looks after each
    _whole(after)
    return _charges(folders, attempt) == before and _charges(folders, after.attempt) == 1


def _charges(folders: Folders, attempt: int) -> int:
    """Count the lines of the site's ledger for an attempt; every line must be right."""
    ledger = Ledger.opened(folders[VICTIM])
    ledger.verify()
    return sum(entry.release.attempt == attempt for entry in ledger.entries())


def _charged_after(place: Any, allowed: Any, release: Any, compute: Any) -> Any:
    total = compute()
    return charged(place, allowed, release, lambda: total)


_BROKEN: dict[str, Changes] = {
    "a journal in memory": {(secure, "JournalFile"): lambda path: Memory()},
    "charged once computed": {(secure, "charged"): _charged_after},
}
CHECKS = [
    Check(
        "secure run: kill -9 of a site",
        partial(check_killed, {}),
        {name: partial(check_killed, changes) for name, changes in _BROKEN.items()},
    )
]
