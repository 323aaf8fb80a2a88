"""What a private run has cost a site's patients, from the coordinator's side: the rounds and evaluations that it has.

A site's own ledger has the last word: it also charges answers that came too late, and other runs.
"""

from __future__ import annotations

from common.accounting import epsilon, rdp
from common.config import RunConfig
from server.reports.rows import RunRows


def rounds_of(rows: RunRows, site: str) -> int:
    """Return how many rounds hold a site's part, those that were taken back with them."""
    undone = [look.round - look.back_to for look in rows.looks if look.back_to is not None and site in look.since]
    return sum(site in row.sites for row in rows.rounds) + sum(undone)


def epsilons_of(config: RunConfig, rows: RunRows, site: str) -> tuple[float, float | None] | None:
    """Return what a site's rounds cost a patient that trains, and its evaluations one that is held out.

    None without `[privacy]`; the second is None where no counts leave.
    """
    privacy, federation = config.privacy, config.federation
    if privacy is None:
        return None

    def cost(multiplier: float, rate: float, steps: int) -> float:
        spent = rdp(noise_multiplier=multiplier, sampling_rate=rate, steps=steps)
        return epsilon(spent, privacy.delta) if steps else 0.0

    steps = rounds_of(rows, site) * federation.local_steps
    trained = cost(privacy.sigma_units / privacy.clip_units, federation.sampling_rate, steps)
    if privacy.metrics_noise_multiplier is None:
        return trained, None
    told = sum(row.site == site for row in rows.evaluations)
    return trained, cost(privacy.metrics_noise_multiplier, 1.0, told)
