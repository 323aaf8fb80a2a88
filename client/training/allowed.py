"""A task that the gate let through, with what it was held against: nothing else is charged or computed."""

from __future__ import annotations

from dataclasses import dataclass

from client.policy.policy import Policy, PolicyInForce
from common.messages.kinds import Task


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
