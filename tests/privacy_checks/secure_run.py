"""A secure sum in a run: nothing leaves in the open, all is charged before, every share is in it, none comes twice."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np

from client.privacy import mechanism
from client.training import contribution, releases, secure
from client.training.states import Silent
from common import synthetic
from common.config import RunConfig
from common.errors import Code, FedReasonError
from common.identity.keys import canonical
from common.messages.kinds import Task
from common.secagg.journal import Journal
from common.secagg.messages import Directory, Opening
from common.secagg.session import Session
from common.secagg.terms import Noise, share_sigma
from simulation.prepare import prepare
from tests.privacy_checks import Check
from tests.secure_session import Coordinator, told
from tests.whole_site import SIZE, FakeSite, Recorder, recorded, refused, run_of, task_of

Changes = Mapping[tuple[Any, str], Any]
_FEDERATION = {"sites": 5, "quorum": 4, "population": 100, "aggregation": "secure"}
_FIVE = {"hospitals": ["coast", "east", "north", "south", "west"], "patients": 4}
SHARED = {"noise": "distributed", "colluders": 1, "dropouts": 1}
_EXACT: dict[str, Any] = {"privacy": None, "lattice": {"bits": 20, "clip_norm": 1.0}}


@contextlib.contextmanager
def sites(changes: Changes, **sections: Any) -> Iterator[tuple[RunConfig, dict[str, Path], Recorder]]:
    """Give a run, its sites and the recorder of one of them, with a mutation in place."""
    config = run_of(**{"federation": _FEDERATION, "simulation": _FIVE, **sections})
    with TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folders = prepare(config, synthetic.codebook(), Path(name))
        seen = stack.enter_context(recorded(folders["north"]))
        for (place, what), changed in changes.items():
            stack.enter_context(patch.object(place, what, changed))
        yield config, folders, seen


def check_masked(changes: Changes) -> bool:
    """A run that states secure aggregation gets no sum in the open."""
    with sites(changes, **_EXACT) as (config, folders, seen):
        reply = seen.ask(FakeSite(folders["north"]), "train", task_of(config))
        return refused(reply) == Code.POLICY_REFUSED


def check_charged(changes: Changes) -> bool:
    """When a record is first used its share is charged, at what stands in the sum of all."""
    with sites(changes, privacy=SHARED) as (config, folders, seen):
        here = Coordinator(config, folders, opened=FakeSite)
        here.exchange()
        here.exchange()
        if seen.touched or seen.lines():
            return False
        secure.take_part(here.places["north"], here.task(here.server.proceed()["north"]))
        lines = {lines for _, lines in seen.touched}
        entries = here.places["north"].ledger.entries()
        assert config.privacy is not None
        charged = [(e.release.mechanism, e.release.sigma_units) for e in entries]
        return lines == {1} and charged == [("fedsgd-shared", config.privacy.sigma_units)]


def check_shares(changes: Changes) -> bool:
    """With one site lost the sum holds the other four's shares, no more and no less."""
    with sites(changes, privacy=SHARED) as (config, folders, seen):
        privacy = config.privacy
        assert privacy is not None
        here = Coordinator(config, folders, opened=FakeSite)
        here.exchange()
        here.exchange()
        here.exchange(without="west")
        here.exchange()
        here.exchange()
        here.server.total()
        share = share_sigma(privacy.sigma_units, sites=5, colluders=1, dropouts=1)
        drawn = [sigma for sigma, values in seen.noise if values.size == SIZE]
        added = sum((values for _, values in seen.noise), np.zeros(SIZE))
        near = abs(float(np.var(added)) / (4 * share**2) - 1) < 10 * (2 / SIZE) ** 0.5
        return drawn == [share] * 4 and 3 * share**2 >= privacy.sigma_units**2 and near


def check_once(changes: Changes) -> bool:
    """A sum without noise is masked once, whatever the run is called."""
    with sites(changes, **_EXACT) as (config, folders, _):
        for name in ("small", "other"):
            here = Coordinator(config.model_copy(update={"name": name}), folders, opened=FakeSite)
            here.exchange()
            here.exchange()
            try:
                here.exchange()
            except FedReasonError as error:
                return name == "other" and error.code is Code.SECAGG_REPLAYED
        return False


