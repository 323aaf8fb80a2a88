"""The question before a run: whether each site would take part, and how long a group takes there."""

from __future__ import annotations

from common.config import RunConfig
from common.logs import logger
from common.messages.kinds import Estimate, Refusal, Task
from server.rounds.grid import GridExchange
from server.rounds.refusals import told
from server.rounds.standing import SiteEstimate, StandingFile

_log = logger("server")


def ask_sites(config: RunConfig, exchange: GridExchange, standing: StandingFile) -> None:
    """Ask every site once and tell each answer as it comes; nothing of the run is started or changed."""
    answers: list[SiteEstimate] = []
    for reply in exchange.estimates(Task(config, 0, 0, None), lambda: True):
        if isinstance(reply, Estimate):
            answers.append(SiteEstimate(site=reply.site, seconds_per_group=reply.seconds_per_group, size=reply.size))
            _log.info("%s would take part: %g s a group", reply.site, reply.seconds_per_group)
        elif isinstance(reply, Refusal):
            answers.append(SiteEstimate(site=reply.site, code=reply.code))
            _log.info("%s", told(reply.site, reply.code))
        standing.tell(estimates=tuple(sorted(answers, key=lambda answer: answer.site)))
