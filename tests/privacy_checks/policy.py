"""The site decides: no run is weaker than its policy, no message changes the policy, nobody but the officer does."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.policy.limits import PrivacyLimits
from client.policy.policy import POLICY_FILE, Policy, load_policy, parsed_policy, policy_bytes
from client.policy.signature import OFFICER_KEY, approval, pinned_officer, sign_policy, signature_file
from common.config import PrivacyConfig, RunConfig
from common.errors import Code, FedReasonError
from common.identity.keys import new_signing_key, public_text, sign, write_private
from tests.privacy_checks import Check

Takes = Callable[[Policy, RunConfig], bool]
Load = Callable[[Path], Policy]

LIMITS = PrivacyLimits(
    required=True,
    delta=1e-5,
    max_clip_norm=0.5,
    min_noise_multiplier=1.2,
    max_sampling_rate=0.2,
    max_steps=60,
    min_answer_every=30.0,
    min_colluders=2,
    min_dropouts=1,
    min_sites=5,
)
POLICY = Policy(metrics="noised", privacy=LIMITS)

WEAKER: dict[str, dict[str, Any]] = {
    "required": {"privacy": None},
    "delta": {"privacy": {"delta": 1.1e-5}},
    "max_clip_norm": {"privacy": {"clip_norm": 0.51}},
    "min_noise_multiplier": {"privacy": {"noise_multiplier": 1.19}},
    "max_sampling_rate": {"federation": {"sampling_rate": 0.21}},
    "max_steps": {"federation": {"rounds": 61}},
    "min_answer_every": {"privacy": {"answer_every": 29.0}},
    "min_colluders": {"privacy": {"colluders": 1}},
    "min_dropouts": {"privacy": {"dropouts": 0}},
    "min_sites": {"federation": {"quorum": 4}},
}
"""By limit: what makes a run a little weaker than it."""


def run(changes: dict[str, Any] | None = None) -> RunConfig:
    """Return a run exactly at the limits, but for these changes."""
    federation = {
        "name": "sepsis",
        "rounds": 60,
        "sites": 6,
        "quorum": 5,
        "population": 9000,
        "sampling_rate": 0.2,
    }
    privacy = {
        "clip_norm": 0.5,
        "noise_multiplier": 1.2,
        "delta": 1e-5,
        "colluders": 2,
        "dropouts": 1,
        "metrics_noise_multiplier": 1.2,
        "answer_every": 30.0,
    }
    table: dict[str, Any] = {
        "name": "trial",
        "optimizer": {"learning_rate": 0.01},
        "federation": federation,
        "privacy": privacy,
    }
    for section, values in (changes or {}).items():
        table[section] = None if values is None else {**table[section], **values}
    return RunConfig.model_validate(table)


def check_policy(takes: Takes) -> bool:
    """A run at the limits is taken, and none that is weaker in any one of them."""
    return takes(POLICY, run()) and not any(takes(POLICY, run(changes)) for changes in WEAKER.values())


def taken(policy: Policy, config: RunConfig) -> bool:
    """Whether a site with this policy takes a run."""
    try:
        policy.refuse(config)
    except FedReasonError as error:
        assert error.code is Code.POLICY_REFUSED
        return False
    return True


def _from_the_server(policy: Policy, config: RunConfig) -> bool:
    """Compare a run with what it says of itself, such as a cohort of 2."""
    stated = config.privacy or PrivacyConfig(clip_norm=1, noise_multiplier=1, delta=1e-5)
    limits = PrivacyLimits(
        required=config.privacy is not None,
        delta=stated.delta,
        max_clip_norm=stated.clip_norm,
        min_noise_multiplier=stated.noise_multiplier,
        max_sampling_rate=config.federation.sampling_rate,
        max_steps=config.private_steps,
        min_colluders=stated.colluders,
        min_dropouts=stated.dropouts,
        min_sites=config.quorum,
    )
    return taken(policy.model_copy(update={"privacy": limits}), config)


LOOSEST: dict[str, Any] = {
    "required": False,
    "delta": 0.09,
    "max_clip_norm": 1e9,
    "min_noise_multiplier": 0,
    "max_sampling_rate": 1,
    "max_steps": 10**9,
    "min_answer_every": 0.0,
    "min_colluders": 0,
    "min_dropouts": 0,
    "min_sites": 1,
}


def _without(limit: str, policy: Policy, config: RunConfig) -> bool:
    loose = policy.privacy.model_copy(update={limit: LOOSEST[limit]})
    return taken(policy.model_copy(update={"privacy": loose}), config)


STRICT, LOOSE = b'metrics = "none"\n', b'metrics = "plain"\nbase_models = ["*"]\n'


class Swapped(type(Path())):  # type: ignore[misc]
    """A path whose policy file another process replaces right after it was first read."""

    def read_bytes(self) -> bytes:
        content = super().read_bytes()
        if self.name == POLICY_FILE:
            self.write_bytes(LOOSE)
        return bytes(content)


def signed_site(folder: Path, content: bytes = STRICT) -> Ed25519PrivateKey:
    """Lay out a site whose policy its officer signed, and return the officer's key."""
    officer = new_signing_key()
    write_private(folder / OFFICER_KEY, public_text(officer).encode())
    (folder / POLICY_FILE).write_bytes(content)
    sign_policy(folder / POLICY_FILE, content, officer)
    return officer


