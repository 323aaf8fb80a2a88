"""A site's real processes without its network, and what is done to them once an attempt is charged."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from client.node.computing import Computing, Stopped
from client.node.inbox import Inbox
from client.privacy.ledger import Ledger
from client.site.config import load_site
from client.site.stage import Stage
from client.training.states import FILE, read_attempts
from common.config import RunConfig
from common.messages.kinds import Task


class Site:
    """The node's side of a site, without its network."""

    def __init__(self, folder: Path, config: RunConfig, size: int) -> None:
        self.folder, self.config, self.size = folder, config, size
        self.inbox = Inbox(folder / "state" / "inbox")
        self.stopping = False
        self.watched: Any = lambda: None
        self.staged: Callable[[Stage], None] = lambda _: None
        nothing = lambda *_, **__: None  # noqa: E731
        status = SimpleNamespace(announce=nothing, tell=nothing, loads=nothing, contact=nothing, stage=self._stage)
        self.computing = Computing(folder, load_site(folder), status, self.inbox, self._go_on, lambda: None)  # type: ignore[arg-type]

    def _go_on(self) -> None:
        self.watched()
        if self.stopping:
            raise Stopped

    def _stage(self, stage: Stage) -> None:
        self.staged(stage)

    def stop(self) -> None:
        self.stopping = True

    def ask(self, number: int, attempt: int = 0) -> Any:
        adapter = np.zeros(self.size, dtype=np.float32)
        return self.computing.answer("train", Task(self.config, number, attempt, adapter))

    @property
    def deaths(self) -> int:
        """How many attempts of the run ended in silence through no one's wish."""
        return read_attempts(self.folder).deaths.get(self.config.name, 0)

    @property
    def charged(self) -> list[tuple[int, int]]:
        return [(entry.release.round, entry.release.attempt) for entry in Ledger.opened(self.folder).entries()]


def once_charged(site: Site, then: Any) -> None:
    """Do something as soon as one more attempt is charged and that is written down: from then on its end is silence."""
    path = site.folder / "state" / FILE
    ended = threading.Event()

    def charged() -> int:
        return path.read_bytes().count(b'"charged"') if path.exists() else 0

    before = charged()

    def watch() -> None:
        while not ended.wait(0.005):
            if charged() > before:
                then()
                return

    threading.Thread(target=watch, daemon=True).start()
