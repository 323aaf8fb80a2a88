"""What a run promises of its sums before it starts: who can open one, what noise it holds, what that costs a patient.

From public numbers alone, so that sites and coordinator say the same. Noise is compared at the sigma that the run
states, at which a patient's epsilon is the same whoever adds it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from common.config import PrivacyConfig, RunConfig
from common.secagg.terms import FEWEST, most_colluders, share_sigma, threshold

Kind = Literal["distributed", "local", "none"]
Costs = Callable[[float], float]
_LEARNT = 2.0
"""Through noise of up to about so many gradients' length federations have been seen to learn (docs/privacy.md)."""
WHOLE = 0.9
"""Less than that of a gradient's length is said to be lost."""


@dataclass(frozen=True)
class Opening:
    """Whom it takes to open the sum of a secure round in which `sites` take part.

    Attributes
    ----------
    threshold
        t: fewest sites that open a sum.
    lost
        Sites that may be lost in the round.
    conspirators
        Sites that may conspire with the coordinator and learn no other site's sum: they cannot open it, and more than
        one other is in the total.
    """

    sites: int
    threshold: int
    lost: int
    conspirators: int


@dataclass(frozen=True)
class Noising:
    """One way to noise a run's sums.

    Attributes
    ----------
    stated
        Whether it is the run's.
    epsilon
        What all rounds cost a patient against everybody; None where nothing bounds it.
    in_sum
        Noise in the sum of all sites, in sigma C.
    if_opened
        Epsilon where too many sites conspire with the coordinator, and open another's sum.
    """

    kind: Kind
    stated: bool
    epsilon: float | None = None
    in_sum: float = 0.0
    if_opened: float | None = None


def opening(config: RunConfig, sites: int) -> Opening | None:
    """Return whom it takes to open a sum of so many sites; None where every sum travels in the open."""
    if not config.secure:
        return None
    enough, noise = threshold(sites), config.privacy
    shared = noise is not None and noise.noise == "distributed"
    fewest = max(enough, sites - noise.dropouts) if noise is not None and shared else enough
    return Opening(sites, enough, sites - fewest, _conspirators(sites))


def _conspirators(sites: int) -> int:
    return min(most_colluders(sites), sites - 2)


def noisings(config: RunConfig, delta: float) -> list[Noising]:
    """Return what a run's gradients cost under each way to noise them, its own first.

    Parameters
    ----------
    delta
        At which epsilon is stated.
    """
    privacy, sites = config.privacy, config.federation.sites
    if privacy is None:
        return [Noising("none", True)]
    costs = _costs(config, delta)
    epsilon = costs(privacy.sigma_units / privacy.clip_units)
    found = [Noising("local", privacy.noise == "local", epsilon, math.sqrt(sites), epsilon)]
    if (share := _share(config, privacy)) is not None:
        opened, in_sum = costs(share / privacy.clip_units), share * math.sqrt(sites) / privacy.sigma_units
        found.append(Noising("distributed", privacy.noise == "distributed", epsilon, in_sum, opened))
    return sorted([*found, Noising("none", False)], key=lambda one: not one.stated)


def noise_on_mean(config: RunConfig, size: int) -> float | None:
    """Length of the noise on the mean gradient of a step, in C; None where none is added.

    No patient's gradient, and so no mean of them, is longer than C. The noise is that of all sites, over all `size`
    values of the adapter; the mean is over the patients expected in a step.
    """
    privacy, federation = config.privacy, config.federation
    if privacy is None:
        return None
    share = _share(config, privacy) if privacy.noise == "distributed" else None
    added = privacy.sigma_units if share is None else share
    patients = federation.population * federation.sampling_rate
    return added / privacy.clip_units * math.sqrt(federation.sites * size) / patients


def kept_length(config: RunConfig, size: int) -> float:
    """Length, in C, of a gradient of norm C once it is clipped; 1 where nothing is.

    Rounding at random to the lattice of C / U, U = `privacy.clip_units`, lengthens a gradient that is spread over d
    values, by a variance of d / 6 or, where they are smaller than a step, by U sqrt(d); it is shortened until it fits.
    """
    if config.privacy is None:
        return 1.0
    units, root = config.privacy.clip_units, math.sqrt(size)
    small = (math.sqrt(size + 4 * units**2) - root) / (2 * units)
    return max(small, math.sqrt(max(0.0, 1 - size / (6 * units**2))))


