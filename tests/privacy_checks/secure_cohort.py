"""Of whom a secure sum is: no more sites than the run was judged by, no fewer than its quorum, each of them once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from client.policy.policy import Policy
from client.training import allowed, secure
from common import synthetic
from common.config import RunConfig
from common.errors import Code, FedReasonError
from common.messages.kinds import Task
from common.secagg import keys
from common.secagg.messages import Directory, Survivors
from common.secagg.site import Site
from common.secagg.statement import sign_advertisement
from common.secagg.terms import FEWEST, Limits, Terms, share_sigma, terms_of
from simulation.prepare import prepare
from tests.common.secagg.cohort import Cohort
from tests.privacy_checks import Check
from tests.secure_session import Coordinator, told
from tests.whole_site import FakeSite, recorded, run_of

Changes = Mapping[tuple[Any, str], Any]
_FIVE = {"hospitals": ["coast", "east", "north", "south", "west"], "patients": 4}
_SITE = "north"
_consent = Site._consent


def _run(sites: int, quorum: int | None = None) -> RunConfig:
    federation = {"sites": sites, "quorum": quorum or sites - 1, "population": 100, "aggregation": "secure"}
    return run_of(
        federation=federation, privacy={"noise": "distributed", "colluders": 1, "dropouts": 1}, simulation=_FIVE
    )


@contextlib.contextmanager
def _session(changes: Changes, sites: int, quorum: int | None = None) -> Iterator[Coordinator]:
    """Give the coordinator of a session of five sites, whatever the run states, with a mutation in place."""
    with TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folders = prepare(_run(5), synthetic.codebook(), Path(name))
        for (place, what), changed in changes.items():
            stack.enter_context(patch.object(place, what, changed))
        yield Coordinator(_run(sites, quorum), folders, opened=FakeSite)


def check_stated(changes: Changes) -> bool:
    """Where more sites take part than the run states, none adds a smaller share of the noise than that number gives."""
    with _session(changes, 4) as here:
        privacy = here.config.privacy
        assert privacy is not None
        judged = share_sigma(privacy.sigma_units, sites=4, colluders=privacy.colluders, dropouts=privacy.dropouts)
        with recorded(here.places[_SITE].folder) as seen:
            try:
                for _ in range(3):
                    here.exchange()
            except FedReasonError as error:
                return error.code is Code.SECAGG_COHORT and not seen.noise
            return all(sigma >= judged for sigma, _ in seen.noise)


def check_floor(changes: Changes) -> bool:
    """A coordinator that says one of five is lost has no total of four, where the run says that five make a round.

    Whether it says so before the sums are masked, when nothing is computed or charged, or after.
    """
    for lost_at in (2, 3):
        with _session(changes, 5, quorum=5) as here, recorded(here.places[_SITE].folder) as seen:
            for number in range(1, lost_at + 1):
                here.exchange(without="west" if number == lost_at else None)
            survivors = {site: here.task(message) for site, message in here.server.proceed().items()}
            if _SITE not in survivors or len(survivors) != 4:
                return False
            for site, task in survivors.items():
                try:
                    secure.take_part(here.places[site], task)
                    return False
                except FedReasonError as error:
                    if error.code is not Code.SECAGG_SURVIVORS:
                        return False
            if lost_at == 2 and (seen.touched or seen.lines()):
                return False
    return True


def check_own_floor(changes: Changes) -> bool:
    """A site that asks for five signs no total of four, though four can open it and the run allows them to."""
    with contextlib.ExitStack() as stack:
        for (place, what), changed in changes.items():
            stack.enter_context(patch.object(place, what, changed))
        for lost_at in (2, 3):
            cohort = Cohort(5)
            cohort.sites["site-000"] = cohort.site("site-000", limits=Limits(cohort=5))
            cohort.until(lost_at - 1).exchange(["site-004"])
            messages = cohort.server.proceed()
            try:
                cohort.sites["site-000"].take(messages["site-000"])
                return False
            except FedReasonError as error:
                if error.code is not Code.SECAGG_SURVIVORS:
                    return False
            cohort.sites["site-001"].take(messages["site-001"])
        return True


def check_roster(changes: Changes) -> bool:
    """A session that was opened under one roster ends where another is accepted: a member may be revoked there."""
    with _session(changes, 5) as here:
        here.exchange()
        directory = here.task(here.server.proceed()[_SITE])
        try:
            secure.take_part(here.places[_SITE], replace(directory, roster_sha256="another"))
        except FedReasonError as error:
            return error.code is Code.SECAGG_TURN and bool(told(secure.take_part(here.places[_SITE], directory)))
        return False


def check_spelling(changes: Changes) -> bool:
    """A peer's key with the bit set that does not count (RFC 7748, section 5) is no key of another site's."""
    with contextlib.ExitStack() as stack:
        for (place, what), changed in changes.items():
            stack.enter_context(patch.object(place, what, changed))
        cohort = Cohort(5).until(1)
        message: Any = cohort.server.proceed()["site-000"]
        first, second, *others = message.advertisements
        spelled = others[0].mask_key[:-1] + bytes([others[0].mask_key[-1] | 0x80])
        fresh = X25519PrivateKey.generate().public_key().public_bytes_raw()
        copied = sign_advertisement(message.session, second.site, spelled, fresh, bytes(32), cohort.keys[second.site])
        try:
            cohort.sites["site-000"].take(Directory(message.session, (first, copied, *others)))
        except FedReasonError as error:
            return error.code is Code.SECAGG_KEYS
        return False


def _of_any_number(policy: Policy, config: RunConfig) -> Limits:
    return Limits(cohort=3, threshold=3, attempts=3)


def _of_any_quorum(config: RunConfig, size: int) -> Terms:
    return replace(terms_of(config, size), floor=FEWEST)


def _the_runs_alone(self: Limits, terms: Terms) -> int:
    return max(terms.floor, FEWEST)


def _of_keys_alone(self: Site, survivors: Survivors) -> Any:
    """Hold the floor against the sites that shared keys, and not against those whose sums are added."""
    self._limits, self._terms = replace(self._limits, cohort=FEWEST), replace(self._terms, floor=FEWEST)
    return _consent(self, survivors)


def _of_any_roster(task: Task) -> object:
    return task.config.sha256, task.round, task.attempt


def _check(name: str, check: Any, mutations: dict[str, Changes]) -> Check:
    broken = {what: partial(check, changes) for what, changes in mutations.items()}
    return Check(f"secure cohort: {name}", partial(check, {}), broken)


CHECKS = [
    _check("as stated", check_stated, {"any number of sites": {(secure, "limits_of"): _of_any_number}}),
    _check(
        "the run's quorum",
        check_floor,
        {
            "the coordinator's to keep": {(secure, "terms_of"): _of_any_quorum},
            "held against the sites that shared keys alone": {(Site, "_consent"): _of_keys_alone},
        },
    ),
    _check(
        "a site's own floor",
        check_own_floor,
        {
            "the run's alone": {(Limits, "floor"): _the_runs_alone},
            "held against the sites that shared keys alone": {(Site, "_consent"): _of_keys_alone},
        },
    ),
    _check("one roster", check_roster, {"the roster of the opening alone": {(allowed, "_bound"): _of_any_roster}}),
    _check("one spelling", check_spelling, {"a key in any spelling": {(keys, "_PRIME"): 2**256}}),
]
