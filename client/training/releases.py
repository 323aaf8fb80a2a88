"""What leaves under differential privacy, as the ledger charges it."""

from __future__ import annotations

from client.policy.policy import PolicyInForce
from client.privacy.ledger import Release
from client.privacy.noise import total_variation
from client.privacy.totals import KINDS, metrics_sigma, sensitivity
from common.arrays import adapter_sha256
from common.config import PrivacyConfig
from common.messages.kinds import Task


def gradient_release(task: Task, force: PolicyInForce, size: int) -> Release:
    """Return what a round's contribution costs: one noised sum (fedsgd), or one for each local step (fedavg)."""
    privacy, federation = task.config.privacy, task.config.federation
    assert privacy is not None
    steps = federation.local_steps
    return _release(
        task,
        force,
        mechanism="fedavg" if federation.protocol == "fedavg" else "fedsgd-local",
        sigma_units=privacy.sigma_units,
        sensitivity_units=privacy.clip_units,
        rate=federation.sampling_rate,
        steps=steps,
        draws=size * steps,
    )


def metrics_release(task: Task, force: PolicyInForce, privacy: PrivacyConfig) -> Release:
    """Return what noised held-out counts cost: every held-out patient is in them."""
    return _release(
        task,
        force,
        mechanism="metrics",
        sigma_units=metrics_sigma(privacy),
        sensitivity_units=sensitivity(privacy),
        rate=1.0,
        steps=1,
        draws=len(KINDS),
    )


def _release(
    task: Task,
    force: PolicyInForce,
    *,
    mechanism: str,
    sigma_units: int,
    sensitivity_units: int,
    rate: float,
    steps: int,
    draws: int,
) -> Release:
    assert task.adapter is not None
    return Release(
        run=task.config.name,
        round=task.round,
        attempt=task.attempt,
        model_sha256=adapter_sha256(task.adapter),
        policy_sha256=force.sha256,
        mechanism=mechanism,
        sigma_units=sigma_units,
        sensitivity_units=sensitivity_units,
        q=rate,
        mu=1,
        steps=steps,
        delta=force.policy.privacy.delta,
        total_variation=draws * total_variation(sigma_units),
    )
