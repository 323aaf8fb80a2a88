"""What leaves under differential privacy, as the ledger charges it."""

from __future__ import annotations

from client.policy.policy import PolicyInForce
from client.privacy.ledger import Release
from client.privacy.noise import total_variation
from client.training.states import Attempt
from common.arrays import adapter_sha256
from common.config import PrivacyConfig, RunConfig
from common.messages.kinds import Request, Task
from common.sums import KINDS

METRICS = "metrics"
"""Name of noised counts in the ledger."""


def mechanism_of_gradients(config: RunConfig) -> str:
    """Name what a run's contributions are in the ledger."""
    if config.federation.protocol == "fedavg":
        return "fedavg"
    shared = config.privacy is not None and config.privacy.noise == "distributed"
    return "fedsgd-shared" if shared else "fedsgd-local"


def attempt_of(kind: str, task: Task) -> Attempt | None:
    """Return what a task of this kind is charged as before it is computed; None where it is not.

    Of a secure sum it is the message with the others' boxes, whose answer is masked: those before come before the
    charge, and those after hold nothing of records. Public questions cost nothing.
    """
    if task.config.privacy is None or kind not in (Request.CONTRIBUTION, Request.SECURE, Request.EVALUATION):
        return None
    if kind == Request.EVALUATION and task.public:
        return None
    if kind == Request.SECURE and (task.step or {}).get("kind") != "inbox":
        return None
    mechanism = METRICS if kind == Request.EVALUATION else mechanism_of_gradients(task.config)
    return Attempt(task.config.name, task.round, task.attempt, mechanism)


def gradient_release(task: Task, force: PolicyInForce, size: int, share: int | None = None) -> Release:
    """Return what a round's contribution costs: one noised sum (fedsgd), or one for each local step (fedavg).

    Parameters
    ----------
    share
        Where the sites share the noise, what each adds, in units: charged is the noise that stands in the sum with as
        many colluders and dropouts as the run tolerates, and the draws of all sites count. That a sum of shares is no
        discrete Gaussian costs less than the ledger's smallest unit (`common.secagg.terms.share_variance`).
    """
    privacy, federation = task.config.privacy, task.config.federation
    assert privacy is not None
    steps = federation.local_steps
    return _release(
        task,
        force,
        mechanism=mechanism_of_gradients(task.config),
        sigma_units=privacy.sigma_units,
        sensitivity_units=privacy.clip_units,
        rate=federation.sampling_rate,
        steps=steps,
        draws=size * steps * (1 if share is None else federation.sites),
        drawn=share or privacy.sigma_units,
    )


def metrics_release(task: Task, force: PolicyInForce, privacy: PrivacyConfig) -> Release:
    """Return what noised held-out counts cost: every held-out patient is in them."""
    assert privacy.metrics_sigma is not None
    return _release(
        task,
        force,
        mechanism=METRICS,
        sigma_units=privacy.metrics_sigma,
        sensitivity_units=privacy.metrics_sensitivity,
        rate=1.0,
        steps=1,
        draws=len(KINDS),
        drawn=privacy.metrics_sigma,
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
    drawn: int,
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
        delta=force.policy.delta_of(task.config),
        total_variation=draws * total_variation(drawn),
    )
