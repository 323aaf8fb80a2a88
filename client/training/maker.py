"""The embedded model of a run, made in a process of its own so that a site goes on answering meanwhile.

The process ends with the one that started it: a site that is paused or stopped computes nothing.
"""

from __future__ import annotations

import time
from multiprocessing import get_context
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING

from common.codebook import Codebook, load_codebook
from common.config import TINY, RunConfig, load_config
from common.errors import Code, FedReasonError
from common.logs import logger, quiet_libraries
from common.model.making import STAGE, Progress, shown
from common.processes import die_with_parent
from common.tiny import Embedded

if TYPE_CHECKING:
    from rich.console import Console

ANSWER_SECONDS = 15.0
"""How long a question waits for the model before it is answered that it is being made."""
_log = logger("site")
_makers: dict[Path, SpawnProcess] = {}


class Making(FedReasonError):
    """The model is being made; `progress` is how far that is."""

    def __init__(self, run: str, progress: Progress) -> None:
        super().__init__(
            Code.MODEL_MAKING,
            f"The model of run {run} is being made here ({progress}).",
            "Wait: the coordinator asks again. `python -m client model --run FILE` makes it beforehand.",
        )
        self.run, self.progress = run, progress

    def __reduce__(self) -> tuple[type[Making], tuple[str, Progress]]:  # type: ignore[override]
        """Let it cross a process boundary unchanged."""
        return type(self), (self.run, self.progress)


def make(path: Path | None, console: Console) -> str:
    """Make the model of the run whose configuration is at `path`, with progress, and say where it is.

    Two of these at once make it once, and an interrupted one leaves nothing that counts as made.
    """
    model = Embedded.of() if path is None else Embedded.of_run(*load_config(path))
    if model is None:
        return "This run trains a model that you bring (model.base): there is nothing to make."
    if model.there:
        return f"{model.folder}: there already"
    quiet_libraries()
    with shown(console, STAGE) as report:
        return f"{model.made(report)}: made"


def embedded_model(config: RunConfig, path: Path) -> Embedded | None:
    """Return the model that a run trains here, by the site's codebook; None where there is nothing to make."""
    if config.model.base != TINY:
        return None
    try:
        return Embedded.of_run(config, load_codebook(path))
    except FedReasonError:
        return None


def require_made(config: RunConfig, codebook: Codebook) -> None:
    """Go on where the run's model is on this machine; else have it made, and refuse until it is.

    Raises
    ------
    FedReasonError
        MODEL_MAKING; SITE_WORKER where it could not be made.
    """
    model = Embedded.of_run(config, codebook)
    if model is None or model.there:
        return
    maker = _makers.get(model.folder)
    if maker is None:
        _log.info("%s: it is not on this machine yet", STAGE)
        maker = _makers[model.folder] = get_context("spawn").Process(target=_make, args=(model,), daemon=True)
        maker.start()
    until = time.monotonic() + ANSWER_SECONDS
    while maker.is_alive() and time.monotonic() < until:
        maker.join(0.2)
    if maker.is_alive():
        raise Making(config.name, model.progress or Progress("starting"))
    del _makers[model.folder]
    if not model.there:
        raise FedReasonError(
            Code.SITE_WORKER,
            f"The process that made the model of run {config.name} ended before it was done (status {maker.exitcode}).",
            "See the lines above in this log; most often the machine has too little memory.",
        )


def _make(model: Embedded) -> None:
    """Make a model in a process of its own; a refusal is logged and ends it."""
    die_with_parent()
    quiet_libraries()
    try:
        model.made()
    except FedReasonError as error:
        _log.error("%s", error)
        raise SystemExit(1) from None
