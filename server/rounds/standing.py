"""How a run stands now, in `standing.json` of its run folder: whom it waits for, who refused, why it stopped.

The run writes it at each change, commands read it at any time. It is told for people; nothing resumes from it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from pydantic import Field, ValidationError

from common.cli import disk_full, is_disk_full
from common.errors import Code, FedReasonError
from common.logs import logger
from common.toml import Strict

FILE = "standing.json"

State = Literal["waiting", "running", "paused", "finished", "stopped", "aborted"]
ExchangeName = Literal["layout", "train", "evaluate", "ask"]

_log = logger("server")
_CONTACT_SECONDS = 10.0


class SiteEstimate(Strict):
    """A site's answer to the question before a run: what a group takes there, or the number of its refusal."""

    site: str
    seconds_per_group: float | None = None
    size: int | None = None
    code: int | None = None


class Standing(Strict):
    """Content of standing.json.

    `since` is when this state, round or exchange began. `seconds` and bytes are those of the last finished round.
    `collapse` says how the training of the latest rounds has collapsed. `stages` is what sites said they do before they
    can answer.
    `contact` says when each site last gave a sign of life. In the exchange under way `asked` says when each site was
    sent its task, and `answered` after how many seconds it answered. `code`, `found` and `fix` say why a run stopped.
    """

    state: State = "waiting"
    round: int = 0
    rounds: int = 0
    exchange: ExchangeName | None = None
    since: datetime
    waiting_for: tuple[str, ...] = ()
    refused: dict[str, int] = Field(default_factory=dict)
    stages: dict[str, str] = Field(default_factory=dict)
    contact: dict[str, datetime] = Field(default_factory=dict)
    asked: dict[str, datetime] = Field(default_factory=dict)
    answered: dict[str, float] = Field(default_factory=dict)
    seconds: float | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    collapse: tuple[str, ...] = ()
    code: int | None = None
    found: str | None = None
    fix: str | None = None
    estimates: tuple[SiteEstimate, ...] = ()

    @property
    def alive(self) -> bool:
        """Whether the run is under way, as far as it tells itself."""
        return self.state in ("waiting", "running", "paused")

    @property
    def ended(self) -> bool:
        """Whether the run is over for good; one that stopped may go on."""
        return self.state in ("finished", "aborted")


def ask_file(folder: Path, run_id: int) -> Path:
    """Return where a question before a run is answered: one file for each run of Flower's, so no two share it."""
    return folder / f"ask-{run_id}.json"


def read_standing(path: Path) -> Standing | None:
    """Return what a run last told, None where there is nothing to read."""
    try:
        return Standing.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError):
        return None


class StandingFile:
    """A run's standing while it runs; as a context it also tells how the run ended.

    Parameters
    ----------
    path
        File to write; None where nobody wants to read it.
    rounds
        Rounds of the run.
    """

    def __init__(self, path: Path | None, rounds: int = 0) -> None:
        self._path = path
        self._parent = os.getppid()
        self._written = -_CONTACT_SECONDS
        self.current = Standing(since=datetime.now(UTC), rounds=rounds)

    def tell(self, **changes: Any) -> None:
        """Change some values. Written at once; a change of `contact` alone can wait some seconds."""
        old = self.current
        if any(name in changes and changes[name] != getattr(old, name) for name in ("state", "round", "exchange")):
            changes["since"] = datetime.now(UTC)
        self.current = Standing.model_validate(old.model_dump() | changes)
        due = time.monotonic() - self._written >= _CONTACT_SECONDS
        if due or self.current.model_copy(update={"contact": old.contact}) != old:
            self._write()

    def _write(self) -> None:
        """Replace the file. Where the disk is full the run has better reasons to stop than this."""
        self._written = time.monotonic()
        if self._path is None:
            return
        text = json.dumps(self.current.model_dump(mode="json"), indent=1)
        fresh = self._path.with_name(self._path.name + ".new")
        try:
            fresh.write_text(text, encoding="utf-8")
            fresh.replace(self._path)
        except OSError as error:
            fresh.unlink(missing_ok=True)
            _log.warning("%s cannot be written (%s)", self._path, type(error).__name__)

    def __enter__(self) -> Self:
        """Write the first standing."""
        self._write()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Write how the run ended. A full disk is told by its number."""
        if error is None:
            self.tell(state="finished", round=self.current.rounds, exchange=None, waiting_for=(), stages={})
            return
        refusal = disk_full(error) if isinstance(error, OSError) and is_disk_full(error) else error
        self.tell(**self._ending(refusal))
        if refusal is not error:
            raise refusal from None

    def _ending(self, error: BaseException) -> Mapping[str, object]:
        """Return the last values of a run that ended by `error`."""
        state: State = "stopped"
        if not isinstance(error, FedReasonError):
            if isinstance(error, Exception):
                error = FedReasonError(
                    Code.RUN_FAILED,
                    f"The run failed unexpectedly ({type(error).__name__}).",
                    "See the log of the run, then start it again: it goes on from its last round.",
                )
            elif os.getppid() == self._parent:
                state = "aborted"
                error = FedReasonError(
                    Code.RUN_ABORTED,
                    "The run was stopped from outside.",
                    "Start it again, where it should go on from its last round.",
                )
            else:
                error = FedReasonError(
                    Code.COORDINATOR_DOWN,
                    "The coordinator's services ended while the run was under way.",
                    "Start them, then start the run again: it goes on from its last round.",
                )
        return {"state": state, "code": int(error.code), "found": error.found, "fix": error.fix}