def check_configuration(changes: Changes) -> bool:
    """A site that is shown another temperature than the others takes no part with them, nor they with it.

    First the coordinator asks it for their session, then for one of its own, whose keys it hands to the others.
    """
    with sites(changes, **_EXACT) as (config, folders, _):
        here = Coordinator(config, folders, opened=FakeSite)
        other = config.model_copy(update={"grpo": config.grpo.model_copy(update={"temperature": 0.5})})
        theirs = here.task(here.server.proceed()["north"])
        if _turned_away(here, "north", replace(theirs, config=other)) is not Code.SECAGG_TURN:
            return False
        alone = replace(here.session, run_sha256=other.sha256)
        shown = replace(here.task(Opening(alone.id)), config=other)
        answers = {site: secure.take_part(here.places[site], theirs) for site in here.places if site != "north"}
        answers["north"] = secure.take_part(here.places["north"], shown)
        keys: dict[str, Any] = {site: told(answer) for site, answer in answers.items()}
        keys["north"] = replace(keys["north"], session=here.session.id)
        directory = here.task(Directory(here.session.id, tuple(keys.values())))
        return _turned_away(here, "south", directory) is Code.SECAGG_KEYS


def _turned_away(here: Coordinator, site: str, task: Task) -> Code | None:
    try:
        secure.take_part(here.places[site], task)
    except FedReasonError as error:
        return error.code
    return None


def check_silent(changes: Changes) -> bool:
    """A private site that died over its sum sends nothing in its place."""
    with sites(changes, privacy=SHARED) as (config, folders, _):
        here = Coordinator(config, folders, opened=FakeSite)
        here.exchange()
        here.exchange()
        inbox = here.task(here.server.proceed()["north"])
        secure.take_part(here.places["north"], inbox)
        try:
            secure.take_part(FakeSite(folders["north"]), inbox)
        except Silent:
            return True
        except FedReasonError:
            return False
        return False


def check_masking(changes: Changes) -> bool:
    """A private sum that was computed and cannot be masked leaves nothing behind, no refusal either."""
    with sites(changes, privacy=SHARED) as (config, folders, _):
        here = Coordinator(config, folders, opened=FakeSite)
        here.exchange()
        here.exchange()
        inbox = here.task(here.server.proceed()["north"])
        with patch.object(Journal, "mask", side_effect=FedReasonError(Code.SECAGG_REPLAYED, "Before.", "Anew.")):
            try:
                secure.take_part(here.places["north"], inbox)
            except Silent:
                return True
            except FedReasonError:
                return False
        return False


def _uncharged(place: Any, allowed: Any, release: Any, compute: Any) -> Any:
    return compute()


def _at_the_share(task: Any, force: Any, size: int, share: int | None) -> Any:
    return replace(releases.gradient_release(task, force, size, share), sigma_units=share)


def _all_of_it(config: Any, round_number: int, step: int, attempt: int, share: int | None = None) -> Any:
    return mechanism.Private(config)


def _check(name: str, check: Any, mutations: dict[str, Changes]) -> Check:
    broken = {what: partial(check, changes) for what, changes in mutations.items()}
    return Check(f"secure run: {name}", partial(check, {}), broken)


def _of_no_run(self: Session) -> bytes:
    return hashlib.sha256(canonical(asdict(replace(self, run_sha256="")))).digest()


_OPEN: Changes = {(RunConfig, "secure"): property(lambda _: False)}
CHECKS = [
    _check("masked", check_masked, {"the sum goes in the open too": _OPEN}),
    _check(
        "charged",
        check_charged,
        {
            "a share uncharged": {(secure, "charged"): _uncharged},
            "charged at one share": {(secure, "gradient_release"): _at_the_share},
        },
    ),
    _check(
        "shares",
        check_shares,
        {
            "every site adds all": {(contribution, "mechanism_of"): _all_of_it},
            "shares without a thought for the lost": {(Noise, "share"): lambda self, sites: self.sigma_units // 3},
        },
    ),
    _check("configuration", check_configuration, {"it is not of the session": {(Session, "id"): property(_of_no_run)}}),
    _check("once", check_once, {"sums are not remembered": {(secure, "_mask_once"): lambda *_: None}}),
    _check(
        "masking",
        check_masking,
        {"what fails after the sum is told": {(secure, "_silent_once_computed"): lambda *_: contextlib.nullcontext()}},
    ),
    _check("silent", check_silent, {"a refusal in place of the sum": {(secure, "Silent"): lambda: FedReasonError(
        Code.SECAGG_TURN, "It is gone.", "Ask again.")}}),
]  # fmt: skip
