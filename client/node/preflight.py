"""What is checked before a site connects: its files first, the way to the coordinator last, all within 5 seconds.

Each check refuses with its number; of the registry no more is read than a hash of its file, and nothing is sent.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryFile

from client.node.probe import Seen, probe_server
from client.policy.change import require_confirmed
from client.policy.policy import POLICY_FILE, read_policy
from client.policy.unit import require_unit
from client.privacy.budget import require_ledger
from client.site.config import SiteConfig, require_source
from client.site.exclusions import EXCLUSIONS_FILE, read_exclusions
from client.site.keys import own_keys
from client.site.kit import NEWER_ROSTER, accepted_roster, newer_waits
from common.cli import is_disk_full
from common.codebook import load_codebook
from common.errors import Code, FedReasonError
from common.identity.keys import fingerprint, private_folder
from common.identity.kit import CA
from common.logs import logger

__all__ = ["Check", "Seen", "checks", "preflight", "probe_server"]

_PROBE_BYTES = 2**20
_OTHERS = 0o077
_RENEWAL = timedelta(days=30)
_log = logger("site")


@dataclass(frozen=True)
class Check:
    """One check: it returns what it saw, for a person, or refuses."""

    name: str
    run: Callable[[], str]


def checks(folder: Path, config: SiteConfig) -> tuple[Check, ...]:
    """Return the checks of a site in order, for `python -m client check` to show one by one."""
    return (
        Check("keys", lambda: _keys(folder)),
        Check("roster", lambda: _roster(folder, config)),
        Check("policy", lambda: _policy(folder)),
        Check("codebook", lambda: _codebook(config)),
        Check("patients", lambda: _patients(folder, config)),
        Check("registry", lambda: require_source(config.registry)),
        Check("opt-outs", lambda: _opt_outs(folder)),
        Check("disk", lambda: _disk(folder / "state")),
        Check("ledger", lambda: require_ledger(folder, config)),
        Check("coordinator", lambda: look_at_coordinator(folder, config)),
    )


def preflight(folder: Path, config: SiteConfig) -> None:
    """Make every check.

    Raises
    ------
    FedReasonError
        The first refusal.
    """
    for check in checks(folder, config):
        check.run()


def _keys(folder: Path) -> str:
    for place in (folder, folder / "keys"):
        if place.is_dir() and place.stat().st_mode & _OTHERS:
            raise FedReasonError(
                Code.KEY_PERMISSIONS,
                f"Other users can enter {place} (mode {place.stat().st_mode & 0o777:04o}), which holds private keys.",
                f"chmod 700 {place}; if others had access, make new keys.",
            )
    keys = own_keys(folder)
    return f"signing {fingerprint(keys.signing)}, node {fingerprint(keys.node)}"


def _roster(folder: Path, config: SiteConfig) -> str:
    roster, keys = accepted_roster(folder), own_keys(folder)
    member = roster.member(config.name)
    if member is None or (member.signing_key, member.node_key) != (keys.signing, keys.node):
        what = "does not list this site" if member is None else "lists other keys for this site than those in keys/"
        raise FedReasonError(
            Code.KEY_UNKNOWN,
            f"Version {roster.version} of the roster, accepted here, {what} ({config.name}).",
            "Ask the coordinator to admit request.json, then accept the new roster.",
        )
    newer = f"; {NEWER_ROSTER}" if newer_waits(folder) else ""
    return f"version {roster.version}, {len(roster.members)} sites{newer}"


def _codebook(config: SiteConfig) -> str:
    codebook = load_codebook(config.codebook)
    return f"{len(codebook.features)} features, SHA-256 {codebook.sha256[:12]}"


def _policy(folder: Path) -> str:
    found = read_policy(folder)
    require_confirmed(folder, found)
    policy, approval = found.policy, found.approval
    if approval is None:
        _log.warning("%s is not signed: no officer's key is pinned (python -m client policy trust)", POLICY_FILE)
    seen = {
        "metrics": policy.metrics,
        "models": ", ".join(policy.base_models) or "none",
        "protocols": ", ".join(policy.protocols) or "none",
        "runs": f"private, epsilon {policy.privacy.epsilon:g}" if policy.requires_privacy else "private or not",
        "signed": f"by {approval.officer}" if approval else "no",
    }
    return ", ".join(f"{name} {value}" for name, value in seen.items())


def _patients(folder: Path, config: SiteConfig) -> str:
    codebook, policy = load_codebook(config.codebook), read_policy(folder).policy
    require_unit(policy, None, codebook)
    if policy.patient.column is None:
        _log.warning("%s does not name the patient's column: every private run is refused", POLICY_FILE)
        return f"{POLICY_FILE} does not name their column, so that no private run is accepted"
    return f"told apart by {codebook.patient}"


def _opt_outs(folder: Path) -> str:
    listed = len(read_exclusions(folder, required=True, column=None))
    return f"{EXCLUSIONS_FILE} {'is empty' if listed == 0 else 'can be read'}"


def _disk(state: Path) -> str:
    try:
        private_folder(state)
        with TemporaryFile(dir=state, buffering=0) as file:
            content = memoryview(bytes(_PROBE_BYTES))
            while content:
                content = content[file.write(content) :]
            os.fsync(file.fileno())
        free = shutil.disk_usage(state).free
    except OSError as error:
        why = "has no space left" if is_disk_full(error) else f"cannot be written ({_class(error)})"
        raise FedReasonError(
            Code.DISK_FULL,
            f"{state} {why}.",
            "Free some space, or correct its permissions: what leaves a site is first written there.",
        ) from None
    return f"{free / 1e9:,.1f} GB free"


def look_at_coordinator(folder: Path, config: SiteConfig) -> str:
    """Say what answers at the coordinator's address, until when its certificate is good, and whether clocks agree.

    Raises
    ------
    FedReasonError
        CONFIG_VALUE, CERTIFICATE_EXPIRED, SERVER_TLS, SERVER_CLOCK, SERVER_UNREACHABLE.
    """
    if config.coordinator is None or config.federation is None:
        what, line = ("coordinator", "host:port") if config.coordinator is None else ("federation", "name")
        raise FedReasonError(
            Code.CONFIG_VALUE,
            f"{folder / 'site.toml'} names no {what}.",
            f'Add `{what} = "{line}"`, as in the kit.',
        )
    seen = probe_server(config.coordinator, folder / CA, config.proxy)
    left = seen.certificate_until - datetime.now(UTC)
    if left < _RENEWAL:
        _log.warning("the coordinator's certificate expires in %d days; tell the coordinator", left.days)
    clock = (
        "" if seen.clock_difference is None else f", clocks {abs(seen.clock_difference.total_seconds()):.0f} s apart"
    )
    return f"{seen.address}, certificate valid until {seen.certificate_until:%Y-%m-%d}{clock}"


def _class(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, type(error).__name__)
