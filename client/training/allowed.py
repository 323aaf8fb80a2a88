"""A task that the gate (`client.training.gate`) let through, and the secure sum that one of them opened."""

from __future__ import annotations

from dataclasses import dataclass

from client.policy.policy import Policy, PolicyInForce
from common.messages.kinds import Counts, Task
from common.secagg.site import Site


@dataclass(frozen=True)
class Allowed:
    """A task with what it was held against, each read once: the policy, and who is on the roster (None: a simulation).

    It is charged and released under the same policy.
    """

    task: Task
    force: PolicyInForce
    roster: frozenset[str] | None

    @property
    def policy(self) -> Policy:
        """The limits that were in force."""
        return self.force.policy


@dataclass
class OpenSession:
    """One session at this site: the task that opened it, and the latest that was let through."""

    opening: Task
    allowed: Allowed
    site: Site
    counts: Counts | None = None

    def is_of(self, task: Task) -> bool:
        """Whether a task belongs to it: once another roster is accepted none does, whose keys may be revoked there."""
        return _bound(self.opening) == _bound(task)


def _bound(task: Task) -> tuple[str, int, int, str | None]:
    return task.config.sha256, task.round, task.attempt, task.roster_sha256
