"""A site's part in the secure sum of a round: five messages, of which the third is its contribution, masked.

The session and its secrets live in the memory of the resident process alone, so that whoever finds none after a restart
cannot go on with it, and `state/secagg.json`, on the disk before each message leaves, forbids to begin it once more.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from client.policy.policy import Policy
from client.site.kit import accepted_roster
from client.training.allowed import Allowed, OpenSession
from client.training.contribution import site_sum
from client.training.releases import gradient_release, mechanism_of_gradients
from client.training.requests import required_adapter
from client.training.states import Attempt, Silent, State, silence
from client.training.walk import Work, charged, heads, walk
from client.training.workplace import Workplace
from common.arrays import Integers
from common.config import RunConfig
from common.errors import Code, FedReasonError
from common.identity.keys import load_signing_key, private_folder, write_private
from common.logs import logger, place_of
from common.messages.kinds import Step, Task
from common.secagg.messages import Inbox, Masked, Opening, ToSite, message_of, parts_of
from common.secagg.session import Session, model_sha256
from common.secagg.site import Site
from common.secagg.terms import FEWEST, Limits, terms_of, threshold

JOURNAL, MASKED = "secagg.json", "masked.txt"
_log = logger("site")


@dataclass(frozen=True)
class JournalFile:
    """A session's journal as a private file, on the disk when `write` returns."""

    path: Path

    def read(self) -> bytes | None:
        """Return its content, None where there is no file."""
        return self.path.read_bytes() if self.path.exists() else None

    def write(self, content: bytes) -> None:
        """Replace it."""
        private_folder(self.path.parent)
        write_private(self.path, content)


def take_part(place: Workplace, task: Task) -> Step:
    """Answer one message of a secure sum; the contribution is computed for the third, and charged before."""
    return walk(place, task, _step, records=_of_records(task))


def _of_records(task: Task) -> bool:
    """Whether records serve the answer: they do for the sum, and who opens a session sees that there can be one."""
    return task.step is None or task.step.get("kind") not in ("directory", "survivors", "consents")


def _step(place: Workplace, allowed: Allowed) -> Work[Step]:
    task, message = allowed.task, _message(allowed.task)
    if isinstance(message, Opening):
        place.session = None  # whatever was open is over, and its secrets are forgotten
        place.session = _opened(place, allowed)
    session = place.session
    if session is None or not session.is_of(task):
        raise _lost(place, task, message)
    session.allowed = allowed

    def compute() -> Step:
        with _silent_once_computed(place, task):
            answer = session.site.take(message)
        parts = parts_of(answer)
        counts = session.counts if isinstance(answer, Masked) else None
        words = parts.arrays.get("words")
        return Step(place.name, task.round, task.attempt, parts.head, words, counts, heads(place, task))

    return Work(compute)


@contextlib.contextmanager
def _silent_once_computed(place: Workplace, task: Task) -> Iterator[None]:
    """Surround the answer to a message: what fails after a private sum was computed is silence, as it is within it.

    A message out of turn is refused all the same: nothing is computed for it.
    """
    attempt = _attempt(task)
    before = place.attempts.state(attempt) if task.config.privacy is not None else State.SENT
    try:
        yield
    except Exception as error:
        if before is State.SENT or place.attempts.state(attempt) is not State.SENT:
            raise
        _log.error("%s was computed and cannot be masked: %s; nothing is sent", attempt, place_of(error))
        silence(place.attempts, attempt, lost=True)
        raise Silent from None


def _attempt(task: Task) -> Attempt:
    return Attempt(task.config.name, task.round, task.attempt, mechanism_of_gradients(task.config))


def _message(task: Task) -> ToSite:
    message = None if task.step is None else message_of(task.step, {})
    if not task.config.secure or not isinstance(message, get_args(ToSite)):
        raise FedReasonError(
            Code.RUN_REPLY,
            f"The coordinator sent something else than its part of a secure sum of run '{task.config.name}'.",
            "Nothing was computed. Install the same version of fedreason everywhere.",
        )
    checked: ToSite = message
    return checked


def _opened(place: Workplace, allowed: Allowed) -> OpenSession:
    task, config = allowed.task, allowed.task.config
    engine = place.engine(config)
    adapter, roster = required_adapter(task, engine.layout.size), accepted_roster(place.folder)
    model = model_sha256(adapter, engine.layout_sha256())
    site = Site(
        name=place.name,
        key=load_signing_key(place.folder / "keys" / "signing"),
        roster=roster,
        session=Session.of(config, roster, round=task.round, attempt=task.attempt, model_sha256=model),
        terms=terms_of(config, engine.layout.size),
        limits=limits_of(allowed.policy, config),
        store=JournalFile(place.folder / "state" / JOURNAL),
        contribute=lambda share: _contribution(place, share),
        clamp=config.privacy is not None,
    )
    return OpenSession(task, allowed, site)


def limits_of(policy: Policy, config: RunConfig) -> Limits:
    """Return what this site demands of a session: its own floor, and the threshold that goes with so many sites."""
    floor = max(policy.fewest_sites(config), FEWEST)
    most = config.federation.sites
    return Limits(cohort=floor, threshold=threshold(floor), attempts=policy.max_attempts, most=most)


def _contribution(place: Workplace, share: int | None) -> Integers:
    """Compute the site's sum for the session that is open; a private one is charged before.

    Parameters
    ----------
    share
        Standard deviation of the noise that this site adds, in units, where the sites share it.
    """
    session = place.session
    assert session is not None
    task, config, policy = session.opening, session.opening.config, session.allowed.policy
    log, engine = place.log(config), place.engine(config)
    maker, patients, team = place.maker(config), place.training(config), place.team(config)

    def compute() -> Integers:
        total, counted = site_sum(engine, maker, patients, task, log, share, team)
        session.counts = counted.told(private=config.privacy is not None) if policy.metrics == "plain" else None
        return total

    if config.privacy is None:
        total = compute()
        _mask_once(place.folder / "state" / MASKED, total)
        return total
    release = gradient_release(task, session.allowed.force, engine.layout.size, share)
    return charged(place, session.allowed, release, compute)


def _mask_once(path: Path, total: Integers) -> None:
    """Write down a sum without noise that is about to be masked; one that was masked before, in any run, is refused.

    Two sums with other survivors would subtract to it. Zeros, of a round in which nobody took part, may come again.

    Raises
    ------
    FedReasonError
        SECAGG_REPLAYED.
    """
    digest = hashlib.sha256(total.tobytes()).hexdigest()
    before = path.read_text().split() if path.exists() else []
    if digest in before:
        raise FedReasonError(
            Code.SECAGG_REPLAYED,
            "The sum is one that this site masked before, in another run or round.",
            "Nothing was sent. The coordinator asks for the round as a new attempt, which draws anew.",
        )
    if total.any():
        write_private(path, "\n".join([*before, digest]).encode())


def _lost(place: Workplace, task: Task, message: ToSite) -> Exception:
    """Return what answers a message of a session that this process does not have.

    Silence where its private sum was begun and has not left; one that was computed may have died on its way.
    """
    if task.config.privacy is not None:
        place.attempts.end_begun()
        state = place.attempts.state(_attempt(task))
        if state is State.SILENT or (state is State.SENT and isinstance(message, Inbox)):
            return Silent()
    return FedReasonError(
        Code.SECAGG_TURN,
        f"Round {task.round}, attempt {task.attempt} of run '{task.config.name}' is not open here: this site was"
        " started anew since, or another was opened.",
        "Nothing was computed. The coordinator goes on without this site, or asks for the round in a new attempt.",
    )
