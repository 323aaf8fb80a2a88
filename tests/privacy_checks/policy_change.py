"""A policy that allows more is used only once a person has confirmed it; what is in force stays so until then."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.policy import change as policy_change
from client.policy.change import KEPT_FILE, LOOSER, keep
from client.policy.policy import POLICY_FILE, Policy, read_policy
from client.policy.signature import KIND, OFFICER_KEY, signature_file
from common.errors import Code, FedReasonError
from common.identity.keys import new_signing_key, public_text, sign, write_private
from tests.privacy_checks import Check

Start = Callable[[Path], None]
"""What a site does with its policy when it starts; raises where it does not start."""

STRICT = {"metrics": "none", "views": ("core",), "items": ("age", "sex"), "max_rounds": 10}
OLD = Policy.model_validate(
    STRICT | {"privacy": {"required": True, "min_colluders": 1, "min_dropouts": 1, "secure_aggregation": True}}
)
CHANGES: dict[str, tuple[Any, Any]] = {
    "metrics": ("none", "noised"),
    "base_models": (("tiny",), ("tiny", "*")),
    "protocols": (("fedsgd",), ("fedsgd", "fedavg")),
    "views": (("core",), ()),
    "items": (("age", "sex"), ("age", "sex", "death")),
    "max_prompt_tokens": (9000, 9001),
    "max_completion_tokens": (2000, 2001),
    "min_temperature": (0.5, 0.4),
    "max_temperature": (1.0, 1.1),
    "min_top_p": (0.5, 0.4),
    "max_group_size": (64, 65),
    "max_questions": (16, 17),
    "max_attempts": (3, 4),
    "max_rounds": (10, 11),
    "patient.column": (None, "patient_id"),
    "patient.fold": (("case", "blanks", "zeros", "decimals"), ("case", "blanks", "zeros")),
    "privacy.required": (True, False),
    "privacy.epsilon": (8.0, 8.1),
    "privacy.delta": (1e-5, 1.1e-5),
    "privacy.max_clip_norm": (1.0, 1.1),
    "privacy.min_noise_multiplier": (0.6, 0.59),
    "privacy.max_sampling_rate": (0.5, 0.6),
    "privacy.max_steps": (100, 101),
    "privacy.min_answer_every": (10.0, 9.0),
    "privacy.min_colluders": (1, 0),
    "privacy.min_dropouts": (1, 0),
    "privacy.min_sites": (4, 3),
    "privacy.secure_aggregation": (True, False),
    "privacy.shared_noise": (False, True),
}
"""By limit: a value, and one that allows a little more."""


def with_limit(policy: Policy, limit: str, value: Any) -> Policy:
    """Return a policy with another value of one limit."""
    table = policy.model_dump()
    at = table
    *path, last = limit.split(".")
    for part in path:
        at = at[part]
    at[last] = value
    return Policy.model_validate(table)


def write(folder: Path, policy: Policy) -> None:
    """Write policy.toml."""
    table = policy.model_dump(mode="json", exclude_none=True)
    (folder / POLICY_FILE).write_text(tomli_w.dumps(table))


def sign_at(folder: Path, officer: Ed25519PrivateKey, moment: str) -> None:
    """Sign policy.toml as its officer would have done at this time."""
    path = folder / POLICY_FILE
    said = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "signed": moment}
    signature_file(path).write_text(sign(said, officer, kind=KIND))


def check_confirmed(start: Start) -> bool:
    """No limit becomes weaker unconfirmed, whichever it is and however often it is tried; stricter is taken at once."""
    return (
        all(_refuses_weaker(start, limit) for limit in CHANGES)
        and _refuses_an_older_signature(start)
        and _refuses_a_spoilt_memory(start)
    )


def _refuses_weaker(start: Start, limit: str) -> bool:
    before, after = (with_limit(OLD, limit, value) for value in CHANGES[limit])
    with TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, after)
        first = _starts(start, folder)  # never started before: nothing to compare with
        write(folder, before)
        stricter = _starts(start, folder)
        write(folder, after)
        again = [_starts(start, folder) for _ in range(2)]
        keep(folder, read_policy(folder), confirmed=True)
        return first and stricter and not any(again) and _starts(start, folder)


def _refuses_an_older_signature(start: Start) -> bool:
    """Put back an earlier, weaker policy with the signature that the officer gave it then; also once signed anew."""
    officer = new_signing_key()
    days = ((8.0, 2), (9.0, 3), (3.0, 4), (9.0, 3), (3.0, 6), (9.0, 5))
    with TemporaryDirectory() as name:
        folder, started = Path(name), []
        write_private(folder / OFFICER_KEY, public_text(officer).encode())
        for epsilon, day in days:
            write(folder, with_limit(OLD, "privacy.epsilon", epsilon))
            sign_at(folder, officer, f"2026-01-0{day}T00:00:00Z")
            started.append(_starts(start, folder))
    return started == [True, True, True, False, True, False]


def _refuses_a_spoilt_memory(start: Start) -> bool:
    with TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, OLD)
        _starts(start, folder)
        (folder / "state" / KEPT_FILE).write_text("{")
        write(folder, with_limit(OLD, "privacy.epsilon", 9.0))
        return not _starts(start, folder)


def _starts(start: Start, folder: Path) -> bool:
    try:
        start(folder)
    except FedReasonError as error:
        assert error.code is Code.POLICY_WEAKER
        return False
    return True


def started(folder: Path) -> None:
    """Start as the node does."""
    keep(folder, read_policy(folder))


def _unconfirmed(folder: Path) -> None:
    keep(folder, read_policy(folder), confirmed=True)


def _kept_though_refused(folder: Path) -> None:
    """Remember what was refused, so that the second start finds nothing new."""
    try:
        started(folder)
    except FedReasonError:
        keep(folder, read_policy(folder), confirmed=True)
        raise


def _without(limit: str, folder: Path) -> None:
    with patch.dict(policy_change.LOOSER):
        del policy_change.LOOSER[limit]
        started(folder)


def _any_signature(folder: Path) -> None:
    with patch.object(policy_change, "_signed_since", lambda force, kept: force.approval is not None):
        started(folder)


def _first_signature_stays(folder: Path) -> None:
    """Forget that the same bytes were signed anew."""
    kept, force = policy_change.read_kept(folder), read_policy(folder)
    if kept is None or kept.sha256 != force.sha256:
        started(folder)


def _spoilt_is_none(folder: Path) -> None:
    try:
        policy_change.read_kept(folder)
    except FedReasonError:
        (folder / "state" / KEPT_FILE).unlink()
    started(folder)


CHECKS = [
    Check(
        "policy: weaker only when confirmed",
        partial(check_confirmed, started),
        {
            "nobody is asked": partial(check_confirmed, _unconfirmed),
            "what was refused is kept": partial(check_confirmed, _kept_though_refused),
            "an older signature confirms": partial(check_confirmed, _any_signature),
            "a newer signature of the same is not remembered": partial(check_confirmed, _first_signature_stays),
            "a spoilt memory passes for none": partial(check_confirmed, _spoilt_is_none),
            **{f"{limit} is not compared": partial(check_confirmed, partial(_without, limit)) for limit in LOOSER},
        },
    )
]
