"""What releases cost: Renyi differential privacy (RDP) of the sampled Gaussian mechanism, on opacus.accountants.

Budgets are enforced on RDP; PRV, tighter, is reported beside it. GDP is a limit and no bound, so it is not offered.
RDP composes by adding over ORDERS, which are ours: what is stored does not change with the defaults of Opacus.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import cache, lru_cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.arrays import Floats
from common.processes import loading

# fmt: off
ORDERS: tuple[float, ...] = (
    1.1, 1.15, 1.2, 1.25, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 2.0, 2.2, 2.4, 2.6, 2.8, 3.0, 3.25, 3.5, 3.75, 4.0, 4.25, 4.5,
    5.0, 5.5, 6.0, 6.5, 7.0, 7.5, 8.0, 9.0, 10.0, 11.0, 12.0, 14.0, 16.0, 18.0, 20.0, 24.0, 28.0, 32.0, 40.0, 48.0,
    56.0, 64.0, 80.0, 96.0, 112.0, 128.0, 160.0, 192.0, 256.0, 512.0,
)
# fmt: on
"""Orders at which RDP is kept: dense where epsilon 1 to 10 is decided, up to 512 for many cheap releases."""

_SERIES_UP_TO = 30.0
"""Noise multiplier up to which Opacus' series for fractional orders ends soon; beyond it takes seconds, or for ever."""

_LARGEST_PRV = 50.0
"""Epsilon beyond which PRV is not computed: it takes minutes, and no such budget protects anyone."""


class Mechanism(NamedTuple):
    """Gaussian noise on a sum over a Poisson sample of patients, `steps` times.

    Parameters
    ----------
    noise_multiplier
        Standard deviation of the noise over what one patient can change the sum by, in the L2 norm.
    sampling_rate
        Chance of each patient to be in a sample.
    steps
        Samples drawn.
    reuse
        Releases computed on each sample.
    """

    noise_multiplier: float
    sampling_rate: float
    steps: int
    reuse: int = 1


def rdp(
    *,
    noise_multiplier: float,
    sampling_rate: float,
    steps: int,
    reuse: int = 1,
    orders: tuple[float, ...] = ORDERS,
) -> Floats:
    """Return the RDP of a mechanism, in nats, at every order.

    `reuse` releases on one sample are one release of their joint vector: a Gaussian at sigma / sqrt(reuse), sampled
    once. Counting them as `reuse` times as many samples would count an amplification that did not happen.

    The values are those of the continuous Gaussian (arXiv 1908.10530, section 3.3). The discrete one is no worse at
    integer orders, where only its moments enter (arXiv 2004.00010); at the others the difference is of the order of
    exp(-2 pi^2 sigma^2), sigma in units of the grid: nothing, for the hundreds of units that noise has here.

    Raises
    ------
    ValueError
        Where a parameter is out of its range.
    """
    if not (noise_multiplier >= 0 and 0 < sampling_rate <= 1 and steps >= 0 and reuse >= 1):
        raise ValueError(f"no such mechanism: {Mechanism(noise_multiplier, sampling_rate, steps, reuse)}")
    if steps == 0:
        return np.zeros(len(orders))
    return steps * np.array(_one_step(noise_multiplier / math.sqrt(reuse), sampling_rate, orders))


@lru_cache(maxsize=1024)
def _one_step(noise_multiplier: float, sampling_rate: float, orders: tuple[float, ...]) -> tuple[float, ...]:
    """RDP of one sampled Gaussian: never more than without sampling, never below 0 by rounding."""
    if noise_multiplier == 0:
        return (math.inf,) * len(orders)
    unsampled = np.array(orders) / (2 * noise_multiplier**2)
    if sampling_rate == 1:
        return tuple(unsampled.tolist())
    if noise_multiplier <= _SERIES_UP_TO:
        sampled = _sampled(noise_multiplier, sampling_rate, orders)
    else:
        whole = tuple(sorted({float(max(near(order), 2)) for order in orders for near in (math.floor, math.ceil)}))
        known = _sampled(noise_multiplier, sampling_rate, whole).tolist()
        exact = [Fraction(value) if math.isfinite(value) else None for value in known]
        between = between_orders(exact, whole, orders)
        sampled = np.array([math.inf if value is None else float(value) for value in between])
    return tuple(np.minimum(sampled, unsampled).tolist())


def _sampled(noise_multiplier: float, sampling_rate: float, orders: tuple[float, ...]) -> Floats:
    opacus = _opacus()
    with _quiet():
        computed = np.array(
            opacus.compute_rdp(q=sampling_rate, noise_multiplier=noise_multiplier, steps=1, orders=orders)
        )
    return np.where(np.isfinite(computed), np.maximum(computed, 0), math.inf)


