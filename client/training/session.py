"""What is open of a secure sum at a site, from its first message to its last; it lives in memory alone."""

from __future__ import annotations

from dataclasses import dataclass

from client.training.allowed import Allowed
from common.messages.kinds import Counts, Task
from common.secagg.site import Site


@dataclass
class OpenSession:
    """One session at this site: the task that opened it, and the latest that was let through."""

    opening: Task
    allowed: Allowed
    site: Site
    counts: Counts | None = None

    def is_of(self, task: Task) -> bool:
        """Whether a task belongs to it."""
        own = self.opening
        return (own.config.sha256, own.round, own.attempt) == (task.config.sha256, task.round, task.attempt)