def _changed(folder: Path, officer: Ed25519PrivateKey) -> None:
    (folder / POLICY_FILE).write_bytes(LOOSE)


def _space_added(folder: Path, officer: Ed25519PrivateKey) -> None:
    (folder / POLICY_FILE).write_bytes(STRICT + b"\n")


def _unsigned(folder: Path, officer: Ed25519PrivateKey) -> None:
    signature_file(folder / POLICY_FILE).unlink()


def _signed_by_another(folder: Path, officer: Ed25519PrivateKey) -> None:
    _changed(folder, officer)
    sign_policy(folder / POLICY_FILE, LOOSE, new_signing_key())


def _signer_renamed(folder: Path, officer: Ed25519PrivateKey) -> None:
    """Sign by another key and write the officer's name on it."""
    _signed_by_another(folder, officer)
    sealed = signature_file(folder / POLICY_FILE)
    sealed.write_text(json.dumps(json.loads(sealed.read_text()) | {"by": public_text(officer)}))


def _hash_replaced(folder: Path, officer: Ed25519PrivateKey) -> None:
    """Write the hash of another file into the document that the officer signed."""
    strict = json.loads(signature_file(folder / POLICY_FILE).read_text())
    _signed_by_another(folder, officer)
    other = json.loads(signature_file(folder / POLICY_FILE).read_text())
    forged = strict | {"document": strict["document"] | {"sha256": other["document"]["sha256"]}}
    signature_file(folder / POLICY_FILE).write_text(json.dumps(forged))


def _of_another_kind(folder: Path, officer: Ed25519PrivateKey) -> None:
    """Use what the officer signed as something else."""
    _signed_by_another(folder, officer)
    document = json.loads(signature_file(folder / POLICY_FILE).read_text())["document"]
    signature_file(folder / POLICY_FILE).write_text(sign(document, officer, kind="roster"))


def _pin_spoilt(folder: Path, officer: Ed25519PrivateKey) -> None:
    (folder / OFFICER_KEY).write_text("")


FORGERIES = {
    "changed": _changed,
    "a line added": _space_added,
    "signature removed": _unsigned,
    "signed by another key": _signed_by_another,
    "signed by another key in the officer's name": _signer_renamed,
    "hash replaced": _hash_replaced,
    "signed as another kind of document": _of_another_kind,
    "pinned key spoilt": _pin_spoilt,
}


def check_signature(load: Load) -> bool:
    """A signed policy is used; one that was forged in any way is not; what is used is what was verified."""
    with TemporaryDirectory() as folder:
        signed_site(Path(folder))
        if not _loads(load, Path(folder)):
            return False
    with TemporaryDirectory() as folder:
        signed_site(Path(folder))
        if load(Swapped(folder)).metrics != "none":
            return False
    return not any(forged_is_used(load, forge) for forge in FORGERIES.values())


def forged_is_used(load: Load, forge: Callable[[Path, Ed25519PrivateKey], None]) -> bool:
    """Whether a site uses a policy after this forgery."""
    with TemporaryDirectory() as folder:
        forge(Path(folder), signed_site(Path(folder)))
        return _loads(load, Path(folder))


def _loads(load: Load, folder: Path) -> bool:
    try:
        load(folder)
    except FedReasonError as error:
        assert error.code is Code.POLICY_SIGNATURE
        return False
    return True


def _unchecked(folder: Path) -> Policy:
    path = folder / POLICY_FILE
    return parsed_policy(policy_bytes(path), path)


def _any_signer(folder: Path) -> Policy:
    """Verify by the key that the signature itself names."""
    sealed = signature_file(folder / POLICY_FILE)
    if sealed.exists():
        by = json.loads(sealed.read_text())["by"]
        write_private(folder / OFFICER_KEY, by.encode())
    return load_policy(folder)


def _where_signed(folder: Path) -> Policy:
    """Take a missing signature for an unsigned policy."""
    return load_policy(folder) if signature_file(folder / POLICY_FILE).exists() else _unchecked(folder)


def _where_pinned_well(folder: Path) -> Policy:
    """Take a pin that cannot be read for none."""
    try:
        pinned_officer(folder)
    except FedReasonError:
        return _unchecked(folder)
    return load_policy(folder)


def _whatever_file(folder: Path) -> Policy:
    """Verify that the officer signed a policy, and not that it was this one."""
    path = folder / POLICY_FILE
    for content in (STRICT, policy_bytes(path)):
        try:
            approval(folder, path, content)
            return _unchecked(folder)
        except FedReasonError as error:
            refusal = error
    raise refusal


def _read_twice(folder: Path) -> Policy:
    path = folder / POLICY_FILE
    approval(folder, path, policy_bytes(path))
    return _unchecked(folder)


CHECKS = [
    Check(
        "policy",
        partial(check_policy, taken),
        {
            "the server supplies the limits": partial(check_policy, _from_the_server),
            **{f"{limit} is not compared": partial(check_policy, partial(_without, limit)) for limit in WEAKER},
        },
    ),
    Check(
        "policy: signature",
        partial(check_signature, load_policy),
        {
            "the signature is not checked": partial(check_signature, _unchecked),
            "any key may sign": partial(check_signature, _any_signer),
            "no signature passes for unsigned": partial(check_signature, _where_signed),
            "a spoilt pin passes for none": partial(check_signature, _where_pinned_well),
            "the hash is not compared": partial(check_signature, _whatever_file),
            "the file is read twice": partial(check_signature, _read_twice),
        },
    ),
]