@cache
def _opacus() -> Any:
    """Opacus' analysis of RDP, by its file: by its name all of Opacus and torch would come along."""
    package = find_spec("opacus")
    assert package is not None and package.submodule_search_locations
    file = Path(package.submodule_search_locations[0], "accountants", "analysis", "rdp.py")
    spec = spec_from_file_location("opacus_rdp", file)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    with loading():
        spec.loader.exec_module(module)
    return module


def between_orders(
    values: Sequence[Fraction | int | None], orders: Sequence[float], to: Sequence[float]
) -> list[Fraction | None]:
    """Return bounds on RDP at the orders `to` from its values at other, rising orders; None stands for no bound.

    (order - 1) RDP(order) is a log-moment: convex in the order (arXiv 1206.2459, corollary 2) and 0 at 1. The chord
    between two known orders is therefore a bound between them; above the largest known order there is none.
    """
    moments = [(Fraction(1), Fraction(0))] + [
        (Fraction(order), (Fraction(order) - 1) * value)
        for order, value in zip(orders, values, strict=True)
        if value is not None
    ]
    result: list[Fraction | None] = []
    for order in map(Fraction, to):
        bound = None
        for (left, low), (right, high) in pairwise(moments):
            if left < order <= right:
                bound = (low + (high - low) * (order - left) / (right - left)) / (order - 1)
        result.append(bound)
    return result


def epsilon(rdp: Floats, delta: float, *, total_variation: float = 0.0, orders: Sequence[float] = ORDERS) -> float:
    """Return the least epsilon for which what was released is (epsilon, delta)-private; infinite where there is none.

    Parameters
    ----------
    rdp
        Sum of the RDP of all releases, at `orders`.
    delta
        Of it, (1 + e^epsilon) `total_variation` pays for noise that was drawn from a table instead of its distribution;
        RDP is converted at the rest (arXiv 1905.09982, theorem 21).
    total_variation
        Sum over the releases of the distance between the noise drawn and the noise accounted.

    Raises
    ------
    ValueError
        Where delta does not lie between 0 and 1.
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta {delta} does not lie between 0 and 1")
    spent = _converted(rdp, delta, orders)
    if not total_variation:
        return spent
    for _ in range(100):
        if spent > 700 or (remaining := delta - (1 + math.exp(spent)) * total_variation) <= 0:
            break
        needed = _converted(rdp, remaining, orders)
        if needed <= spent:
            return spent
        spent = needed * (1 + 1e-9)
    return math.inf


def _converted(rdp: Floats, delta: float, orders: Sequence[float]) -> float:
    if not rdp.any():
        return 0.0
    opacus = _opacus()
    with _quiet():
        return max(0.0, float(opacus.get_privacy_spent(orders=list(orders), rdp=rdp, delta=delta)[0]))


def prv_epsilon(history: Sequence[Mechanism], delta: float) -> float:
    """Return Opacus' upper bound on epsilon by composing privacy loss random variables (arXiv 2106.02848).

    Infinite where RDP says more than 50 or Opacus cannot compute it. To report, not to enforce: it covers the loss of
    removing a patient, and its domain is chosen by a rule that its authors do not prove.
    """
    total = np.zeros(len(ORDERS))
    steps: Counter[tuple[float, float]] = Counter()
    for each in history:
        total = total + rdp(**each._asdict())
        steps[each.noise_multiplier / math.sqrt(each.reuse), each.sampling_rate] += each.steps
    if not total.any():
        return 0.0
    if epsilon(total, delta) > _LARGEST_PRV:
        return math.inf
    with loading():
        from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(*mechanism, count) for mechanism, count in steps.items() if count]
    try:
        with _quiet():
            return float(accountant.get_epsilon(delta))
    except (RuntimeError, ValueError):
        return math.inf


def noise_for(*, epsilon: float, delta: float, sampling_rate: float, steps: int, reuse: int = 1) -> float:
    """Return the least noise multiplier, up to 0.01 % too large, that keeps RDP within (epsilon, delta).

    Raises
    ------
    ValueError
        Where no noise does: the orders end at 512, so at delta 1e-5 no epsilon below 0.01 can be shown.
    """

    def passes(noise_multiplier: float) -> bool:
        cost = rdp(noise_multiplier=noise_multiplier, sampling_rate=sampling_rate, steps=steps, reuse=reuse)
        return _epsilon(cost, delta) <= epsilon

    low, high = 0.5, 1.0
    while not passes(high):
        low, high = high, 2 * high
        if high > 2**20:
            raise ValueError(f"no noise keeps {steps} steps within epsilon {epsilon} at delta {delta}")
    while passes(low) and low > 2**-20:
        low, high = low / 2, low
    while high - low > 1e-4 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if passes(middle) else (middle, high)
    return high


_epsilon = epsilon


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Opacus from warning that the best order is the first or the last, and of logarithms of 0 at rate 1."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield
