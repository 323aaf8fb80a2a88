"""What a round is carried by, over Flower's Grid or in one process: a task to every site, answers as they come."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Protocol

from common.identity.roster import Roster
from common.messages.kinds import Reply, Task


class Exchange(Protocol):
    """Carries a task to every site and yields what comes back, as it comes.

    `enough` says whether the answers taken so far make a quorum: short of it an exchange waits for sites that may still
    come. A refusal is yielded once nothing else is to be expected of that site in this exchange.
    """

    @property
    def expected(self) -> int:
        """Sites that can take part."""
        ...

    @property
    def absent(self) -> Collection[str]:
        """Sites that can take part and are offline."""
        ...

    @property
    def asked(self) -> Mapping[str, int]:
        """How many times the last task was sent to each site."""
        ...

    @property
    def roster(self) -> Roster | None:
        """Whose keys are trusted in a secure sum; None where there is none."""
        ...

    def layouts(self, task: Task, enough: Callable[[], bool]) -> Iterator[Reply]:
        """Ask which parameters each site would train; before anything else, and once."""
        ...

    def contributions(self, task: Task, enough: Callable[[], bool]) -> Iterator[Reply]:
        """Ask for each site's part of a round."""
        ...

    def steps(self, tasks: Mapping[str, Task], enough: Callable[[], bool], *, pause: bool) -> Iterator[Reply]:
        """Send each of these sites its own message of a secure sum; short of enough at the deadline it ends.

        With `pause` it goes on asking then, as the other exchanges of a round do.
        """
        ...

    def evaluations(self, task: Task, enough: Callable[[], bool]) -> Iterator[Reply]:
        """Ask for each site's held-out counts, or for those of the public questions where the task says so."""
        ...
