"""Epsilon is what Opacus and Google's dp-accounting say that it is, for what was released and no less."""

from __future__ import annotations

from functools import cache, partial

from bench.accounting import Account, by_prv, by_rdp, measured, problems
from common.accounting import Mechanism
from tests.privacy_checks import Check


def check_vectors(rdp: Account, prv: Account) -> bool:
    """All vectors are within 1 % like for like, and a batch used four times costs 12.58 by PRV and no less by RDP."""
    return not problems(measured(rdp, prv))


def _as_more_samples(account: Account, mechanism: Mechanism) -> float:
    """Count a batch that is used mu times as mu batches."""
    return account(mechanism._replace(steps=mechanism.steps * mechanism.reuse, reuse=1))


def _once(account: Account, mechanism: Mechanism) -> float:
    return account(mechanism._replace(reuse=1))


def _skipped(account: Account, mechanism: Mechanism) -> float:
    return account(mechanism._replace(steps=mechanism.steps - 1))


def _more_noise(account: Account, mechanism: Mechanism) -> float:
    return account(mechanism._replace(noise_multiplier=mechanism.noise_multiplier * 1.02))


def _smaller_rate(account: Account, mechanism: Mechanism) -> float:
    return account(mechanism._replace(sampling_rate=mechanism.sampling_rate * 0.97))


_WRONG = {
    "mu*T rule": _as_more_samples,
    "mu ignored": _once,
    "a step skipped": _skipped,
    "noise that was not added": _more_noise,
    "wrong q": _smaller_rate,
}

_rdp, _prv = cache(by_rdp), cache(by_prv)  # what a mutation leaves as it is is counted once for all of them

CHECKS = [
    Check(
        "accounting",
        partial(check_vectors, _rdp, _prv),
        {f"{name}, in RDP": partial(check_vectors, partial(wrong, _rdp), _prv) for name, wrong in _WRONG.items()}
        | {f"{name}, in PRV": partial(check_vectors, _rdp, partial(wrong, _prv)) for name, wrong in _WRONG.items()}
        | {"one for the other": partial(check_vectors, _prv, _rdp)},
    )
]
