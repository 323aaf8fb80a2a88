"""A coordinator of one secure sum over real site folders in this process, an exchange at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from client.site.kit import accepted_roster
from client.training.secure import take_part
from client.training.workplace import Workplace
from common.config import RunConfig
from common.identity.roster import Roster
from common.messages.kinds import Step, Task
from common.secagg.messages import ToServer, ToSite, message_of, parts_of
from common.secagg.server import Server
from common.secagg.session import Session, model_sha256
from common.secagg.terms import terms_of


class Coordinator:
    """One session over real site folders, an exchange at a time."""

    def __init__(
        self,
        config: RunConfig,
        folders: Mapping[str, Path],
        attempt: int = 0,
        opened: Callable[[Path], Workplace] = Workplace,
    ) -> None:
        self.config, self.places = config, {name: opened(path) for name, path in folders.items()}
        some = next(iter(self.places.values()))
        engine = some.engine(config)
        self.size = engine.layout.size
        self.adapter = np.zeros(self.size, dtype=np.float32)
        self.roster: Roster = accepted_roster(some.folder)
        model = model_sha256(self.adapter, engine.layout_sha256())
        self.session = Session.of(config, self.roster, round=1, attempt=attempt, model_sha256=model)
        self.attempt = attempt
        self.server = Server(
            session=self.session, terms=terms_of(config, self.size), roster=self.roster, invited=self.roster.sites
        )

    def task(self, message: ToSite) -> Task:
        """Return the task that carries a message."""
        step = parts_of(message).head
        return Task(self.config, 1, self.attempt, self.adapter if step["kind"] == "opening" else None, step=step)

    def exchange(self, without: str | None = None) -> tuple[dict[str, Task], dict[str, Step]]:
        """Do one exchange; one site may be lost in it."""
        tasks = {site: self.task(message) for site, message in self.server.proceed().items()}
        answers = {site: take_part(self.places[site], task) for site, task in tasks.items() if site != without}
        for answer in answers.values():
            self.server.take(told(answer))
        return tasks, answers


def told(answer: Step) -> ToServer:
    """Return the message that a site's answer holds."""
    message: Any = message_of(answer.message, {} if answer.words is None else {"words": answer.words})
    return message  # type: ignore[no-any-return]
