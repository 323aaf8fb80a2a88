"""What a private run has cost a site's patients, from the coordinator's side: the rounds and evaluations that it has.

A site's own ledger has the last word: it also charges answers that came too late, and other runs.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

from common.accounting import epsilon, rdp
from common.config import RunConfig
from server.reports.rows import RunRows

Taken = tuple[int, int]
"""Rounds that hold a site's part, and its evaluations; those that were taken back with them."""


def taken(rows: RunRows, told: Counter[str] | None = None) -> dict[str, Taken]:
    """Return what each site took part in.

    `told` says how often each let its counts out that were not taken back, where `rows` do not hold all evaluations.
    """
    rounds = Counter(site for row in rows.rounds for site in row.sites)
    told = Counter(row.site for row in rows.evaluations) if told is None else Counter(told)
    for look in rows.looks:
        for site, (undone, unsaid) in look.undone.items():
            rounds[site] += undone
            told[site] += unsaid
    return {site: (rounds[site], told[site]) for site in sorted({*rows.sites, *told})}


def epsilons(config: RunConfig, rounds: int, evaluations: int) -> tuple[float, float | None] | None:
    """Return what a site's rounds cost a patient that trains, and its evaluations one that is held out.

    None without `[privacy]`; the second is None where no counts leave.
    """
    privacy, federation = config.privacy, config.federation
    if privacy is None:
        return None
    steps = rounds * federation.local_steps
    trained = _cost(privacy.sigma_units / privacy.clip_units, federation.sampling_rate, steps, privacy.delta)
    if privacy.metrics_noise_multiplier is None:
        return trained, None
    return trained, _cost(privacy.metrics_noise_multiplier, 1.0, evaluations, privacy.delta)


@lru_cache(maxsize=4096)
def _cost(multiplier: float, rate: float, steps: int, delta: float) -> float:
    return epsilon(rdp(noise_multiplier=multiplier, sampling_rate=rate, steps=steps), delta) if steps else 0.0
