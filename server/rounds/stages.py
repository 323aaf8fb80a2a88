"""How long each site took in each stage of a round, and how many bytes went there and came.

A stage is one exchange. The coordinator's own clock and messages say it; no site is asked for anything more.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from common.errors import Code
from common.identity.roster import Roster
from common.messages.kinds import Refusal, Reply, Task, payload_bytes
from server.rounds.exchange import Exchange


class Took(NamedTuple):
    """Seconds from the beginning of a stage to a site's answer, None where none came; bytes to it, and from it."""

    seconds: float | None = None
    down: int = 0
    up: int = 0


Stages = dict[str, dict[str, Took]]
"""By stage, in the order of their beginnings, and by site."""

TRAIN, EVALUATE, PUBLIC = "train", "evaluate", "public questions"
STEPS = {
    "opening": "advertise keys",
    "directory": "share",
    "inbox": "train and mask",
    "survivors": "consent",
    "consents": "reveal",
}
"""The exchanges of a secure sum by the message that begins each (`common.secagg.messages`)."""
_NOT_HEARD = frozenset({Code.RUN_ABSENT, Code.SITE_SILENT})
"""These stand for an answer that did not come."""


def stages_of(kept: Mapping[str, Mapping[str, Sequence[Any]]]) -> Stages:
    """Return what a run's store kept of a round."""
    return {
        stage: {
            sys.intern(site): Took(None if seconds is None else float(seconds), int(down), int(up))
            for site, (seconds, down, up) in sites.items()
        }
        for stage, sites in kept.items()
    }


class Timed:
    """An exchange that notes what each stage took; what is begun again within a round counts again."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._taken: Stages = {}

    def taken(self) -> Stages:
        """Return what the stages since the last call took."""
        taken, self._taken = self._taken, {}
        return taken

    @property
    def expected(self) -> int:
        """Sites that can take part."""
        return self._exchange.expected

    @property
    def absent(self) -> Collection[str]:
        """Sites that can take part and are offline."""
        return self._exchange.absent

    @property
    def asked(self) -> Mapping[str, int]:
        """How many times the last task was sent to each site."""
        return self._exchange.asked

    @property
    def roster(self) -> Roster | None:
        """Whose keys are trusted in a secure sum; None where there is none."""
        return self._exchange.roster

    def layouts(self, task: Task, enough: Callable[[], bool]) -> Iterator[Reply]:
        """Ask which parameters each site would train, which is of no round."""
        return self._exchange.layouts(task, enough)

    def contributions(self, task: Task, enough: Callable[[], bool]) -> Iterator[Reply]:
        """Ask for each site's part of a round."""
        return self._noted(TRAIN, lambda _: task, self._exchange.contributions(task, enough))

    def evaluations(self, task: Task, enough: Callable[[], bool]) -> Iterator[Reply]:
        """Ask for each site's held-out counts, or for those of the public questions."""
        stage = PUBLIC if task.public else EVALUATE
        return self._noted(stage, lambda _: task, self._exchange.evaluations(task, enough))

    def steps(self, tasks: Mapping[str, Task], enough: Callable[[], bool], *, pause: bool) -> Iterator[Reply]:
        """Send each of these sites its message of a secure sum."""
        kinds = {str((task.step or {}).get("kind")) for task in tasks.values()}
        stage = ", ".join(STEPS.get(kind, kind) for kind in sorted(kinds))
        return self._noted(stage, tasks.get, self._exchange.steps(tasks, enough, pause=pause))

    def _noted(self, stage: str, task_of: Callable[[str], Task | None], replies: Iterator[Reply]) -> Iterator[Reply]:
        began, sites = time.monotonic(), self._taken.setdefault(stage, {})
        sizes: dict[int, int] = {}
        for reply in replies:
            times, task, seconds, up = self.asked.get(reply.site, 0), task_of(reply.site), None, 0
            if task is not None and id(task) not in sizes:
                sizes[id(task)] = payload_bytes(task)
            if not (isinstance(reply, Refusal) and reply.code in _NOT_HEARD):
                seconds, up = time.monotonic() - began, payload_bytes(reply)
            _add(sites, reply.site, Took(seconds, times * sizes.get(id(task), 0), up))
            yield reply
            del reply  # memory does not grow with the sites: not while the next one is waited for


def _add(sites: dict[str, Took], site: str, more: Took) -> None:
    before = sites.get(site, Took())
    known = [one.seconds for one in (before, more) if one.seconds is not None]
    sites[site] = Took(round(sum(known), 2) if known else None, before.down + more.down, before.up + more.up)
