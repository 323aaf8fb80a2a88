"""The one way of a task through a site: allowed -> charged -> computing -> released.

Every request goes it (`client.training.requests`), so that what must come before what stands here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from client.privacy.chain import ledger_folder
from client.privacy.ledger import Release
from client.privacy.peers import hear_of_peers, heard_of_peers
from client.training.gate import Allowed, check
from client.training.releases import charged
from client.training.workplace import Workplace
from common.messages.heads import Heads
from common.messages.kinds import Contribution, Estimate, Evaluation, Layout, Task

Answer = TypeVar("Answer", Layout, Estimate, Contribution, Evaluation)


@dataclass(frozen=True)
class Work(Generic[Answer]):
    """What an allowed task comes to: the computation, and the release that it is charged as; None where it is free.

    All that looks at records belongs into the computation: whoever plans it only gets ready, and may still refuse.
    """

    compute: Callable[[], Answer]
    release: Release | None = None


def walk(place: Workplace, task: Task, plan: Callable[[Workplace, Allowed], Work[Answer]]) -> Answer:
    """Take a task through a site.

    Parameters
    ----------
    plan
        Says what an allowed task comes to.

    Raises
    ------
    FedReasonError
        Where the gate does not let it through, it cannot be computed, or the budget does not suffice.
    """
    allowed = check(place, task)
    if task.config.privacy is not None:
        hear_of_peers(ledger_folder(place.folder), place.name, task.ledgers, allowed.roster)
    work = plan(place, allowed)
    if work.release is None:
        return work.compute()
    with charged(place.ledger, work.release, allowed.policy.privacy.epsilon):
        answer = work.compute()
    assert not isinstance(answer, Estimate), "what is of no patient is charged to nobody"
    return replace(answer, ledgers=heads(place, task))


def heads(place: Workplace, task: Task) -> Heads:
    """Heads of ledgers to show; a run without privacy charges nothing, and shows none."""
    if task.config.privacy is None:
        return {}
    return {**heard_of_peers(ledger_folder(place.folder)), place.name: place.ledger.head}