def drowns(config: RunConfig, size: int) -> bool:
    """Whether nothing is known to be learnt through so much noise on the mean, beside what of a gradient is kept."""
    noise = noise_on_mean(config, size)
    return noise is not None and noise > _LEARNT * kept_length(config, size)


def mechanism_lines(config: RunConfig, delta: float, size: int | None = None) -> list[tuple[str, str]]:
    """Return all of it in words, each with its label; of a known adapter also what the noise does to the mean."""
    lines = [("sums", sums_text(config))]
    sites = config.federation.sites
    for one in noisings(config, delta):
        told = f"{one.kind}{', as this run' if one.stated else ''}: "
        if one.epsilon is None:
            lines.append(("noise", f"{told}nothing is charged, and no epsilon holds"))
            continue
        told += f"epsilon {one.epsilon:.4g} for all gradients; the sum of {sites} sites holds {one.in_sum:.3g} sigma C"
        if one.kind == "distributed":
            many = _conspirators(sites) + 1
            told += f"; where {many} sites conspire with the coordinator, epsilon {one.if_opened:.4g}"
        lines.append(("noise", told))
    noise = None if size is None else noise_on_mean(config, size)
    return lines if size is None or noise is None else [*lines, ("mean", _mean_text(config, size, noise))]


def _mean_text(config: RunConfig, size: int, noise: float) -> str:
    assert config.privacy is not None
    patients, kept = config.federation.population * config.federation.sampling_rate, kept_length(config, size)
    told = f"of {patients:.4g} patients a step, the noise on their mean is {noise:.3g} C long, a gradient at most "
    told += "C" if kept >= WHOLE else f"{kept:.2g} C"
    if kept < WHOLE:
        told += (
            f". privacy.clip_units {config.privacy.clip_units} are few for an adapter of {size} values: with "
            f"{math.isqrt(size) + 1} or more a gradient keeps its length"
        )
    if drowns(config, size):
        told += (
            f". Nothing is known to be learnt through noise of more than {_LEARNT:g} times a gradient: the run would "
            "spend budget and teach nothing; more patients a step, or an adapter of fewer values, make it less"
        )
    return told


def sums_text(config: RunConfig) -> str:
    """Say who learns what of a round's sums."""
    federation = config.federation
    whole = opening(config, federation.sites)
    if whole is None:
        return "plain: the coordinator sees the sum of each site"
    told = f"secure: the coordinator sees the sum of all; {_of(whole)}"
    fewest = max(config.quorum, FEWEST)
    least = opening(config, fewest)
    return told if least is None or fewest == federation.sites else f"{told}. In the smallest round, {_of(least)}"


def mechanism_document(config: RunConfig, delta: float, size: int | None = None) -> dict[str, Any]:
    """Return all of it for a program."""
    whole = opening(config, config.federation.sites)
    return {
        "aggregation": config.federation.aggregation,
        "opening": None if whole is None else asdict(whole),
        "noise": [_finite(asdict(one)) for one in noisings(config, delta)],
        "noise_on_mean": None if size is None else noise_on_mean(config, size),
        "kept_length": None if size is None else kept_length(config, size),
    }


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """Return it as JSON can: null is no bound."""
    return {name: None if value == math.inf else value for name, value in values.items()}


def _of(one: Opening) -> str:
    return (
        f"of {one.sites} sites, {one.threshold} open it, {one.lost} may be lost, and {one.conspirators} that conspire"
        " with the coordinator learn no other site's"
    )


def _share(config: RunConfig, privacy: PrivacyConfig) -> int | None:
    """Return a site's share of the noise, in units; None where the sites of this run cannot share it.

    A run of local noise states no colluders: one is taken, for every site knows its own share.
    """
    sites = config.federation.sites
    colluders = privacy.colluders or (1 if privacy.noise == "local" else 0)
    possible = config.federation.protocol == "fedsgd" and sites >= FEWEST
    if not possible or not 1 <= colluders <= most_colluders(sites) or colluders + privacy.dropouts >= sites:
        return None
    return share_sigma(privacy.sigma_units, sites=sites, colluders=colluders, dropouts=privacy.dropouts)


def _costs(config: RunConfig, delta: float) -> Costs:
    from common.accounting import epsilon, rdp

    rate, steps = config.federation.sampling_rate, config.private_steps
    return lambda sigma: epsilon(rdp(noise_multiplier=sigma, sampling_rate=rate, steps=steps), delta)
