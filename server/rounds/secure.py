"""The secure sum of a round: five exchanges in which the coordinator learns the sum of the sites, and of none its part.

What fails is begun again as the next attempt, with everything fresh. Which attempt a round is at stands on the disk
before it begins: no site answers one twice.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import get_args

import numpy as np

from common.arrays import Integers
from common.errors import Code, FedReasonError
from common.identity.roster import Roster
from common.logs import logger
from common.messages.heads import Gathered
from common.messages.kinds import Layout, Refusal, Reply, Step, Task, payload_bytes
from common.secagg.messages import Opening, ToServer, ToSite, message_of, parts_of
from common.secagg.server import Server
from common.secagg.session import Session, model_sha256
from common.secagg.terms import fewest_survivors, terms_of, threshold
from server.rounds.exchange import Exchange
from server.rounds.refusals import told
from server.rounds.store import RunStore

ATTEMPTS = 3
"""How often a round is begun before the run stops, as many as a site's policy allows by default."""

_log = logger("server")


@dataclass
class SecureSum:
    """What a round came to; `total` is zero where it failed."""

    total: Integers
    sites: list[str] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    bytes_up: int = 0
    bytes_down: int = 0


def secure_sum(
    task: Task, exchange: Exchange, layout: Layout, store: RunStore, ledgers: Gathered, faults: dict[str, int]
) -> SecureSum:
    """Sum the sites' parts of a round; a sum of fewer than the quorum is none.

    Who refuses at once would do so again: only a session that sites were lost from is begun once more, without those
    whose fault that was. `faults` keeps these, with the number of what they did: no later sum asks them either.

    Raises
    ------
    FedReasonError
        ROSTER_MISSING where the exchange has no roster.
    """
    if exchange.roster is None:
        raise FedReasonError(
            Code.ROSTER_MISSING,
            f"Run '{task.config.name}' states secure aggregation, and there is no roster of the sites' keys.",
            "Admit the sites (`python -m server admit`); a simulation is prepared by `python -m simulation`.",
        )
    gathered = SecureSum(np.zeros(layout.size, dtype=np.int64))
    for _ in range(ATTEMPTS):
        gathered.sites, gathered.refused, gathered.counts = [], dict(faults), Counter()
        if len(exchange.roster.sites) - len(faults) < task.config.quorum:
            break  # each site that is asked counts the attempt
        attempt = store.begin_attempt(task.round)
        session = _Session(replace(task, attempt=attempt), exchange, exchange.roster, layout, gathered, ledgers)
        try:
            session.run()
        except FedReasonError as error:
            _log.warning("round %d, attempt %d: %s", task.round, attempt + 1, error)
            faults |= {site: gathered.refused.get(site, int(error.code)) for site in session.at_fault}
            gathered.refused |= faults
            if session.opened or Code.SECAGG_REPLAYED in gathered.refused.values():
                continue
        break
    return gathered


class _Session:
    """One attempt at a round."""

    def __init__(
        self,
        task: Task,
        exchange: Exchange,
        roster: Roster,
        layout: Layout,
        gathered: SecureSum,
        ledgers: Gathered,
    ) -> None:
        assert task.adapter is not None
        self._task, self._exchange, self._gathered, self._ledgers = task, exchange, gathered, ledgers
        self.opened = False
        self._terms, self._quorum = terms_of(task.config, layout.size), task.config.quorum
        model = model_sha256(task.adapter, layout.sha256)
        self._server = Server(
            session=Session.of(task.config, roster, round=task.round, attempt=task.attempt, model_sha256=model),
            terms=self._terms,
            roster=roster,
            invited=[site for site in roster.sites if site not in gathered.refused],
            fewest=self._quorum,
        )

    @property
    def at_fault(self) -> set[str]:
        """Sites without which the round is begun once more."""
        return self._server.at_fault

    def run(self) -> None:
        """Do all exchanges, and leave the sum in `gathered`.

        Raises
        ------
        FedReasonError
            SECAGG_INCOMPLETE, or SECAGG_SHARE where the sum cannot be unmasked.
        """
        cohort = self._exchanged(self._quorum, pause=True)
        self.opened = True
        sharers = self._exchanged(max(self._quorum, threshold(cohort)))
        fewest = fewest_survivors(self._terms, cohort=cohort, sharers=sharers)
        self._exchanged(max(self._quorum, fewest))
        self._exchanged(fewest)
        self._exchanged(threshold(cohort))  # who signed has bound the noise: t who reveal find the sum
        self._gathered.total = self._server.total(threads=os.cpu_count() or 1)
        self._gathered.sites = list(self._server.survivors)

    def _exchanged(self, needed: int, *, pause: bool = False) -> int:
        """Do the next exchange and return how many sites are left; it stops as soon as they will be too few."""
        tasks, taken = self._tasks(self._server.proceed()), list[str]()

        def enough() -> bool:
            return len(taken) >= needed

        self._gathered.bytes_down += sum(payload_bytes(task) for task in tasks.values())
        for reply in self._exchange.steps(tasks, enough, pause=pause):
            self._gathered.bytes_up += payload_bytes(reply)
            taken += [reply.site] if self._took(reply) else []
            if len(taken) + len(self._server.waiting) < needed:
                break
        if len(taken) < needed:
            raise FedReasonError(
                Code.SECAGG_INCOMPLETE,
                f"{len(taken)} sites are left in the secure sum, and it takes {needed}.",
                "The round is begun once more, with everything fresh.",
            )
        return len(taken)

    def _tasks(self, messages: Mapping[str, ToSite]) -> dict[str, Task]:
        """Return each site's task, the same object where the message is; the adapter goes with the first alone."""
        made: dict[int, Task] = {}
        for message in messages.values():
            adapter = self._task.adapter if isinstance(message, Opening) else None
            step = parts_of(message).head
            made.setdefault(id(message), replace(self._task, adapter=adapter, step=step))
        return {site: made[id(message)] for site, message in messages.items()}

    def _took(self, reply: Reply) -> bool:
        """Take one reply, and say whether it is of use."""
        code = reply.code if isinstance(reply, Refusal) else int(Code.RUN_REPLY)
        if isinstance(reply, Step) and (reply.round, reply.attempt) == (self._task.round, self._task.attempt):
            self._ledgers.take(reply.site, reply.ledgers)
            try:
                self._server.take(self._message(reply))
            except FedReasonError as error:
                _log.warning("%s", error)
                code = int(error.code)
                if error.code is not Code.SECAGG_TURN:  # what comes late, or twice, is nobody's fault
                    self.at_fault.add(reply.site)
            else:
                self._gathered.counts.update(reply.counts or {})
                return True
        _log.warning("left out of the secure sum: %s", told(reply.site, code))
        self._server.lose(reply.site)
        self._gathered.refused[reply.site] = code
        return False

    def _message(self, reply: Step) -> ToServer:
        """Return the message of the site that sent the reply; RUN_REPLY for another's, or none of a site."""
        message = message_of(reply.message, {} if reply.words is None else {"words": reply.words})
        if not isinstance(message, get_args(ToServer)) or getattr(message, "site", None) != reply.site:
            raise FedReasonError(Code.RUN_REPLY, f"{reply.site} sent no message of its own.", "It is left out.")
        checked: ToServer = message
        return checked
