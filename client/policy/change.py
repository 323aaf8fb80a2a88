"""A policy that allows more than the one before it is used only once a person has confirmed it.

The site keeps the policy that it last used, `state/policy.json`. The officer's signature is such a confirmation
where it is newer than that of the policy before: an older file that was put back is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, ValidationError, field_validator

from client.policy.policy import ANY, POLICY_FILE, Policy, PolicyInForce
from client.site.decisions import decided
from common.errors import Code, FedReasonError
from common.identity.keys import private_folder, write_private
from common.logs import logger
from common.toml import Strict

KEPT_FILE = "policy.json"

_METRICS = ("none", "noised", "plain")
_log = logger("site")

Allows = Callable[[Any, Any], bool]
"""Whether a new value of a limit allows what the old one did not."""


class Kept(Strict):
    """The policy that a site last used: its limits, the hash of its file, and when its officer signed it."""

    policy: Policy
    sha256: str
    signed: AwareDatetime | None = None

    @field_validator("policy", mode="before")
    @classmethod
    def _of_before(cls, value: object) -> object:
        """Take a limit that an earlier version wrote as null, for none, to be this version's."""
        return {name: limit for name, limit in value.items() if limit is not None} if isinstance(value, dict) else value


def _higher(old: float | None, new: float | None) -> bool:
    return old is not None and (new is None or new > old)


def _lower(old: float, new: float) -> bool:
    return new < old


def _given_up(old: bool, new: bool) -> bool:
    return old and not new


def _taken_up(old: bool, new: bool) -> bool:
    return new and not old


def _others(old: tuple[str, ...], new: tuple[str, ...]) -> bool:
    return ANY not in old and bool(set(new) - set(old))


def _others_or_any(old: tuple[str, ...], new: tuple[str, ...]) -> bool:
    return bool(old) and (not new or bool(set(new) - set(old)))


def _another(old: str | None, new: str | None) -> bool:
    return new is not None and new != old


def _fewer(old: tuple[str, ...], new: tuple[str, ...]) -> bool:
    return bool(set(old) - set(new))


def _more_leaves(old: str, new: str) -> bool:
    return _METRICS.index(new) > _METRICS.index(old)


LOOSER: dict[str, Allows] = {
    "metrics": _more_leaves,
    "base_models": _others,
    "protocols": _others,
    "views": _others_or_any,
    "items": _others_or_any,
    "max_prompt_tokens": _higher,
    "max_completion_tokens": _higher,
    "min_temperature": _lower,
    "max_temperature": _higher,
    "min_top_p": _lower,
    "max_group_size": _higher,
    "max_questions": _higher,
    "max_attempts": _higher,
    "max_rounds": _higher,
    "patient.column": _another,
    "patient.fold": _fewer,
    "privacy.required": _given_up,
    "privacy.epsilon": _higher,
    "privacy.delta": _higher,
    "privacy.max_clip_norm": _higher,
    "privacy.min_noise_multiplier": _lower,
    "privacy.max_sampling_rate": _higher,
    "privacy.max_steps": _higher,
    "privacy.min_answer_every": _lower,
    "privacy.min_colluders": _lower,
    "privacy.min_dropouts": _lower,
    "privacy.min_sites": lambda old, new: any(after < before for before, after in zip(old, new, strict=True)),
    "privacy.secure_aggregation": _given_up,
    "privacy.shared_noise": _taken_up,
}
"""Which way each limit is the weaker one; a limit that is missing here fails a test."""


def loosened(old: Policy, new: Policy) -> list[str]:
    """Return every limit that allows what it did not, as `limit: before -> after`."""
    return list(_loosened(old, new))


def _loosened(old: Policy, new: Policy) -> Iterator[str]:
    for limit, allows in LOOSER.items():
        before, after = _value(old, limit), _value(new, limit)
        if allows(before, after):
            yield f"{limit}: {_shown(before)} -> {_shown(after)}"


def _value(policy: Policy, limit: str) -> Any:
    """Return a limit as it acts, what the file leaves out filled in."""
    if limit == "privacy.required":
        return policy.requires_privacy
    if limit == "privacy.min_sites":
        return policy.floors
    return attrgetter(limit)(policy)


def _shown(value: Any) -> str:
    match value:
        case None | ():
            return "any"
        case tuple():
            return ", ".join(map(str, value))
    return str(value)


def require_confirmed(folder: Path, force: PolicyInForce) -> list[str]:
    """Return what a policy allows beyond the one before it and was confirmed by the officer's newer signature.

    Raises
    ------
    FedReasonError
        POLICY_WEAKER where it allows more than the one that the site last used, and nobody confirmed that.
    """
    kept = read_kept(folder)
    if kept is None or kept.sha256 == force.sha256:
        return []
    more = loosened(kept.policy, force.policy)
    if more and not _signed_since(force, kept):
        raise FedReasonError(
            Code.POLICY_WEAKER,
            f"{folder / POLICY_FILE} allows more than the policy that was in force: {'; '.join(more)}.",
            "Read it, then confirm it (python -m client policy confirm), or put the earlier one back.",
        )
    return more


def keep(folder: Path, force: PolicyInForce, *, confirmed: bool = False) -> None:
    """Keep a policy as the one in force, and write down what it allows beyond the one before.

    Raises
    ------
    FedReasonError
        POLICY_WEAKER as `require_confirmed`, unless a person `confirmed` it.
    """
    kept = read_kept(folder)
    if kept is None:
        _log.info("%s: nothing is known here of an earlier policy", POLICY_FILE)
    more = loosened(kept.policy, force.policy) if kept and confirmed else require_confirmed(folder, force)
    for line in more:
        _log.warning("%s allows more than before, which was confirmed: %s", POLICY_FILE, line)
    approval = force.approval
    signed, officer = (approval.signed, None if confirmed else approval.officer) if approval else (None, None)
    if kept is not None and kept.sha256 == force.sha256:
        if signed is None or (kept.signed is not None and signed <= kept.signed):
            return  # else it was signed anew, and what was signed before that is the older one from now on
    else:
        before = kept.sha256 if kept else None
        decided(folder, "policy", before=before, after=force.sha256, allows=more, by=officer)
    now = Kept(policy=force.policy, sha256=force.sha256, signed=signed)
    private_folder(_path(folder).parent)
    write_private(_path(folder), now.model_dump_json(indent=1).encode())


def read_kept(folder: Path) -> Kept | None:
    """Return the policy that a site last used; None where it never started.

    Raises
    ------
    FedReasonError
        POLICY_WEAKER where the file cannot be read: then nothing says whether the policy is weaker.
    """
    path = _path(folder)
    try:
        return Kept.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValidationError) as error:
        raise FedReasonError(
            Code.POLICY_WEAKER,
            f"{path} cannot be read ({type(error).__name__}), so nothing says whether {POLICY_FILE} became weaker.",
            f"Read {POLICY_FILE}, remove {path}, and start again.",
        ) from None


def _signed_since(force: PolicyInForce, kept: Kept) -> bool:
    return force.approval is not None and (kept.signed is None or force.approval.signed > kept.signed)


def _path(folder: Path) -> Path:
    return folder / "state" / KEPT_FILE
