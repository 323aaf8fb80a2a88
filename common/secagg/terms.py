"""Numbers of a secure sum: how many sites it takes, how wide it is, and each site's share of the noise.

The run states the terms. The limits are the site's own, and no message changes them. Nothing states a threshold: every
site computes it from the cohort.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from common.config import RunConfig
from common.errors import Code, FedReasonError
from common.secagg.masks import Bits

FEWEST = 3
"""With two sites each knows the other's sum."""


def threshold(cohort: int) -> int:
    """Return t = floor(2 n / 3) + 1: how many sites must sign one survivor set, and reveal, to unmask a sum.

    No site's own sum can be unmasked while fewer than 2 t - n sites collude with the coordinator, and the sum is found
    while at most n - t are lost (Bonawitz et al. 2017, theorem 6.5).
    """
    return 2 * cohort // 3 + 1


def most_colluders(cohort: int) -> int:
    """Return how many sites may collude with the coordinator, so that they still unmask no single site's sum."""
    return 2 * threshold(cohort) - cohort - 1


@dataclass(frozen=True)
class Noise:
    """Noise that the sites share.

    Attributes
    ----------
    sigma_units
        sigma C in lattice units: what one trusted server would add.
    colluders
        c: sites that may tell each other their shares; at least 1, because every site knows its own.
    dropouts
        d: sites that may be lost after the shares were fixed.
    """

    sigma_units: int
    colluders: int
    dropouts: int

    def share(self, sites: int) -> int:
        """Return each site's standard deviation, in units, where `sites` shared keys."""
        return share_sigma(self.sigma_units, sites=sites, colluders=self.colluders, dropouts=self.dropouts)


@dataclass(frozen=True)
class Terms:
    """What is summed, alike at all sites: how many integers, modulo 2^bits, with what noise (None: none), of whom.

    `floor` is of how many sites the total must be: the run's quorum, which no site's policy lets be below its own
    `min_sites`. So each site keeps the others' floors too: a few with lower ones open nothing that is below another's.
    """

    size: int
    bits: Bits
    noise: Noise | None = None
    floor: int = FEWEST


def terms_of(config: RunConfig, size: int) -> Terms:
    """Return the terms of a run's sums of `size` integers."""
    privacy = config.privacy
    if privacy is None or privacy.noise == "local":
        return Terms(size, 32, floor=config.quorum)
    return Terms(size, 32, Noise(privacy.sigma_units, privacy.colluders, privacy.dropouts), config.quorum)


@dataclass(frozen=True)
class Limits:
    """What one site demands of every session.

    Attributes
    ----------
    cohort
        Fewest sites whose keys it takes, and of whose masked sums it unmasks the total.
    threshold
        Fewest sites that may unmask a sum.
    attempts
        Most sums of a round that it begins.
    most
        Most sites whose keys it takes: those that the run states, which everything about the run was judged by. With
        more each would add a smaller share of the noise than the smallest that was allowed.
    """

    cohort: int = 5
    threshold: int = FEWEST
    attempts: int = 3
    most: int | None = None

    def floor(self, terms: Terms) -> int:
        """Return of how many sites a total must be, whoever was lost on the way."""
        return max(self.cohort, terms.floor, FEWEST)

    def refuse_cohort(self, terms: Terms, cohort: int) -> None:
        """Refuse a cohort of so many sites.

        Raises
        ------
        FedReasonError
            SECAGG_COHORT where it is smaller, or protects less, than the site demands, or larger than the run states.
        """
        enough, noise = threshold(cohort), terms.noise
        most = most_colluders(cohort)
        if cohort < (fewest := self.floor(terms)):
            raise _refused(f"{cohort} sites take part, and this site asks for {fewest}")
        if self.most is not None and cohort > self.most:
            raise _refused(f"{cohort} sites take part, and the run states {self.most}")
        if enough < self.threshold:
            raise _refused(f"{enough} of {cohort} sites can unmask, and this site asks for {self.threshold}")
        if noise is not None and not 1 <= noise.colluders <= most:
            raise _refused(f"The run allows for {noise.colluders} colluders; with {cohort} sites it is 1 to {most}")


def _refused(what: str) -> FedReasonError:
    return FedReasonError(Code.SECAGG_COHORT, f"{what}.", "Have more sites take part; no message changes these limits.")


def fewest_survivors(terms: Terms, *, cohort: int, sharers: int) -> int:
    """Return of how many sites a sum must be: t, and with shared noise K - d."""
    noise = terms.noise
    return max(threshold(cohort), 0 if noise is None else sharers - noise.dropouts)


def share_variance(sigma_units: Fraction | float, *, sites: int, colluders: int, dropouts: int) -> Fraction:
    """Variance of the noise that one site adds to a secure sum, in units squared: sigma^2 / (K - c - d).

    The sum of the shares that are neither known to the c colluders nor lost with d dropouts then has at least variance
    sigma^2 (Kairouz, Liu and Steinke 2021, The Distributed Discrete Gaussian Mechanism). Their sum is not itself a
    discrete Gaussian, but for shares of 4 units or more nothing can tell (their term tau, a sum of
    10 exp(-2 pi^2 sigma^2 k / (k + 1)) over k = 1 .. K - 1, is below 1e-60).

    Parameters
    ----------
    sigma_units
        sigma C in lattice units: what a trusted centre would add.
    sites
        K: sites that shared keys in this session.
    colluders
        c: sites that may tell each other their shares.
    dropouts
        d: sites that may be lost after the shares were fixed.

    Raises
    ------
    FedReasonError
        DP_REFUSED where no site is left to hide anything, or there is no noise.
    """
    hiding = sites - colluders - dropouts
    if colluders < 0 or dropouts < 0 or hiding < 1:
        raise FedReasonError(
            Code.DP_REFUSED,
            f"{sites} sites cannot share noise and tolerate {colluders} colluders and {dropouts} dropouts.",
            "More sites must take part than privacy.colluders and privacy.dropouts together, and neither is negative.",
        )
    if not 0 < sigma_units < math.inf:
        raise FedReasonError(
            Code.DP_REFUSED,
            f"Noise with a standard deviation of {float(sigma_units)} lattice units cannot be shared.",
            "Choose privacy.noise_multiplier x privacy.clip_units above 0.",
        )
    return Fraction(sigma_units) ** 2 / hiding


def share_sigma(sigma_units: Fraction | float, *, sites: int, colluders: int, dropouts: int) -> int:
    """Return the smallest whole sigma, in units, whose square is at least `share_variance`."""
    variance = share_variance(sigma_units, sites=sites, colluders=colluders, dropouts=dropouts)
    return math.isqrt(math.ceil(variance) - 1) + 1
