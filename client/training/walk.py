"""The one way of a task through a site: allowed -> charged -> computing -> sent, or silence.

Every request goes it (`client.training.requests`), so that what must come before what stands here and nowhere else:
once coins are tossed only a noised sum may leave, and it is charged before. How far an attempt came is on the disk
(`client.training.states`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from client.privacy.chain import ledger_folder
from client.privacy.ledger import Release
from client.privacy.peers import hear_of_peers, heard_of_peers
from client.training.allowed import Allowed
from client.training.gate import check
from client.training.states import FILE, Attempt, Silent, State, answering, silence
from client.training.workplace import Workplace
from common.logs import logger
from common.messages.heads import Heads
from common.messages.kinds import Contribution, Estimate, Evaluation, Layout, Step, Task

_log = logger("site")

Answer = TypeVar("Answer", Layout, Estimate, Contribution, Step, Evaluation)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Work(Generic[Answer]):
    """What an allowed task comes to: the computation, and the release that it is charged as; None where it is free.

    All that a record decides belongs into the computation: whoever plans it only gets ready, and may still refuse. A
    charged computation never refuses: what fails in it fails in silence.
    """

    compute: Callable[[], Answer]
    release: Release | None = None


def walk(
    place: Workplace, task: Task, plan: Callable[[Workplace, Allowed], Work[Answer]], *, records: bool = True
) -> Answer:
    """Take a task through a site.

    Parameters
    ----------
    plan
        Says what an allowed task comes to.
    records
        Whether records serve the answer.

    Raises
    ------
    FedReasonError
        Where the gate does not let it through, it cannot be computed, or the budget does not suffice: always before
        coins are tossed.
    Silent
        Where this attempt was charged and begun before, or its computation failed: nothing may leave for it.
    """
    allowed = check(place, task, records=records)
    if task.config.privacy is not None:
        hear_of_peers(ledger_folder(place.folder), place.name, task.ledgers, allowed.roster)
    work = plan(place, allowed)
    if work.release is None:
        return work.compute()

    def told() -> Answer:
        answer = work.compute()
        return answer if isinstance(answer, Estimate) else replace(answer, ledgers=heads(place, task))

    return charged(place, allowed, work.release, told)


def charged(place: Workplace, allowed: Allowed, release: Release, compute: Callable[[], Result]) -> Result:
    """Charge a release, then compute it; what the walk does, and a secure sum in the middle of its own.

    Raises
    ------
    FedReasonError, Silent
        As `walk` does.
    """
    attempt = Attempt(*release.attempted)
    _admit(place, allowed, release, attempt)
    place.attempts.enter(attempt, State.ALLOWED)
    place.ledger.charge(release, cap=allowed.policy.privacy.epsilon)
    with answering(place.attempts, attempt):
        return compute()


def _admit(place: Workplace, allowed: Allowed, release: Release, attempt: Attempt) -> None:
    """Refuse one attempt too many, and be silent for one that was begun: it is not computed twice."""
    times, charged = place.ledger.charged(release)
    place.attempts.end_begun()
    known = place.attempts.state(attempt)
    if charged or known not in (None, State.ALLOWED):
        silence(place.attempts, attempt, wished=known is None)
        _log.warning("%s was begun before: nothing is computed or sent", attempt)
        if known is None:
            _log.warning(
                "not here: another site folder with the same ledger had a run of this name, or state/%s is gone; a run "
                "of another name goes on",
                FILE,
            )
        raise Silent
    place.attempts.require_person(attempt.run)
    allowed.policy.refuse_attempt(attempt.run, times)


def heads(place: Workplace, task: Task) -> Heads:
    """Heads of ledgers to show; a run without privacy charges nothing, and shows none."""
    if task.config.privacy is None:
        return {}
    return {**heard_of_peers(ledger_folder(place.folder)), place.name: place.ledger.head}
