"""What a site does when asked, whoever carries the message; whatever goes wrong becomes a refusal with a number."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from client.node.told import number_of
from client.site.opened import Opened
from client.training.engine import require_working
from client.training.maker import Making
from client.training.requests import contribute, estimate, evaluate, layout
from client.training.secure import take_part
from client.training.states import Silent
from client.training.workplace import Workplace
from common.cli import unexpected
from common.errors import FedReasonError
from common.logs import logger
from common.messages.kinds import Refusal, Reply, Request, Task

_log = logger("site")
_sites: dict[Path, Workplace] = {}

HANDLERS: Mapping[str, Callable[[Workplace, Task], Reply]] = {
    Request.LAYOUT: layout,
    Request.ESTIMATE: estimate,
    Request.CONTRIBUTION: contribute,
    Request.SECURE: take_part,
    Request.EVALUATION: evaluate,
}
"""By Flower's message type."""


def answer(folder: Path, handle: Callable[[Workplace, Task], Reply], task: Task) -> Reply:
    """Let the site of a folder handle a task. An error travels as its number, its text stays in the site's log.

    Raises
    ------
    Silent
        Where nothing may leave.
    """
    name = folder.name
    try:
        site = resident_site(folder)
        name, started = site.name, time.monotonic()
        reply = handle(site, task)
        _log.info("%s: round %d, %s in %.2f s", name, task.round, handle.__name__, time.monotonic() - started)
        return reply
    except Silent:
        raise
    except FedReasonError as error:
        return refusal(name, error)
    except Exception as error:
        return refusal(name, unexpected(error))


def works() -> bool:
    """Whether what computes here still can: a GPU that is lost to a process stays lost to it, and so does an engine."""
    try:
        require_working()
    except Exception as error:
        _log.error("this process can compute no more: %s", unexpected(error))
        return False
    return True


def refusal(name: str, error: FedReasonError) -> Refusal:
    """Log an error and return what the coordinator is told of it."""
    _log.error("%s: %s", name, error)
    if isinstance(error, Making):
        return Refusal(name, int(error.code), (error.progress.step, error.progress.steps))
    return Refusal(name, number_of(error))


def resident_site(folder: Path, opened: Opened | None = None) -> Workplace:
    """Return the site of a folder, opened once per process."""
    if folder not in _sites:
        site = Workplace(folder, opened)
        if site.config.threads:
            torch.set_num_threads(site.config.threads)
        _sites[folder] = site
    return _sites[folder]
